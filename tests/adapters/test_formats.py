import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lofa.adapters import Adapter, LowRank
from lofa.adapters.families.wan import WAN
from lofa.adapters.formats import FORMATS, detect_format
from lofa.adapters.formats.container import read_raw
from lofa.adapters.formats.foreign import recognise
from lofa.errors import AdapterFormatError, TargetError
from lofa.files import read_json, read_metadata, read_tensors, tensor_shapes

SUFFIX = {
    "diffusers": "a.safetensors",
    "comfyui": "a.safetensors",
    "kohya": "a.safetensors",
    "peft": "a",
    "reference": "a.pth",
}
WITH_ALPHA = ("comfyui", "kohya", "peft")
SD_LORA = Path(__file__).parents[2] / "../shared/assets/loras/sd15_lora_disney.safetensors"


def adapter(component: str = "transformer", dtype: torch.dtype = torch.float32) -> Adapter:
    """Every kind of layer, ranks and alphas that differ and are no powers of two."""
    generator = torch.Generator().manual_seed(0)
    pairs = {}
    for depth in (0, 1, 11):
        for index, kind in enumerate(WAN.kinds):
            rank = 3 + index % 3
            A, B = (torch.randn(*size, generator=generator).to(dtype) for size in ((rank, 10), (12, rank)))
            alpha = torch.tensor(0.1 + 0.037 * (depth + index))
            pairs[f"{component}.{WAN.layer_path(depth, kind)}"] = LowRank(A, B, alpha)
    return Adapter(pairs, {"prompt": "it's (here), now!", "rank": "3"})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip_is_exact(format: str, dtype: torch.dtype, tmp_path: Path) -> None:
    before = adapter(dtype=dtype)
    before.save(tmp_path / SUFFIX[format], format)
    after = Adapter.load(tmp_path / SUFFIX[format])
    assert set(after) == set(before)
    assert all(torch.equal(after.delta_weight(name), before.delta_weight(name)) for name in before)
    assert after.metadata == ({} if format == "reference" else before.metadata)
    assert [entry.name for entry in tmp_path.iterdir()] == [SUFFIX[format]]


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_conversion_between_any_two_formats(first: str, second: str, tmp_path: Path) -> None:
    before = adapter()
    before.save(tmp_path / "1" / SUFFIX[first], first)
    Adapter.load(tmp_path / "1" / SUFFIX[first]).save(tmp_path / "2" / SUFFIX[second], second)
    after = Adapter.load(tmp_path / "2" / SUFFIX[second])
    assert all(torch.equal(after.delta_weight(name), before.delta_weight(name)) for name in before)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1e-4, 1.0, 100.0])
def test_half_precision_keeps_the_delta_weight(format: str, dtype: torch.dtype, alpha: float, tmp_path: Path) -> None:
    """Also for an alpha that would push alpha * B out of float16's range."""
    pair = next(iter(adapter().values()))
    before = Adapter({"transformer.blocks.0.attn1.to_q": LowRank(pair.A, pair.B * 1e-2, torch.tensor(alpha))})
    before.save(tmp_path / SUFFIX[format], format, dtype)
    ((name, expected),) = before.items()
    stored = Adapter.load(tmp_path / SUFFIX[format])[name]
    assert stored.A.dtype == stored.B.dtype == dtype
    error = stored.to(dtype=torch.float32).delta_weight() - expected.delta_weight()
    assert error.norm() / expected.delta_weight().norm() < (1e-3 if dtype == torch.float16 else 8e-3)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_float8_keeps_the_delta_weight_wherever_alpha_has_room(format: str, size: float, tmp_path: Path) -> None:
    """Entries far outside float8's own range, A and B far from each other; 0.06 is 2^-4, its largest rounding error."""
    before = Adapter({name: LowRank(pair.A * size, pair.B, pair.alpha) for name, pair in adapter().items()})
    path = tmp_path / SUFFIX[format]
    if format not in WITH_ALPHA and size < 1.0:
        with pytest.raises(AdapterFormatError, match=r"layer .*blocks\.0.*float8.*format=comfyui"):
            before.save(path, format, torch.float8_e4m3fn)
        assert not list(tmp_path.iterdir())
        return
    before.save(path, format, torch.float8_e4m3fn)
    raw = read_raw(path)
    assert {tensor.dtype for tensor in raw.tensors.values() if tensor.ndim == 2} == {torch.float8_e4m3fn}
    after = Adapter.load(path)
    assert {pair.A.dtype for pair in after.values()} == {torch.float32}
    assert 0.01 < before.distance(after) < 0.06
    after.save(path, format, torch.float8_e4m3fn, overwrite=True)
    assert after.distance(Adapter.load(path)) < 1e-4  # what float8 holds, it holds again


def test_float8_of_an_empty_pair_is_empty(tmp_path: Path) -> None:
    empty = Adapter({"transformer.blocks.0.attn1.to_q": LowRank(torch.ones(2, 4), torch.zeros(4, 2), 1.0)})
    for format, suffix in SUFFIX.items():
        empty.save(tmp_path / format / suffix, format, torch.float8_e4m3fn)
        assert not Adapter.load(tmp_path / format / suffix).delta_weight("transformer.blocks.0.attn1.to_q").any()


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    large = Adapter({"transformer.blocks.0.attn1.to_q": LowRank(torch.full((2, 4), 1e5), torch.ones(4, 2), 1.0)})
    with pytest.raises(AdapterFormatError, match=r"blocks\.0\.self_attn\.q: float16 can't hold"):
        large.save(tmp_path / "a.safetensors", "comfyui", torch.float16)
    assert not list(tmp_path.iterdir())


def test_stored_names_and_alphas(tmp_path: Path) -> None:
    """What other tools rely on: alpha * r where the format divides by r, folded into B where it has no alpha."""
    pair = LowRank(torch.ones(4, 6), torch.ones(5, 4), torch.tensor(0.5))
    for format, suffix in SUFFIX.items():
        Adapter({"transformer.blocks.2.attn2.to_out.0": pair}).save(tmp_path / format / suffix, format)
    stem = "transformer.blocks.2.attn2.to_out.0"
    diffusers = read_tensors(tmp_path / "diffusers/a.safetensors")
    assert set(diffusers) == {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"}
    assert torch.equal(diffusers[f"{stem}.lora_B.weight"], torch.full((5, 4), 0.5))
    comfyui = read_tensors(tmp_path / "comfyui/a.safetensors")
    stem = "diffusion_model.blocks.2.cross_attn.o"
    assert set(comfyui) == {f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"}
    assert comfyui[f"{stem}.alpha"].item() == 2.0
    kohya = read_tensors(tmp_path / "kohya/a.safetensors")
    assert set(kohya) == {key.replace(stem, "lora_unet_blocks_2_cross_attn_o") for key in comfyui}
    assert read_json(tmp_path / "peft/a/adapter_config.json")["lora_alpha"] == 2.0
    reference = torch.load(tmp_path / "reference/a.pth", weights_only=True)
    stem = "blocks.2.cross_attn.o"
    assert set(reference) == {f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"}
    assert torch.equal(reference[f"{stem}.lora_B.default.weight"], torch.full((5, 4), 0.5))


def test_files_of_other_tools_are_read_without_our_header(tmp_path: Path) -> None:
    stem = "lora_unet_blocks_11_ffn_0"
    tensors = {
        f"{stem}.lora_down.weight": torch.ones(4, 6),
        f"{stem}.lora_up.weight": torch.ones(5, 4),
        f"{stem}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "k.safetensors")
    loaded = Adapter.load(tmp_path / "k.safetensors")
    assert torch.equal(loaded.delta_weight("transformer.blocks.11.ffn.net.0.proj"), torch.ones(5, 6))


def test_diffusers_header_scales_are_obeyed_and_not_written_on(tmp_path: Path) -> None:
    """diffusers writes alpha into a header entry; an entry carried over to another file would scale twice."""
    stem = "transformer.blocks.{}.attn1.to_q"
    tensors = {}
    for depth in (0, 1):
        tensors[f"{stem.format(depth)}.lora_A.weight"] = torch.ones(4, 6)
        tensors[f"{stem.format(depth)}.lora_B.weight"] = torch.ones(5, 4)
    entry = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.alpha_pattern": {"blocks.1.attn1.to_q": 8}}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt", "lora_adapter_metadata": json.dumps(entry)})
    loaded = Adapter.load(tmp_path / "a.safetensors")
    assert [loaded[stem.format(depth)].alpha.item() for depth in (0, 1)] == [0.5, 2.0]
    loaded.save(tmp_path / "b.safetensors")
    assert "lora_adapter_metadata" not in read_metadata(tmp_path / "b.safetensors")
    assert torch.equal(Adapter.load(tmp_path / "b.safetensors").delta_weight(stem.format(1)), torch.full((5, 6), 8.0))


def test_both_experts_are_one_file_of_diffusers_and_a_pair_of_every_other_format(tmp_path: Path) -> None:
    both = Adapter({**adapter("transformer"), **adapter("transformer_2")}, {"prompt": "waves"})
    assert both.save(tmp_path / "a.safetensors") == [tmp_path / "a.safetensors"]
    assert set(Adapter.load(tmp_path / "a.safetensors")) == set(both)
    for format, suffix in SUFFIX.items():
        if format == "diffusers":
            continue
        high, low = (tmp_path / format / suffix.replace("a", f"a-{part}", 1) for part in ("high", "low"))
        assert both.save(tmp_path / format / suffix, format) == [high, low]
        assert {path.name for path in (tmp_path / format).iterdir()} == {high.name, low.name}
        if format != "reference":  # which keeps no header, so that a file can't say which expert it is for
            assert set(Adapter.load(low)) == set(adapter("transformer_2"))
            assert Adapter.load(low).metadata == Adapter.load(high).metadata == both.metadata
        assert set(Adapter.load(high)) == set(adapter("transformer"))
        with pytest.raises(TargetError, match=high.name):
            both.save(tmp_path / format / suffix, format)
        low_alone = adapter("transformer_2")
        assert low_alone.save(tmp_path / "low" / format / suffix, format) == [tmp_path / "low" / format / suffix]
    odd = Adapter({**adapter("transformer"), **adapter("text_encoder")})
    with pytest.raises(AdapterFormatError, match=r"transformer, text_encoder.*format=diffusers"):
        odd.save(tmp_path / "b.safetensors", "comfyui")
    assert not (tmp_path / "b.safetensors").exists()


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(AdapterFormatError) as caught:
        Adapter.load(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "found nothing")
    adapter().save(tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    for length in (0, 4, 100, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        refused(tmp_path / "cut.safetensors")
    (tmp_path / "text.pth").write_text("no torch file")
    refused(tmp_path / "text.pth")
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "nested.pth")
    refused(tmp_path / "nested.pth", "dict of tensors")
    save_file({"encoder.weight": torch.ones(2)}, tmp_path / "foreign.safetensors")
    refused(tmp_path / "foreign.safetensors", "encoder.weight")
    save_file({}, tmp_path / "empty.safetensors")
    refused(tmp_path / "empty.safetensors", "0 tensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/adapter_config.json").write_text("{}")
    refused(tmp_path / "folder", "adapter_model.safetensors")


def test_a_torch_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    for name in ("trap.pth", "trap.bin", "trap.safetensors", "folder/pytorch_lora_weights.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({"a": Trap()}, tmp_path / name)
        refused(tmp_path / name)
    refused(tmp_path / "folder", "pytorch_lora_weights.safetensors")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("key", "shape", "found"),
    [
        ("transformer.blocks.0.attn1.to_q.dora_scale", (5,), "dora_scale"),
        ("transformer.blocks.0.attn1.to_q.lora_B.bias", (5,), "lora_B.bias"),
        ("transformer.blocks.0.attn1.to_k.lora_A.weight", (4, 6), "to_k"),
    ],
)
def test_what_is_more_or_less_than_a_pair_is_refused(
    key: str, shape: tuple[int, ...], found: str, tmp_path: Path
) -> None:
    stem = "transformer.blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(4, 6), f"{stem}.lora_B.weight": torch.ones(5, 4)}
    save_file({**tensors, key: torch.ones(shape)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", found)


@pytest.mark.parametrize("A", [torch.ones(0, 6), torch.ones(2, 6, dtype=torch.int32), torch.ones(2, 6, 1)])
def test_tensors_that_are_no_matrices_of_numbers_are_refused(A: torch.Tensor, tmp_path: Path) -> None:
    stem = "diffusion_model.blocks.0.self_attn.q"
    pair = {f"{stem}.lora_down.weight": A, f"{stem}.lora_up.weight": torch.ones(5, A.shape[0])}
    save_file({**pair, f"{stem}.alpha": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "blocks.0.self_attn.q", "no pair")
    save_file({**pair, f"{stem}.lora_down.weight": torch.ones(2, 6), f"{stem}.alpha": torch.ones(2)}, tmp_path / "b.st")
    refused(tmp_path / "b.st", "blocks.0.self_attn.q")


SPOILT = (
    "no json",
    "[1]",
    "3",
    '{"r": 4}',
    '{"transformer.alpha_pattern": [1]}',
    '{"transformer.alpha_pattern": {"(": 1}}',
    '{"transformer.lora_alpha": "x"}',
)


@pytest.mark.parametrize("entry", SPOILT)
def test_a_spoilt_header_is_refused(entry: str, tmp_path: Path) -> None:
    stem = "transformer.blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(4, 6), f"{stem}.lora_B.weight": torch.ones(5, 4)}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": entry})
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("format", WITH_ALPHA)
def test_a_spoilt_component_is_refused(format: str, tmp_path: Path) -> None:
    adapter().save(tmp_path / SUFFIX[format], format)
    file = tmp_path / SUFFIX[format] / "adapter_model.safetensors" if format == "peft" else tmp_path / SUFFIX[format]
    save_file(read_tensors(file), file, {"component": "../x"})
    refused(tmp_path / SUFFIX[format], "'../x'", "component")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_both_ways(value: float, tmp_path: Path) -> None:
    spoilt = adapter()
    name = "transformer.blocks.1.attn1.to_v"
    spoilt[name].B[0, 0] = value
    with pytest.raises(AdapterFormatError, match=name):
        spoilt.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    stem = f"{name}.lora_B.weight"
    save_file({stem: spoilt[name].B, f"{name}.lora_A.weight": spoilt[name].A}, tmp_path / "n.safetensors")
    refused(tmp_path / "n.safetensors", stem)


@pytest.mark.parametrize(("format", "name"), [("kohya", "a.pth"), ("reference", "a.safetensors"), ("peft", "a.bin")])
def test_an_ending_that_readers_would_take_for_another_format_is_refused(
    format: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(AdapterFormatError, match=f"{name}: readers go by the ending"):
        adapter().save(tmp_path / name, format)
    assert not list(tmp_path.iterdir())


def test_unknown_format_and_unknown_layers(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match="diffusers, comfyui, kohya, peft, reference"):
        adapter().save(tmp_path / "a", "onnx")
    pair = next(iter(adapter().values()))
    foreign = Adapter({"unet.down_blocks.0.resnets.0.conv1": pair})
    foreign.save(tmp_path / "u.safetensors")
    assert set(Adapter.load(tmp_path / "u.safetensors")) == set(foreign)
    for format in ("comfyui", "kohya", "reference"):
        with pytest.raises(AdapterFormatError, match="down_blocks"):
            foreign.save(tmp_path / "b", format)


def test_header_alone_tells_the_shapes(tmp_path: Path) -> None:
    adapter().save(tmp_path / "a.safetensors")
    shapes = tensor_shapes(tmp_path / "a.safetensors")
    assert shapes["transformer.blocks.0.attn1.to_q.lora_A.weight"] == (3, 10)


def kohya_file(path: Path, part: str, layers: list[str], width: int, rank: int = 4) -> Path:
    tensors = {}
    for layer in layers:
        stem = f"{part}_{layer}"
        tensors[f"{stem}.lora_down.weight"] = torch.ones(rank, width)
        tensors[f"{stem}.lora_up.weight"] = torch.ones(8, rank)
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    return path


ATTENTION = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("part", "layers", "width", "model"),
    [
        ("lora_unet", [ATTENTION], 768, "Stable Diffusion 1.x"),
        ("lora_te", ["text_model_encoder_layers_0_mlp_fc1"], 768, "Stable Diffusion 1.x"),
        ("lora_unet", [ATTENTION], 1024, "Stable Diffusion 2.x"),
        ("lora_te1", ["text_model_encoder_layers_0_mlp_fc1"], 768, "SDXL"),
        ("lora_unet", ["double_blocks_0_img_attn_proj"], 3072, "a model unknown here"),
    ],
)
def test_kohya_files_of_other_models_are_refused_by_name(
    part: str, layers: list[str], width: int, model: str, tmp_path: Path
) -> None:
    file = kohya_file(tmp_path / "a.safetensors", part, layers, width)
    refused(file, f"a kohya LoRA for {model}", "layer tables for wan, sdxl", layers[0])
    found = recognise(read_raw(file))
    assert found is not None
    assert (found.parts, found.ranks) == ({part.removeprefix("lora_"): 1}, (4,))


def test_a_comfyui_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    stem = "diffusion_model.double_blocks.0.img_attn.qkv"
    save_file({f"{stem}.lora_A.weight": torch.ones(2, 6), f"{stem}.lora_B.weight": torch.ones(5, 2)}, tmp_path / "f.st")
    refused(tmp_path / "f.st", "a comfyui LoRA for a model unknown here", stem)


def test_cloneofsimo_s_numbered_layers_are_recognised(tmp_path: Path) -> None:
    """The real file's twin: numbered layers, and a learned word beside them."""
    tensors = {"<s1>": torch.ones(768)}
    for part, number, width in (("unet", 0, 320), ("unet", 1, 768), ("text_encoder", 0, 768)):
        tensors[f"{part}:{number}:down"] = torch.ones(1, width)
        tensors[f"{part}:{number}:up"] = torch.ones(320, 1)
    save_file(tensors, tmp_path / "c.safetensors")
    refused(tmp_path / "c.safetensors", "a cloneofsimo LoRA for Stable Diffusion 1.x")
    found = recognise(read_raw(tmp_path / "c.safetensors"))
    assert found is not None
    assert found.parts == {"text_encoder": 1, "unet": 2} and found.ranks == (1,)


def test_a_width_alone_makes_no_stable_diffusion(tmp_path: Path) -> None:
    pair = LowRank(torch.ones(2, 768), torch.ones(768, 2), torch.tensor(1.0))
    (file,) = Adapter({"transformer.blocks.0.attn1.to_q": pair}).save(tmp_path / "a.safetensors", "kohya")
    assert detect_format(read_raw(file)) == "kohya"


def test_ours_are_not_taken_for_foreign_ones(tmp_path: Path) -> None:
    for format, suffix in SUFFIX.items():
        adapter().save(tmp_path / format / suffix, format)
        assert detect_format(read_raw(tmp_path / format / suffix)) == format


def test_a_real_foreign_lora_is_named() -> None:
    if not SD_LORA.is_file():
        pytest.skip(f"{SD_LORA} is not there")
    refused(SD_LORA, "a cloneofsimo LoRA for Stable Diffusion 1.x", "386 tensors", "text_encoder:0:down")
    found = recognise(read_raw(SD_LORA))
    assert found is not None
    assert found.parts == {"text_encoder": 48, "unet": 144}
    assert found.ranks == (1,)
