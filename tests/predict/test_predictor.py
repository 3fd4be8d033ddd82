import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from lofa.adapters import Adapter, LoraBatch
from lofa.backbones import Backbone, BackboneConfig, load_backbone
from lofa.conditions import ConditionEncoder, Padded, PoseEncoder, TextEncoder, compose
from lofa.errors import DataError, LofaError
from lofa.files import read_json, read_tensors, save_tensors, write_json
from lofa.hypernets import (
    AdapterConfig,
    AdapterNet,
    FrozenLayer,
    Part,
    Response,
    ResponseConfig,
    ResponseNet,
    SingleStage,
    TwoStage,
)
from lofa.hypernets.layers import prepare
from lofa.interop.quirks import quirky
from lofa.predict import Predictor, load_part, read_description, save_predictor
from tests.helpers import toy_text  # noqa: F401
from tests.helpers.tiny_wan import make_tiny_wan

PROMPTS = ["a figure waves the left arm", "the figure waves", "a right arm!"]


@pytest.fixture(scope="module")
def backbone(tiny_wan_random: Path) -> Backbone:
    return load_backbone(tiny_wan_random)


def frozen_layers(backbone: Backbone) -> list[FrozenLayer]:
    ids = zip(backbone.depth_ids.tolist(), backbone.kind_ids.tolist(), strict=True)
    return [FrozenLayer(y.name, backbone.weight(y.name), *own) for y, own in zip(backbone.layers, ids, strict=True)]


@torch.no_grad()
def by_hand(
    response: Part, adapter: Part, layers: list[FrozenLayer], read: Any, other: Any
) -> tuple[Response, LoraBatch]:
    """Both networks called one by one on layers of one shape, each with the condition that its encoder read."""
    (first,), (second,) = prepare([response.network, adapter.network], layers)
    made = response.network.respond(first, *read)
    return made, adapter.network.adapt(second, *other, made.tokens)


def stages(backbone: Backbone, encoder: Callable[[], ConditionEncoder], *quirks: str) -> tuple[Part, Part]:
    """Both stages with random weights, heads included."""
    torch.manual_seed(3)
    trunk = {"patch_size": 48, "d_model": 32, "n_heads": 2, "n_blocks": 2, "lora_rank": 2}
    spec = backbone.layers[0]
    sizes = {"shapes": [[spec.out_features, spec.in_features]], "num_depths": backbone.num_depths}
    sizes |= {"num_kinds": len(backbone.kinds), "context_width": encoder().width}
    values = quirky(sizes | trunk | {"response_width": 32, "read_after": (0, 1)}, quirks)
    response, adapter = ResponseNet(ResponseConfig.pick(values)), AdapterNet(AdapterConfig.pick(values))
    for network in (response, adapter):
        torch.nn.init.normal_(network.head.B[str(spec.out_features)].weight, std=0.1)
    torch.nn.init.normal_(adapter.head.scale.linear.weight)
    return Part(response, encoder()), Part(adapter, encoder())


@pytest.fixture(scope="module")
def text_run(backbone: Backbone, tiny_wan_random: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the predictor of a text task."""
    run = tmp_path_factory.mktemp("text-run")
    response, adapter = stages(backbone, lambda: TextEncoder(width=backbone.condition_width))
    save_predictor(
        run / "predictor",
        backbone,
        conditions=["text"],
        hypernet=TwoStage(response=response, adapter=adapter),
        backbone_path=tiny_wan_random,
    )
    return run


@pytest.fixture(scope="module")
def pose_run(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pose-run")
    response, adapter = stages(backbone, lambda: PoseEncoder(joints=5, width=16, channels=8, layers=2))
    save_predictor(
        run / "predictor", backbone, conditions=["pose"], hypernet=TwoStage(response=response, adapter=adapter)
    )
    return run


@pytest.fixture
def damaged(text_run: Path, tmp_path: Path) -> Path:
    """A copy of the text predictor that a test may spoil."""
    folder = tmp_path / "predictor"
    folder.mkdir()
    for file in (text_run / "predictor").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def equal(one: Adapter, other: Adapter) -> bool:
    return list(one) == list(other) and all(
        torch.equal(getattr(one[name], part), getattr(other[name], part))
        for name in one
        for part in ("A", "B", "alpha")
    )


def test_saved_and_loaded_predicts_what_the_networks_do(backbone: Backbone, text_run: Path) -> None:
    response, adapter = stages(backbone, lambda: TextEncoder(width=backbone.condition_width))
    condition = backbone.encode_prompt(PROMPTS[:1])
    read = condition.tokens, condition.lengths
    _, expected = by_hand(response, adapter, frozen_layers(backbone), read, read)
    loaded = Predictor.load(text_run).predict(PROMPTS[0])  # loads the backbone it names
    assert list(loaded) == [layer.name for layer in backbone.layers]
    for i, name in enumerate(loaded):
        assert torch.equal(loaded[name].A, expected.A[0, i]) and torch.equal(loaded[name].B, expected.B[0, i])
        assert torch.equal(loaded[name].alpha, expected.alpha[0, i])
    assert loaded.metadata["prompt"] == PROMPTS[0] and loaded.metadata["backbone_fingerprint"] == backbone.fingerprint


def test_quirks_go_through_the_files(backbone: Backbone, tmp_path: Path) -> None:
    made = stages(backbone, lambda: TextEncoder(width=backbone.condition_width), "columns", "softplus", "padding")
    hypernet = TwoStage(response=made[0], adapter=made[1])
    save_predictor(tmp_path, backbone, conditions=["text"], hypernet=hypernet)
    quirky = Predictor.load(tmp_path, backbone=backbone)
    maps = quirky.response_map(PROMPTS[0])
    assert isinstance(maps, dict) and min(float(value.min()) for value in maps.values()) > 0.45
    description = read_json(tmp_path / "predictor.json")
    for part in description["hypernet"]["parts"].values():
        part["network"] |= {"normalisation": "matrix", "padding": "masked"}
    write_json(tmp_path / "predictor.json", description)
    plain = Predictor.load(tmp_path, backbone=backbone)
    assert not equal(quirky.predict(PROMPTS[0]), plain.predict(PROMPTS[0]))


def test_a_layer_table_that_does_not_fit_is_refused(text_run: Path, tmp_path: Path, backbone: Backbone) -> None:
    copytree(text_run / "predictor", tmp_path / "predictor")
    file = tmp_path / "predictor" / "predictor.json"
    for key, value, message in (("depth", 99, "depth must lie in"), ("name", "transformer.nowhere", "lacks the layer")):
        description = read_json(text_run / "predictor" / "predictor.json")
        description["backbone"]["layers"][1][key] = value
        write_json(file, description)
        with pytest.raises(LofaError, match=message) as error:
            Predictor.load(tmp_path, backbone=backbone)
        assert str(tmp_path) in str(error.value)


def test_response_tokens_are_what_stage_two_reads(backbone: Backbone, text_run: Path) -> None:
    predictor = Predictor.load(text_run, backbone=backbone)
    one, many = predictor.response_tokens(PROMPTS[0]), predictor.response_tokens(PROMPTS)
    assert isinstance(one, dict) and isinstance(many, list) and len(many) == len(PROMPTS)
    assert list(one) == [layer.name for layer in backbone.layers]
    part = load_part(read_description(text_run), "response")
    ((first,),) = prepare([part.network], frozen_layers(backbone))
    condition = backbone.encode_prompt(PROMPTS[:1])
    read = part.read({"text": Padded(condition.tokens, condition.lengths)})
    expected = part.network.respond(first, *read).tokens[0]
    torch.testing.assert_close(torch.stack(list(one.values())), expected)


def test_run_and_predictor_folder_are_the_same(backbone: Backbone, text_run: Path) -> None:
    one, other = (Predictor.load(path, backbone=backbone) for path in (text_run, text_run / "predictor"))
    assert equal(one.predict(prompt=PROMPTS[1]), other.predict(prompt=PROMPTS[1]))


def test_a_list_gives_a_list_and_batches_do_not_matter(backbone: Backbone, text_run: Path) -> None:
    predictor = Predictor.load(text_run, backbone=backbone)
    together = predictor.predict(PROMPTS * 6)  # more than go through at once
    assert isinstance(together, list) and len(together) == 18
    for prompt, adapter in zip(PROMPTS * 6, together, strict=True):
        alone = predictor.predict(prompt)
        assert isinstance(alone, Adapter)
        for name in alone:
            torch.testing.assert_close(adapter.delta_weight(name), alone.delta_weight(name), rtol=1e-4, atol=1e-6)
    assert len(predictor.predict(PROMPTS[:1])) == 1
    with pytest.raises(LofaError, match="an empty list; give at least one prompt"):
        predictor.predict([])


def test_response_map_is_a_probability_of_every_layer(backbone: Backbone, text_run: Path) -> None:
    maps = Predictor.load(text_run, backbone=backbone).response_map(PROMPTS[0])
    assert list(maps) == [layer.name for layer in backbone.layers]
    for layer in backbone.layers:
        assert maps[layer.name].shape == (layer.out_features, layer.in_features)
        assert maps[layer.name].min() > 0 and maps[layer.name].max() < 1


def test_adapter_goes_through_a_file_onto_the_backbone(backbone: Backbone, text_run: Path, tmp_path: Path) -> None:
    adapter = Predictor.load(text_run, backbone=backbone).predict(PROMPTS[0])
    adapter.save(tmp_path / "x.safetensors")
    read = Adapter.load(tmp_path / "x.safetensors")
    for name in adapter:
        torch.testing.assert_close(read.delta_weight(name), adapter.delta_weight(name), rtol=1e-6, atol=1e-9)
    latents, condition = torch.randn(1, 16, 2, 4, 4), backbone.encode_prompt(PROMPTS[:1])
    noise = torch.randn(latents.shape)
    losses = [
        backbone.denoising_loss(latents, condition, a, noise_level=torch.tensor([0.7]), noise=noise)
        for a in (adapter, None)
    ]
    assert not torch.equal(*losses)


def test_another_backbone_is_refused(text_run: Path, tmp_path: Path) -> None:
    other = load_backbone(make_tiny_wan(tmp_path / "another", seed=1))
    with pytest.raises(
        LofaError, match=rf"{text_run}.*trained for the backbone 'tiny-wan-random'.*{other.fingerprint}"
    ):
        Predictor.load(text_run, backbone=other)


def test_one_stage_alone_serves_stage_two_but_does_not_predict(
    backbone: Backbone, text_run: Path, tmp_path: Path
) -> None:
    response, _ = stages(backbone, lambda: TextEncoder(width=backbone.condition_width))
    save_predictor(tmp_path / "predictor", backbone, conditions=["text"], hypernet=TwoStage(response=response))
    with pytest.raises(LofaError, match="stage=2"):
        Predictor.load(tmp_path, backbone=backbone)
    description = read_description(tmp_path)
    loaded = load_part(description, "response")
    assert description.conditions == ("text",) and not any(p.requires_grad for p in loaded.network.parameters())
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in response.network.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "takes prompt=.*got nothing"),
        ({"prompt": "a", "pose": np.zeros((3, 5, 2))}, "takes prompt=; got prompt, pose"),
        ({"pose": np.zeros((3, 5, 2))}, "takes prompt=.*got pose"),
        ({"image": "face.png"}, "takes prompt=; got image"),
    ],
)
def test_exactly_what_the_predictor_takes(
    arguments: dict[str, object], message: str, backbone: Backbone, text_run: Path
) -> None:
    predictor = Predictor.load(text_run, backbone=backbone)
    for call in (predictor.predict, predictor.response_map):
        with pytest.raises(LofaError, match=message):
            call(**arguments)


def test_pose_as_array_and_file(backbone: Backbone, pose_run: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(pose_run, backbone=backbone)
    pose = np.random.default_rng(0).normal(size=(7, 5, 2))
    np.save(tmp_path / "p.npy", pose)
    np.savez(tmp_path / "one.npz", pose)
    np.savez(tmp_path / "named.npz", keypoints=pose, labels=np.zeros(7))
    write_json(tmp_path / "p.json", pose.tolist())
    expected = predictor.predict(pose=pose)
    assert isinstance(expected, Adapter) and "prompt" not in expected.metadata
    for given in (torch.from_numpy(pose), *(tmp_path / name for name in ("p.npy", "one.npz", "named.npz", "p.json"))):
        assert equal(predictor.predict(pose=given), expected)
    shorter = predictor.predict(pose=[pose[:4], str(tmp_path / "p.npy")])
    torch.testing.assert_close(
        shorter[1].delta_weight(next(iter(expected))), expected.delta_weight(next(iter(expected)))
    )
    with pytest.raises(LofaError, match="takes pose="):
        predictor.predict("a figure waves")


def test_each_stage_reads_through_its_own_encoder(backbone: Backbone, pose_run: Path) -> None:
    """Beside the networks called one by one, with encoders of different weights."""
    response, adapter = stages(backbone, lambda: PoseEncoder(joints=5, width=16, channels=8, layers=2))
    pose = torch.randn(1, 7, 5, 2, generator=torch.Generator().manual_seed(0))
    first, second = (stage.encoder({"pose": Padded(pose, torch.tensor([7]))}) for stage in (response, adapter))
    assert not torch.allclose(first[0], second[0], atol=1e-2)
    made, expected = by_hand(response, adapter, frozen_layers(backbone), first, second)
    predictor = Predictor.load(pose_run, backbone=backbone)
    found, maps, tokens = (
        f(pose=pose[0]) for f in (predictor.predict, predictor.response_map, predictor.response_tokens)
    )
    for i, name in enumerate(found):
        torch.testing.assert_close(tokens[name], made.tokens[0, i])
        torch.testing.assert_close(maps[name], made.probability()[0, i])
        for part in ("A", "B", "alpha"):
            torch.testing.assert_close(getattr(found[name], part), getattr(expected, part)[0, i])


@pytest.fixture
def both(backbone: Backbone, tmp_path: Path) -> Path:
    """A predictor of texts and poses."""

    def encoder() -> ConditionEncoder:
        text = TextEncoder(width=backbone.condition_width)
        return compose({"text": text, "pose": PoseEncoder(joints=5, width=text.width, channels=8, layers=2)})

    response, adapter = stages(backbone, encoder)
    save_predictor(
        tmp_path, backbone, conditions=["text", "pose"], hypernet=TwoStage(response=response, adapter=adapter)
    )
    return tmp_path


def test_several_conditions_are_read_together_or_any_of_them(backbone: Backbone, both: Path) -> None:
    predictor = Predictor.load(both, backbone=backbone)
    assert predictor.conditions == ("text", "pose") and predictor.arguments == ("prompt", "pose")
    assert {name.split(".")[1] for name in read_tensors(both / "adapter.safetensors") if "encoder" in name} == {
        "encoders",
        "kinds",
    }
    poses = [torch.randn(frames, 5, 2, generator=torch.Generator().manual_seed(frames)) for frames in (7, 4, 5)]
    together = predictor.predict(PROMPTS, pose=poses)
    for i, (prompt, pose) in enumerate(zip(PROMPTS, poses, strict=True)):
        alone = predictor.predict(prompt, pose=pose)
        for name in alone:
            torch.testing.assert_close(together[i].delta_weight(name), alone.delta_weight(name), rtol=1e-4, atol=1e-6)
    name = next(iter(together[0]))
    deltas = [predictor.predict(**given)[0].delta_weight(name) for given in ({"prompt": PROMPTS}, {"pose": poses})]
    assert not any(torch.allclose(together[0].delta_weight(name), delta, rtol=1e-3) for delta in deltas)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "takes prompt=, pose=.*got nothing"),
        ({"prompt": "a", "image": "x.png"}, "takes prompt=, pose=; got prompt, image"),
        ({"prompt": ["a", "b"], "pose": np.zeros((3, 5, 2))}, "as many of each; got 2 of prompt= and 1 of pose="),
        ({"prompt": ["a", "b"], "pose": [np.zeros((3, 5, 2))]}, "as many of each; got 2 of prompt= and 1 of pose="),
        ({"prompt": [], "pose": []}, "at least one prompt and pose"),
    ],
)
def test_conditions_that_do_not_go_together(
    given: dict[str, object], message: str, backbone: Backbone, both: Path
) -> None:
    with pytest.raises(LofaError, match=message):
        Predictor.load(both, backbone=backbone).predict(**given)


def test_an_encoder_of_one_s_own_is_found_where_it_is_imported(backbone: Backbone, both: Path) -> None:
    description = read_json(both / "predictor.json")
    for part in description["hypernet"]["parts"].values():
        spec = part["encoders"]["text"]
        spec["class"] = "tests.helpers.toy_text.ScaledText"
        spec["config"]["scale"] = 2.0
    write_json(both / "predictor.json", description)
    own = Predictor.load(both, backbone=backbone)  # imported above
    assert own.predict(PROMPTS[0])
    save_predictor(both, backbone, conditions=own.conditions, hypernet=own.hypernet)
    assert read_json(both / "predictor.json")["hypernet"] == description["hypernet"]
    description["hypernet"]["parts"]["response"]["encoders"]["text"]["class"] = "antigravity.Encoder"
    write_json(both / "predictor.json", description)
    with pytest.raises(DataError, match="'antigravity.Encoder' is not one of .*import one of your own first"):
        Predictor.load(both, backbone=backbone)


def test_layers_of_several_shapes_stay_in_the_backbone_s_order(tiny_wan_random: Path, tmp_path: Path) -> None:
    """Layers go through the networks shape by shape; each comes back under its own name, in its own place."""
    kinds = ("attn1.to_q", "ffn.net.0.proj", "attn2.to_v", "ffn.net.2")
    backbone = load_backbone(BackboneConfig(name="mixed", path=str(tiny_wan_random), kinds=kinds))
    shapes = sorted({(layer.out_features, layer.in_features) for layer in backbone.layers})
    assert len(shapes) == 3
    torch.manual_seed(0)
    sizes = {"shapes": shapes, "num_depths": 2, "num_kinds": 4, "context_width": backbone.condition_width}
    trunk = {"patch_size": 32, "d_model": 32, "n_heads": 2, "n_blocks": 1, "lora_rank": 2}
    values = sizes | trunk | {"response_width": 32, "read_after": (0,)}
    networks = ResponseNet(ResponseConfig.pick(values)), AdapterNet(AdapterConfig.pick(values))
    for head in (module for network in networks for module in network.head.B.values()):
        torch.nn.init.normal_(head.weight, std=0.1)
    torch.nn.init.normal_(networks[1].head.scale.linear.weight)
    response, adapter = (Part(network, TextEncoder(width=backbone.condition_width)) for network in networks)
    save_predictor(tmp_path, backbone, conditions=["text"], hypernet=TwoStage(response=response, adapter=adapter))
    predictor, condition = Predictor.load(tmp_path, backbone=backbone), backbone.encode_prompt(PROMPTS)
    found, maps, tokens = (f(PROMPTS) for f in (predictor.predict, predictor.response_map, predictor.response_tokens))
    for row in range(len(PROMPTS)):
        for result in (found[row], maps[row], tokens[row]):
            assert list(result) == [layer.name for layer in backbone.layers]
    layers = frozen_layers(backbone)
    for i, layer in enumerate(backbone.layers):
        read = condition.tokens, condition.lengths
        made, expected = by_hand(response, adapter, [layers[i]], read, read)
        delta = expected.alpha[:, 0, None, None] * expected.B[:, 0] @ expected.A[:, 0]
        for row in range(len(PROMPTS)):
            torch.testing.assert_close(tokens[row][layer.name], made.tokens[row, 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(maps[row][layer.name], made.probability()[row, 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[row].delta_weight(layer.name), delta[row], rtol=1e-4, atol=1e-6)


def test_bad_poses_name_what_is_wrong(backbone: Backbone, pose_run: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(pose_run, backbone=backbone)
    hole = np.zeros((4, 5, 2))
    hole[2, 1, 0] = np.nan
    (tmp_path / "text.npy").write_text("nothing")
    np.savez(tmp_path / "two.npz", a=hole, b=hole)
    np.save(tmp_path / "hole.npy", hole)
    cases = [
        (np.zeros((4, 6, 2)), r"\(4, 6, 2\).*\(frames, 5, 2\)"),
        (np.zeros((0, 5, 2)), r"\(0, 5, 2\)"),
        (hole, "^pose: frame 2 holds a joint that is not a finite number"),
        (np.where(np.isnan(hole), np.inf, hole), "^pose: frame 2 holds a joint that is not a finite number"),
        (tmp_path / "hole.npy", r"hole\.npy: frame 2 holds a joint"),
        (tmp_path / "none.npy", "none.npy: no such file"),
        (tmp_path / "text.npy", "text.npy: can't be read"),
        (tmp_path / "two.npz", "two.npz: holds a, b"),
        (tmp_path / "x.mp4", r"x.mp4: the ending '.mp4'"),
    ]
    for pose, message in cases:
        with pytest.raises(DataError, match=message):
            predictor.predict(pose=pose)


def test_no_predictor_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Predictor.load(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match=r"no predictor.json here .*checkpoints"):
        Predictor.load(tmp_path)


def test_damaged_files_are_refused_by_name(damaged: Path, backbone: Backbone) -> None:
    def spoilt(change: Callable[[], None], message: str) -> None:
        before = {file: file.read_bytes() for file in damaged.iterdir()}
        change()
        with pytest.raises(DataError, match=message):
            Predictor.load(damaged, backbone=backbone)
        for file, content in before.items():
            file.write_bytes(content)

    def entry(value: object, *keys: str) -> None:
        content = read_json(damaged / "predictor.json")
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (damaged / "predictor.json").write_text(json.dumps(content))

    weights = damaged / "adapter.safetensors"
    part = ("hypernet", "parts", "adapter")
    spoilt(lambda: weights.write_bytes(weights.read_bytes()[:1000]), "adapter.safetensors: not a whole safetensors")
    spoilt(weights.unlink, "adapter.safetensors: no such file")
    tensors = read_tensors(weights)
    broken = dict(tensors) | {"network.head.A.96.bias": tensors["network.head.A.96.bias"] * torch.nan}
    spoilt(lambda: save_tensors(weights, broken), "network.head.A.96.bias holds NaN")
    spoilt(lambda: save_tensors(weights, {"network.head.A.96.bias": torch.zeros(3)}), "does not fit predictor.json")
    spoilt(lambda: entry("os.system", "hypernet", "kind"), "'os.system' is none of two_stage, single_stage")
    spoilt(lambda: entry("os.system", *part, "encoders", "text", "class"), "class 'os.system' is not one of")
    spoilt(lambda: entry({"d_model": 3}, *part, "network"), "adapter can't be built")
    spoilt(lambda: entry("os.system", *part, "network", "head"), "head 'os.system' is none of published")
    spoilt(lambda: entry(7, "version"), "version 7")
    spoilt(lambda: entry("else", "format"), "not the description of a predictor")
    spoilt(lambda: entry({}, "backbone"), "damaged")
    spoilt(lambda: (damaged / "predictor.json").write_text("{"), "not a json file")


def test_networks_of_other_classes_are_not_saved(backbone: Backbone, tmp_path: Path) -> None:
    encoder = TextEncoder(width=64)
    with pytest.raises(TypeError, match="Linear is none of the classes"):
        hypernet = SingleStage(adapter=Part(torch.nn.Linear(1, 1), encoder))
        save_predictor(tmp_path / "p", backbone, conditions=["text"], hypernet=hypernet)
    assert not list(tmp_path.iterdir())


def test_a_single_stage_predicts_and_has_no_response_map(backbone: Backbone, tmp_path: Path) -> None:
    _, adapter = stages(backbone, lambda: TextEncoder(width=backbone.condition_width))
    values = asdict(adapter.network.config)
    made = SingleStage.fresh(2, values, TextEncoder(width=backbone.condition_width), {})
    torch.nn.init.normal_(made.trained.network.head.B["96"].weight, std=0.1)
    save_predictor(tmp_path, backbone, conditions=["text"], hypernet=made)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter.safetensors", "predictor.json"]
    predictor, condition = Predictor.load(tmp_path, backbone=backbone), backbone.encode_prompt(PROMPTS)
    ((only,),) = prepare([made.trained.network], frozen_layers(backbone))
    with torch.no_grad():
        expected = made.trained.network.adapt(only, condition.tokens, condition.lengths)
    for row, adapter in enumerate(predictor.predict(PROMPTS)):
        for i, name in enumerate(adapter):
            torch.testing.assert_close(adapter.delta_weight(name), expected.delta_weight()[row, i].detach())
    for ask in (predictor.response_map, predictor.response_tokens):
        with pytest.raises(LofaError, match=f"{tmp_path}: a single_stage predictor has no response map"):
            ask(PROMPTS[0])
    with pytest.raises(DataError, match="holds adapter but not response"):
        load_part(read_description(tmp_path), "response")
