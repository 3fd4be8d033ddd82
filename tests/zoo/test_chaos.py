from pathlib import Path

import pytest

from tests.zoo.chaos import run


@pytest.mark.slow
def test_a_zoo_that_is_killed_ends_as_one_that_is_not(tmp_path: Path) -> None:
    found = run(rounds=3, seed=0, folder=tmp_path)
    assert sum(one.kills for one in found) >= 3, "the example should kill runs"
    assert found[0].quarantined and found[0].digests
