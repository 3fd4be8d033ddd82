"""A training that is killed, stopped, moved or copied, at whatever moment, ends as one that nobody touched."""

import csv
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from lofa.errors import DataError, LofaError
from lofa.training import (
    AtomicCheckpointIO,
    Checkpoints,
    CsvLog,
    StopOnNonFinite,
    StopRequest,
    TrainingDiverged,
    TrainingStopped,
)
from tests.training.pieces import ToyBackbone, ToyBatch, ToyData, adapter_module, response_module

EVERY, STEPS = 2, 7


class Killed(BaseException):
    """What SIGKILL does, as far as one process can do it to itself."""


class KillAt(Callback):
    """Raises at the n-th call of a hook."""

    def __init__(self, hook: str, times: int, error: Callable[[], None]) -> None:
        self.left = times

        def called(*_: object) -> None:
            self.left -= 1
            if not self.left:
                error()

        setattr(self, hook, called)


def kill() -> None:
    raise Killed


def train(
    stage: int,
    run: Path,
    *,
    steps: int = STEPS,
    resume: bool = False,
    validated: bool = True,
    accumulate: int = 1,
    before: Callback | None = None,
    data: Callable[[ToyBackbone], ToyData] = ToyData,
) -> dict[str, Any]:
    """Trains into a folder as train.py does, and gives what it left: checkpoints, log, weights."""
    torch.manual_seed(0)
    backbone = ToyBackbone()
    module = (response_module if stage == 1 else adapter_module)(backbone)
    with StopRequest() as stop:
        checkpoints = Checkpoints(run / "checkpoints", EVERY, validated, stop)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulate,
            val_check_interval=EVERY * accumulate,
            check_val_every_n_epoch=None,
            limit_val_batches=None if validated else 0,
            num_sanity_val_steps=0,
            callbacks=[StopOnNonFinite(), *([before] if before else []), checkpoints],
            plugins=[AtomicCheckpointIO()],
            logger=CsvLog(str(run)),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data(backbone), ckpt_path=checkpoints.last if resume else None)
    best = checkpoints.find_best(trainer.global_step)
    return {
        "last": torch.load(checkpoints.last, weights_only=True),
        "best": None if best is None else torch.load(best, weights_only=True),
        "log": (run / "csv" / "metrics.csv").read_text(),
        "weights": {name: value.detach().clone() for name, value in module.state_dict().items()},
        "score": checkpoints.score,
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal all through, tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What each stage leaves when nobody touches it."""
    runs = {stage: train(stage, tmp_path_factory.mktemp(f"calm{stage}")) for stage in (1, 2)}
    losses = [float(row["train/loss"]) for row in csv.DictReader(runs[1]["log"].splitlines()) if row["train/loss"]]
    assert len(losses) == STEPS and losses[-1] < losses[0] and runs[1]["best"]["global_step"] == 6
    return runs


MOMENTS = [
    ("on_train_batch_start", 4),
    ("on_before_optimizer_step", 3),
    ("on_before_optimizer_step", 4),
    ("on_train_batch_end", 4),  # the step is taken, its validation is not
    ("on_validation_start", 2),
    ("on_validation_batch_end", 3),  # in the middle of a validation
    ("on_validation_end", 2),
    ("on_train_batch_start", 7),
    ("on_validation_batch_end", 6),  # in the last one
    ("on_train_end", 1),
]


@pytest.mark.parametrize(
    ("stage", "hook", "times"), [(1, *moment) for moment in MOMENTS] + [(2, *moment) for moment in MOMENTS[::3]]
)
def test_a_killed_training_ends_as_one_that_was_not(
    stage: int, hook: str, times: int, calm: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(stage, tmp_path / "run", before=KillAt(hook, times, kill))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert_same(train(stage, tmp_path / "moved", resume=True), calm[stage])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_a_training_that_ended_goes_on_twice_and_in_a_copy(
    steps: int, calm: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    train(1, tmp_path / "first", steps=steps)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    shutil.rmtree(tmp_path / "first")
    train(1, tmp_path / "copy", steps=max(steps, 5), resume=True)
    assert_same(train(1, tmp_path / "copy", resume=True), calm[1])
    assert_same(train(1, tmp_path / "copy", resume=True), calm[1])  # there is nothing left to do


def test_a_training_killed_in_the_validation_of_its_last_step_validates(tmp_path: Path) -> None:
    whole = train(1, tmp_path / "whole", steps=6)
    with pytest.raises(Killed):
        train(1, tmp_path / "broken", steps=6, before=KillAt("on_validation_batch_end", 5, kill))
    assert_same(train(1, tmp_path / "broken", steps=6, resume=True), whole)


class Watched(Callback):
    """Notes which loop Lightning says runs, wherever one starts."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.seen.append(("step", trainer.training))

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.seen.append(("validation", trainer.validating))


def test_the_validation_of_a_resumed_run_is_one_to_whatever_looks(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(1, tmp_path, before=KillAt("on_validation_batch_end", 3, kill))
    watched = Watched()
    train(1, tmp_path, steps=5, resume=True, before=watched)
    assert watched.seen == [("validation", True)] * 2 + [("step", True)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(("hook", "times", "step"), [("on_train_batch_end", 3, 3), ("on_validation_batch_end", 2, 2)])
def test_a_signal_saves_first(
    number: signal.Signals, hook: str, times: int, step: int, calm: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(TrainingStopped, match=f"{number.name} after step {step}"):
        train(1, tmp_path, before=KillAt(hook, times, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is handler
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    assert_same(train(1, tmp_path, resume=True), calm[1])


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SystemExit):  # which Lightning makes of a KeyboardInterrupt
        train(1, tmp_path, before=KillAt("on_before_backward", 2, twice))


@pytest.mark.parametrize(("validated", "accumulate"), [(False, 1), (True, 2), (False, 2)])
def test_without_validation_and_with_accumulated_batches(validated: bool, accumulate: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"validated": validated, "accumulate": accumulate}
    whole = train(1, tmp_path / "whole", **options)
    assert (whole["best"] is None) == (not validated)
    with pytest.raises(Killed):
        train(1, tmp_path / "broken", before=KillAt("on_train_batch_end", 5 * accumulate - 1, kill), **options)
    assert_same(train(1, tmp_path / "broken", resume=True, **options), whole)


class Spoilt(ToyData):
    """Its fifth batch holds NaN."""

    def transfer_batch_to_device(self, batch: ToyBatch, device: torch.device, dataloader_idx: int) -> ToyBatch:
        if self.trainer.training and self.trainer.global_step == 4:
            batch.latents[0, 0, 0, 0, 0] = torch.nan
        return batch


def test_nan_stops_before_the_step_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="the loss is NaN or infinite at step 5"):
        train(2, tmp_path / "run", data=Spoilt)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4 and all(value.isfinite().all() for value in kept["state_dict"].values())
    healthy = train(2, tmp_path / "healthy", steps=4)
    assert_same(dict(kept["state_dict"]), healthy["weights"])


class Infinite(Callback):
    """Makes one gradient of the third step infinite, under a finite loss."""

    def on_after_backward(self, trainer: Trainer, module: Any) -> None:
        if trainer.global_step == 2:
            next(p for p in module.parameters() if p.grad is not None).grad.view(-1)[0] = torch.inf


def test_infinite_gradients_stop_before_the_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="the gradient is NaN or infinite at step 3"):
        train(1, tmp_path, before=Infinite())


class NoNumber(Callback):
    """Makes the loss of the first validation NaN."""

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.global_step == EVERY:
            trainer.callback_metrics["val/loss"].fill_(torch.nan)


def test_a_validation_without_a_number_is_no_best_one(calm: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    assert train(1, tmp_path, before=NoNumber())["score"] == calm[1]["score"]


def test_a_validation_without_a_number_gives_no_best(tmp_path: Path) -> None:
    with StopRequest() as stop:
        checkpoints = Checkpoints(tmp_path, EVERY, True, stop)
        with pytest.raises(LofaError, match="no validation gave a finite loss"):
            checkpoints.find_best(EVERY)
        assert checkpoints.find_best(EVERY - 1) is None
        checkpoints.load_state_dict({"score": 0.5, "rows": 3})
        best = checkpoints.find_best(EVERY)
        with pytest.raises(DataError, match=r"best\.ckpt: .*no such file"):
            AtomicCheckpointIO().load_checkpoint(best)


def test_a_process_started_by_another_leaves_stopping_to_it() -> None:
    with StopRequest(follower=True) as stop:
        try:
            for number in (signal.SIGUSR1, signal.SIGINT):
                signal.raise_signal(number)
        except KeyboardInterrupt:
            pytest.fail("it left by itself")
        assert stop.requested == signal.SIGINT


def test_a_checkpoint_is_written_beside_its_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"step": lambda: 2}, path)
    assert io.load_checkpoint(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_holds_code_is_not_opened(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "run by the checkpoint",)

    torch.save({"state_dict": Hostile()}, tmp_path / "last.ckpt")
    with pytest.raises(DataError, match=r"last\.ckpt: not a readable file of tensors alone"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "run by the checkpoint").exists()


def test_the_csv_log_goes_back_to_a_row(tmp_path: Path) -> None:
    def logged(log: CsvLog, steps: range) -> str:
        for step in steps:
            log.log_metrics({"train/loss": 0.1 * step} | ({"val/loss": 1 / 3} if step == 5 else {}), step)
        log.finalize("success")
        return log.file.read_text()

    whole = logged(CsvLog(str(tmp_path / "whole")), range(8))
    assert whole.splitlines()[0] == "step,train/loss,val/loss" and len(whole.splitlines()) == 9
    logged(CsvLog(str(tmp_path / "broken"), flush_every=1), range(7))
    again = CsvLog(str(tmp_path / "broken"))
    again.rewind(3)
    assert len(again.rows) == 3 and logged(again, range(3, 8)) == whole
    again.rewind(3)  # the column of what is cut goes too
    assert logged(again, range(3, 5)) == logged(CsvLog(str(tmp_path / "short")), range(5))
    logged(again, range(5, 8))
    older = CsvLog(str(tmp_path / "broken"))
    older.rewind(None)
    assert len(older.rows) == 8
