import pytest

from tests.cli.chaos import main_chaos


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rounds"), [("prepare", 3), ("train", 3), ("ddp", 1), ("fsdp", 1)])
def test_a_command_that_is_killed_ends_as_one_that_is_not(
    kind: str, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    main_chaos(["--only", kind, "--rounds", str(rounds)])
    assert f"{kind}: {rounds} rounds" in capsys.readouterr().out
