import pytest

from lofa.errors import ConfigError
from lofa.zoo import LoraOptions, ZooOptions


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("rank", {"rank": 0}),
        ("steps", {"steps": 0}),
        ("batch", {"batch": 0}),
        ("memory", {"memory": 0.0}),
        ("accumulate", {"accumulate": 3, "clips_per_step": 2}),
        ("lr", {"lr": 0.0}),
        ("lr", {"lr": float("nan")}),
        ("alpha", {"alpha": -1.0}),
        ("schedule", {"schedule": "linear"}),
        ("patience", {"patience": 2}),
        ("held_out", {"held_out": 2}),
        ("siblings", {"siblings": -1}),
        ("shard", {"shard": "0/2"}),
        ("shard", {"shard": "3/2"}),
        ("shard", {"shard": "2"}),
        ("shard", {"shard": "a/b"}),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"^{key}="):
        ZooOptions(**values)


def test_learning_rate_rises_then_follows_its_schedule() -> None:
    cosine = LoraOptions(steps=100, warmup=9, lr=1.0)
    assert [round(cosine.learning_rate(step), 3) for step in (0, 8, 9)] == [0.1, 0.9, 1.0]
    assert cosine.learning_rate(99) < 1e-3
    assert LoraOptions(steps=100, warmup=9, lr=1.0, schedule="constant").learning_rate(99) == 1.0


def test_batch_and_shard_are_no_part_of_the_recipe() -> None:
    assert ZooOptions(batch=2, memory=1.0, accumulate=2, shard="1/3").recipe() == ZooOptions().recipe()
    assert ZooOptions(rank=2).recipe() != ZooOptions().recipe()
