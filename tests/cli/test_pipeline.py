"""The commands one after the other, for real, on random models."""

import json
import os
import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from shutil import copytree

import av
import numpy as np
import pytest
import torch
from PIL import Image

import lofa
from lofa.cli import main
from lofa.data import read_samples
from lofa.errors import ConfigError
from lofa.files import read_tensors, save_tensors
from lofa.workflows import difference, load_earlier
from tests.cli.conftest import BACKBONE, JUDGES, SIZES, SMALL_NET
from tests.helpers.tiny_wan import make_tiny_wan

QUICK = (BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=3", "stages.s2.batch_size=3")


def test_a_run_explains_itself(pipeline: Path) -> None:
    run = pipeline / "runs" / "second"
    assert "max_steps: 2" in (run / "config.yaml").read_text()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__ and environment["command"]
    summary = json.loads((run / "run.json").read_text())
    assert summary["stage"] == 2 and summary["steps"] == 2 and summary["metrics"]["val/loss"] > 0
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert sorted(file.name for file in (run / "predictor").iterdir()) == [
        "adapter.safetensors",
        "predictor.json",
        "response.safetensors",
    ]


def test_a_run_is_not_resumed_with_other_networks(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copytree(pipeline / "runs" / "first", tmp_path / "first")
    before = (run / "config.yaml").read_bytes()
    with chdir(pipeline):
        assert main(["train", f"resume={run}", "hypernet.lora_rank=3", "stages.s1.max_steps=9"]) == 2
    assert (run / "config.yaml").read_bytes() == before
    message = capsys.readouterr().err
    assert "the checkpoint is of other networks" in message and "network.head.A.96.weight" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hypernet.quirks=[colums]", "'colums' is none of columns, softplus"),
        ("hypernet.quirks=[last_block]", "needs gradient_checkpointing=true"),
    ],
)
def test_a_quirk_that_can_do_nothing_is_refused(
    value: str, words: str, pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chdir(pipeline):
        assert main(["train", "stage=1", "name=quirky", *QUICK, value]) == 2
        assert not Path("runs/quirky").exists()
    assert "hypernet.quirks: " in (message := capsys.readouterr().err) and words in message


def test_layers_of_several_shapes_go_through_the_pipeline(prepared: Path, tmp_path: Path) -> None:
    shapes = (BACKBONE, "backbone.kinds=[attn1.to_q,ffn.net.0.proj,ffn.net.2]", f"paths.runs={tmp_path}")
    copytree(prepared / "data" / "world", tmp_path / "set", ignore=lambda folder, names: {"zoo"} & set(names))
    with chdir(prepared):
        values = (*shapes, f"data={tmp_path / 'set'}")
        assert main(["zoo", *values, "zoo.steps=2", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=1"]) == 0
        quick = (*SMALL_NET, "debug=fast", "stages.s1.batch_size=2", "stages.s2.batch_size=2", "stages.s2.clips=0")
        assert main(["train", "stage=1", "name=first", *values, *quick]) == 0
        assert main(["train", "stage=2", "name=second", *values, *quick]) == 0
        adapter = lofa.Predictor.load(tmp_path / "second").predict("a figure waves")
    kinds = {name.split(".", 3)[3] for name in adapter}
    assert kinds == {"attn1.to_q", "ffn.net.0.proj", "ffn.net.2"}
    assert len({tuple(adapter.delta_weight(name).shape) for name in adapter}) == 3


def test_a_zoo_is_verified(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copytree(pipeline / "data" / "world", tmp_path / "world")
    values = ("zoo", BACKBONE, f"data={tmp_path}/world")
    with chdir(pipeline):
        assert main([*values, "action=verify"]) == 0
        file = min((tmp_path / "world" / "zoo").glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-100])
        capsys.readouterr()
        assert main([*values, "action=verify"]) == 2
        shown = capsys.readouterr()
        assert f"{file}: sha256" in shown.out and "run `lofa zoo` again" in shown.out
        assert "problems, listed above" in shown.err
        assert main([*values, "action=verfy"]) == 2
        assert "one of build, retry, verify" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_shards_are_built_by_launchers(launcher: str, prepared: Path, tmp_path: Path) -> None:
    copytree(prepared / "data" / "world", tmp_path / "set", ignore=lambda folder, names: {"zoo"} & set(names))
    values = (BACKBONE, f"data={tmp_path / 'set'}", "zoo.steps=2", "zoo.warmup=1")
    # in a process of its own: joblib's pickling leaves copies of the schemas behind
    sweep = [sys.executable, "-m", "lofa.cli", "zoo", "-m", *values, "shard=1/2,2/2", f"hydra/launcher={launcher}"]
    environment = os.environ | {"PYTHONPATH": str(Path(lofa.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(sweep, cwd=prepared, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with chdir(prepared):
        assert main(["zoo", *values, "action=verify"]) == 0
    assert len(list((tmp_path / "set" / "zoo").glob("index-*-of-2.jsonl"))) == 2


def test_a_name_that_is_taken_is_refused(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(pipeline):
        assert main(["train", "stage=1", "name=first", *QUICK]) == 2
    assert "resume=runs/first" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_named(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(pipeline):
        assert main(["train", "stage=1", *QUICK, "trainer=gpu", f"paths.runs={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("train.py: trainer: ") and "gpu" in message.lower()


def test_a_resumed_run_keeps_its_groups(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(pipeline):
        assert main(["train", "resume=runs/first", "hypernet=paper"]) == 2
    assert "a run keeps its groups" in capsys.readouterr().err


def test_a_sweep_leaves_a_run_a_job(prepared: Path, tmp_path: Path) -> None:
    with chdir(prepared):
        values = ("stage=1", *QUICK, f"paths.runs={tmp_path}/a b, (c)", "trainer.enable_progress_bar=false")
        assert main(["train", "-m", *values, "hypernet.lora_rank=2,4"]) == 0
    runs = sorted(tmp_path.rglob("run.json"))
    assert len(runs) == 2
    for run, rank in zip(runs, (2, 4), strict=True):
        assert f"lora_rank: {rank}" in (run.parent / "config.yaml").read_text()


def test_predict_writes_what_the_predictor_predicts(pipeline: Path, tmp_path: Path) -> None:
    out, prompt = tmp_path / "it's, (x).safetensors", "a figure waves, (slowly)!"
    with chdir(pipeline):
        assert main(["predict", "predictor=runs/second", f"prompt={prompt}", f"out={out}"]) == 0
        expected = lofa.Predictor.load("runs/second").predict(prompt)
    written = lofa.Adapter.load(out)
    assert set(written) == set(expected)
    for name in written:
        torch.testing.assert_close(written.delta_weight(name), expected.delta_weight(name))
    assert written.metadata["prompt"] == prompt


def test_convert_and_inspect(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = next((pipeline / "data" / "world" / "zoo").glob("*.safetensors"))
    assert main(["convert", f"in={source}", f"out={tmp_path}/x.safetensors", "format=comfyui"]) == 0
    before, after = lofa.Adapter.load(source), lofa.Adapter.load(tmp_path / "x.safetensors")
    for name in before:
        torch.testing.assert_close(after.delta_weight(name), before.delta_weight(name))
    for path, words in {
        tmp_path / "x.safetensors": "adapter, comfyui format",
        pipeline / "data" / "world": "condition.pose",
        next((pipeline / "data" / "world" / "encoded").glob("*")): "sample",
        pipeline / "runs" / "second": "response, adapter",
    }.items():
        assert main(["inspect", f"path={path}"]) == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("format=kohya",), "rank 4, exact"),
        (("format=peft", "rank=9"), "rank 4, exact"),
        (("rank=2",), "rank 2, off by 0."),
        (("format=comfyui", "dtype=float8_e4m3fn"), "rank 4, off by 0.03"),
    ],
)
def test_convert_says_what_was_lost(
    values: tuple[str, ...], words: str, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        pipeline
        / "data"
        / "world"
        / "zoo"
        / sorted(entry.name for entry in (pipeline / "data/world/zoo").glob("*.s*"))[0]
    )
    before = lofa.Adapter.load(source)
    trained = lofa.Adapter({name: lofa.LowRank(p.A, torch.randn_like(p.B), p.alpha) for name, p in before.items()})
    trained.save(tmp_path / "trained.safetensors")
    out = tmp_path / ("x" if "format=peft" in values else "x.safetensors")
    assert main(["convert", f"in={tmp_path}/trained.safetensors", f"out={out}", *values]) == 0
    assert words in capsys.readouterr().out
    lost = trained.distance(lofa.Adapter.load(out))
    assert (lost < 1e-6) == words.endswith("exact")


def test_inspect_measures_an_adapter_beside_its_backbone(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    source = min((pipeline / "data" / "world" / "zoo").glob("*.safetensors"))
    make_tiny_wan(tmp_path / "other", seed=1)
    with chdir(pipeline):
        assert main(["inspect", f"path={source}", "layers=true", f"out={tmp_path}/change.png"]) == 0
        told = capsys.readouterr().out
        assert re.search(r"response map +│ \S+ of the entries move by more than 0.02", told)
        assert re.search(r"blocks\.1\.attn2\.to_v +│ 96x96, rank 4, .* of \|W\|, \S+ respond", told)
        with Image.open(tmp_path / "change.png") as picture:
            assert picture.format == "PNG" and picture.width > 900
        assert main(["inspect", f"path={source}", f"backbone={tmp_path}"]) == 2
        assert "model_index.json" in capsys.readouterr().err
    adapter = lofa.Adapter.load(source)
    for strength, word in ((0.0, "empty: "), (1e6, "huge: ")):
        scaled = {name: lofa.LowRank(p.A, p.B, p.alpha * strength) for name, p in adapter.items()}
        lofa.Adapter(scaled).save(tmp_path / "s.safetensors", overwrite=True)
        assert main(["inspect", f"path={tmp_path}/s.safetensors", f"backbone={tmp_path}/other"]) == 0
        assert word in capsys.readouterr().out
        assert main(["inspect", f"path={tmp_path}/s.safetensors"]) == 0
        assert "the file names none" in capsys.readouterr().out


def test_inspect_tells_foreign_and_damaged_adapters(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    pair = {f"{stem}.lora_down.weight": torch.ones(8, 768), f"{stem}.lora_up.weight": torch.ones(320, 8)}
    save_tensors(tmp_path / "sd.safetensors", {**pair, f"{stem}.alpha": torch.tensor(4.0)})
    assert main(["inspect", f"path={tmp_path}/sd.safetensors"]) == 0
    told = capsys.readouterr().out
    assert "kohya" in told and "Stable Diffusion 1.x" in told and "1 unet" in told
    source = next((pipeline / "data" / "world" / "zoo").glob("*.safetensors"))
    tensors = read_tensors(source)
    spoilt = {name: tensor * torch.nan if name == min(tensors) else tensor for name, tensor in tensors.items()}
    save_tensors(tmp_path / "nan.safetensors", spoilt)
    assert main(["inspect", f"path={tmp_path}/nan.safetensors"]) == 2
    assert "NaN" in capsys.readouterr().err


def test_a_set_goes_to_the_published_format_and_back(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published, predictor = tmp_path / "published", "predictor=runs/second"
    with chdir(pipeline):
        assert main(["convert", "in=data/world", f"out={published}", "format=reference", predictor]) == 0
        assert main(["prepare", f"source=reference:{published}", BACKBONE, f"data={tmp_path / 'back'}"]) == 0
        assert main(["convert", "in=data/world", f"out={published}"]) == 2
    assert "format=reference alone" in capsys.readouterr().err
    zoo, back = pipeline / "data" / "world" / "zoo", tmp_path / "back" / "zoo"
    assert len(list(back.glob("*.safetensors"))) == len(list(zoo.glob("*.safetensors")))
    assert len(list((published / "stage1").iterdir())) == len(list(back.glob("*.safetensors")))


def test_finetune_goes_on_from_an_adapter_and_writes_its_curve(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, values = (
        tmp_path / "tuned.safetensors",
        ("data=world", BACKBONE, "finetune.steps=3", "finetune.validate_every=1"),
    )
    group = next(sample.group for sample in read_samples(pipeline / "data" / "world") if sample.split == "test")
    init = next((pipeline / "data" / "world" / "zoo").glob("*.safetensors"))
    with chdir(pipeline):
        assert main(["finetune", *values, f"group={group}", f"init={init}", f"out={out}", "compare=true"]) == 0
        assert main(["finetune", *values, f"init={init}"]) == 2
        assert main(["finetune", *values, "group=nothing"]) == 2
        assert main(["finetune", *values, f"group={group}", "compare=true"]) == 2
    tuned = lofa.Adapter.load(out)
    assert tuned.metadata["init"] == str(init) and len(tuned) == len(lofa.Adapter.load(init))
    curves = json.loads(out.with_suffix(".json").read_text())["loss_of_unseen_clips"]
    assert {name: [step for step, _ in curve] for name, curve in curves.items()} == {
        "from init": [0, 1, 2, 3],
        "from nothing": [0, 1, 2, 3],
    }
    assert "<svg" in out.with_suffix(".html").read_text()
    message = capsys.readouterr().err
    for words in ("choose one with group=", "no such class", "give init=<adapter file>"):
        assert words in message


def test_generate_shows_base_adapted_and_their_difference(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = ("predictor=runs/second", "prompt=a figure waves", "steps=1")
    with chdir(pipeline):
        assert main(["generate", *values, f"out={tmp_path}/three.mp4", "compare=true"]) == 0
        assert re.search(r"base \| adapted \| difference x\d+; mean change \d+\.\d\d of 255", capsys.readouterr().out)
        assert main(["generate", *values, f"out={tmp_path}/one.gif", "fps=10"]) == 0
    sizes = {}
    for file in tmp_path.iterdir():
        with av.open(str(file)) as container:
            sizes[file.name] = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == {"three.mp4": [(32 + 4 + 32 + 4 + 32, 32)] * 5, "one.gif": [(32, 32)] * 5}


@pytest.mark.parametrize(("change", "factor"), [(0, 32), (1, 32), (7, 32), (8, 16), (100, 2), (200, 1)])
def test_a_difference_is_amplified_as_far_as_it_is_not_cut(change: int, factor: int) -> None:
    one = torch.full((2, 4, 4, 3), 20, dtype=torch.uint8)
    found, used = difference(one + change, one)
    assert used == factor and found.dtype == torch.uint8
    assert torch.equal(found, torch.full_like(one, change * factor))
    assert torch.equal(difference(one, one + change)[0], found)


def test_merge_makes_a_backbone_of_a_backbone_and_an_adapter(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = next((pipeline / "data" / "world" / "zoo").glob("*.safetensors"))
    with chdir(pipeline):
        assert main(["merge", f"adapter={adapter}", f"out={tmp_path}/merged", "strength=0.5"]) == 0
        assert main(["inspect", f"path={tmp_path}/merged"]) == 0
        assert adapter.name in capsys.readouterr().out
        assert main(["generate", "prompt=x", "steps=1", f"backbone={tmp_path}/merged", f"out={tmp_path}/x.gif"]) == 0
        assert main(["merge", f"adapter={adapter}", f"out={tmp_path}/again", f"backbone={tmp_path}/merged"]) == 2
    assert "made for the backbone" in capsys.readouterr().err and not (tmp_path / "again").exists()


def test_an_adapter_of_another_backbone_is_refused(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_wan(tmp_path / "other", seed=1)
    adapter = next((pipeline / "data" / "world" / "zoo").glob("*.safetensors"))
    with chdir(tmp_path):
        assert main(["generate", "prompt=x", f"adapter={adapter}", f"backbone={tmp_path}/other"]) == 2
        assert "made for the backbone" in capsys.readouterr().err
        larger = {name: lofa.LowRank(torch.ones(2, 8), torch.ones(8, 2), 1.0) for name in lofa.Adapter.load(adapter)}
        lofa.Adapter(larger).save("sizes.safetensors")
        for command in (["generate", "prompt=x"], ["merge", "out=merged"]):
            assert main([*command, "adapter=sizes.safetensors", f"backbone={tmp_path}/other"]) == 2
            message = capsys.readouterr().err
            assert "adapter=sizes.safetensors: " in message and "for one of (8, 8)" in message
        assert not Path("merged").exists()
        assert main(["train", "stage=1", f"data={pipeline}/data/world", *QUICK, f"backbone.path={tmp_path}/other"]) == 2
    assert "made for backbone" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", ["nan", "truncated", "caption"])
def test_damaged_sets_are_refused(
    damage: str, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(pipeline / "data" / "world", tmp_path / "world")
    file = min((tmp_path / "world" / "zoo").glob("*.safetensors"))
    if damage == "nan":
        save_tensors(file, {name: tensor * torch.nan for name, tensor in read_tensors(file).items()}, metadata(file))
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file = tmp_path / "world" / "samples.jsonl"
        file.write_text(file.read_text().replace('"caption": "', '"caption": "", "was": "', 1))
    with chdir(pipeline):
        values = ("zoo.per_group=2", "stages.s1.batch_size=6", "stages.s1.layers_per_sample=null")
        paths = (f"data={tmp_path}/world", f"paths.runs={tmp_path}/runs")
        assert main(["train", "stage=1", *QUICK, *values, *paths]) == 2
    message = capsys.readouterr().err
    assert str(file) in message and "Traceback" not in message


def metadata(file: Path) -> dict[str, str]:
    return lofa.files.read_metadata(file)


def test_eval_compares_and_reports(pipeline: Path) -> None:
    values = (
        "evaluation.draws=50",
        "evaluation.noise_levels=1",
        "baseline.steps=2",  # as it was called before conf/method
        "method.lora.warmup=1",
        "method.lora.repeats=1",
        "method.lora_shared.steps=2",
        "method.lora_shared.warmup=1",
    )
    with chdir(pipeline):
        methods = "methods=[base,lora,lora_shared,lofa,other,lofa_sibling,lofa_shuffled]"
        named = ("name=compared", "predictor=runs/second", "+predictors.other=runs/second")
        assert main(["eval", BACKBONE, *JUDGES, *values, methods, *named]) == 0
    metrics = json.loads((pipeline / "runs" / "compared" / "metrics.json").read_text())
    methods = ["base", "lora", "lora_shared", "lofa", "other", "lofa_sibling", "lofa_shuffled"]
    assert list(metrics["methods"]) == methods and "2 steps of" in metrics["methods"]["lora"]["seconds"]["how"]
    assert list(metrics["steering_margin"]) == ["lora", "lofa", "other", "lofa_sibling"]
    differences = metrics["differences"]["lofa_shuffled-lofa"]["denoising_loss"]
    assert metrics["steering_margin"]["lofa"] == differences
    assert metrics["methods"]["other"]["denoising_loss"] == metrics["methods"]["lofa"]["denoising_loss"]
    assert {"lofa-base", "lofa-lora", "lora-base"} <= set(metrics["differences"])
    report = (pipeline / "runs" / "compared" / "report.html").read_text()
    assert "stage 2 loss" in report and "Response maps" in report and 'src="data:' in report


def test_poses_train_and_evaluate(pipeline: Path, tmp_path: Path) -> None:
    poses = ("task=pose_action", *QUICK, "stages.s2.clips=0", "trainer.enable_progress_bar=false")
    with chdir(pipeline):
        assert main(["train", "stage=1", *poses]) == 0
        assert main(["train", "stage=2", *poses]) == 0
        quick = ("evaluation.draws=50", "evaluation.noise_levels=1", "task=pose_action", "name=poses")
        assert main(["eval", BACKBONE, *JUDGES, *quick, "methods=[base,lofa]"]) == 0
        np.save(tmp_path / "pose.npy", np.random.default_rng(0).random((9, 15, 2)))
        run = next(file.parent for file in Path("runs/pose_action").rglob("adapter.safetensors"))
        assert main(["predict", f"predictor={run}", f"pose={tmp_path}/pose.npy", f"out={tmp_path}/x.safetensors"]) == 0
        backbone = lofa.load_backbone(json.loads((run / "predictor.json").read_text())["backbone"]["path"])
        with pytest.raises(ConfigError, match=f"response={run.parent}: trained for pose of joints=15, the data have 6"):
            load_earlier(run.parent, ["response"], backbone, {"pose": torch.zeros(5, 6, 2)})
    assert len(lofa.Adapter.load(tmp_path / "x.safetensors")) == 16


def test_two_conditions_train_and_each_can_be_left_out(pipeline: Path, tmp_path: Path) -> None:
    own = "+task.conditions.text={_target_:tests.helpers.toy_text.ScaledText,scale:0.5}"
    both = ("task=pose_action", own, "task.conditions.pose.width=64", "task.name=both", *QUICK, "stages.s2.clips=0")
    with chdir(pipeline):
        assert main(["train", "stage=1", *both, "logger=csv"]) == 0
        assert main(["train", "stage=2", *both]) == 0
        (log,) = (file.read_text() for file in Path("runs/both").rglob("*.csv"))
        assert "train/condition_spread_text" in log and "train/condition_spread_pose" in log
        predictor = lofa.Predictor.load(next(Path("runs/both").rglob("adapter.safetensors")).parent)
    pose = np.random.default_rng(0).random((9, 15, 2))
    text, poses, together = (
        predictor.predict(**given)
        for given in ({"prompt": "a wave"}, {"pose": pose}, {"prompt": "a wave", "pose": pose})
    )
    assert len(together) == len(text) == len(poses) == 16 and together.metadata["prompt"] == "a wave"


METHODS = {"base", "lora", "lora_shared", "lofa", "lofa_shuffled", "lofa_sibling"}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text_action", "pose_action"])
def test_demo_runs_the_whole_pipeline(task: str, models: Path, tmp_path: Path) -> None:
    paths = (f"backbone.path={models}/wan", f"metrics.clip={models}/clip", f"metrics.video={models}/video")
    with chdir(tmp_path):
        assert main(["demo", "experiment=smoke", f"task={task}", *paths, *SIZES]) == 0
    demo = tmp_path / "runs" / "smoke"  # a run of its own: what `lofa demo` left is not touched
    assert not (tmp_path / "runs" / "demo").exists()
    assert set(json.loads((demo / "metrics.json").read_text())["methods"]) == METHODS
    assert {"report.html", "clip.mp4", "adapter.safetensors", "predictor"} <= {file.name for file in demo.iterdir()}
    with chdir(tmp_path):  # the demo's folder is a predictor too, though it is no run of stage 2
        again = ("name=again", "predictor=runs/smoke", "methods=[base,lofa_shuffled]")
        assert main(["eval", "experiment=smoke", f"task={task}", *paths, *SIZES, *again]) == 0
    assert (tmp_path / "runs" / "again" / "report.html").is_file()
