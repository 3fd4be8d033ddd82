"""The networks' parts against the formulas of their docstrings, written with loops and plain matrices."""

import math

import pytest
import torch
from torch import Tensor, nn

from lofa.hypernets.blocks import Block, ReadBlock
from lofa.hypernets.tiling import TileEmbed, unit_rms
from tests.hypernets.nets import Inputs, adapter_net, prepared, response_net, run

WIDTH, HEADS = 8, 2


def stir(module: nn.Module) -> nn.Module:
    """Moves every parameter off its first value, so that a part left out shows."""
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double()


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    spread = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (spread + norm.eps).sqrt() * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(T, d), (N, d), (N, d) -> (T, d), head by head."""
    heads = []
    for part in range(HEADS):
        own = slice(part * WIDTH // HEADS, (part + 1) * WIDTH // HEADS)
        keys, queries = layer_norm(k[:, own], attention.k_norm), layer_norm(q[:, own], attention.q_norm)
        logits = queries @ keys.T / math.sqrt(WIDTH // HEADS)
        heads.append(logits.exp() / logits.exp().sum(1, keepdim=True) @ v[:, own])
    return torch.cat(heads, 1) @ attention.proj.weight.T + attention.proj.bias


def mlp(x: Tensor, own: nn.Module) -> Tensor:
    return gelu(x @ own.fc1.weight.T + own.fc1.bias) @ own.fc2.weight.T + own.fc2.bias


def to_itself(x: Tensor, attention: nn.Module) -> Tensor:
    return attend(attention, *(x @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, 1))


def to_other(x: Tensor, context: Tensor, attention: nn.Module) -> Tensor:
    keys, values = (context @ attention.kv.weight.T + attention.kv.bias).chunk(2, 1)
    return attend(attention, x @ attention.q.weight.T + attention.q.bias, keys, values)


def test_a_block_is_its_four_branches_in_order() -> None:
    block = stir(Block(WIDTH, HEADS, 2.0))
    x, context = torch.randn(2, 3, 4, WIDTH).double(), torch.randn(2, 5, WIDTH).double()
    lengths = [3, 5]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    found = block(x, context, mask)
    half = block(x, None)
    assert torch.equal(block(half, context, mask, True), found)
    for prompt in range(2):
        for layer in range(3):
            t = x[prompt, layer]
            t = t + block.ls1.gamma * to_itself(layer_norm(t, block.norm1), block.self_attn)
            t = t + block.ls2.gamma * mlp(layer_norm(t, block.norm2), block.mlp_sa)
            torch.testing.assert_close(half[prompt, layer], t)
            own = context[prompt, : lengths[prompt]]
            t = t + block.ls3.gamma * to_other(layer_norm(t, block.norm3), own, block.cross_attn)
            t = t + block.ls4.gamma * mlp(layer_norm(t, block.norm4), block.mlp_ca)
            torch.testing.assert_close(found[prompt, layer], t)


def test_a_reading_block_attends_without_norm_and_then_goes_through_its_mlp() -> None:
    block = stir(ReadBlock(WIDTH, 6, HEADS, 2.0))
    x, response = torch.randn(2, 3, 4, WIDTH).double(), torch.randn(2, 3, 5, 6).double()
    found = block(x, response)
    for prompt in range(2):
        for layer in range(3):
            t = x[prompt, layer]
            t = t + block.ls1.gamma * to_other(t, response[prompt, layer], block.cross_attn)
            t = t + block.ls2.gamma * mlp(layer_norm(t, block.norm2), block.mlp)
            torch.testing.assert_close(found[prompt, layer], t)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_unit_rms_divides_each_matrix_by_the_root_mean_square_of_all_its_entries(dtype: torch.dtype) -> None:
    """Rows, columns and matrices of very different sizes keep them, but for the matrices."""
    torch.manual_seed(0)
    weights = torch.randn(3, 6, 4).double() * torch.tensor([1e-3, 1.0, 50.0])[:, None, None]
    weights[:, 2] *= 7
    weights[:, :, 1] *= 5
    weights = weights.to(dtype)
    found = unit_rms(weights)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for one, own in zip(found, weights, strict=True):
        wide = own.to(found.dtype)
        torch.testing.assert_close(one, wide / math.sqrt(float(wide.flatten() @ wide.flatten()) / 24))


def test_a_token_is_its_tile_projected_and_normed_and_its_place() -> None:
    tiles = stir(TileEmbed([(6, 6), (6, 4)], 3, WIDTH))
    weights = torch.randn(2, 6, 6).double()
    patch, tokens = tiles.patch["3x3"], []
    for layer in range(2):
        for r in range(2):
            for c in range(2):
                tile = weights[layer, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3]
                token = patch.proj.weight.flatten(1) @ tile.flatten() + patch.proj.bias
                token = token / (token.square().mean() + torch.finfo(torch.float64).eps).sqrt() * patch.norm.weight
                tokens.append(token + tiles.row["6"][r] + tiles.col["6"][c])
    torch.testing.assert_close(tiles(weights), torch.stack(tokens).unflatten(0, (2, -1)))


def test_the_heads_read_the_mean_of_all_tokens_of_a_layer() -> None:
    net = response_net()
    out = run(net, Inputs.make())
    h = out.tokens.sum(2) / out.tokens.shape[2]
    A, B = ((h @ head.weight.T + head.bias) for head in (net.head.A["8"], net.head.B["12"]))
    torch.testing.assert_close(out.A, A.unflatten(2, (2, 8)))
    torch.testing.assert_close(out.B, B.unflatten(2, (12, 2)))


def test_the_response_is_the_sigmoid_of_the_product_over_tau_and_temperature() -> None:
    out = run(response_net(tau=0.3, temperature=0.5), Inputs.make())
    S = torch.einsum("plor,plri->ploi", out.B, out.A)
    torch.testing.assert_close(out.probability(), 1 / (1 + torch.exp(-(S - 0.3) / 0.5)))
    torch.testing.assert_close(out.logits(slice(2, 4), slice(1, 5)), ((S - 0.3) / 0.5)[:, 2:4, 1:5])


def test_the_change_is_alpha_times_the_product_and_alpha_a_softplus() -> None:
    net, inputs = adapter_net(read_after=(), alpha_init=0.4), Inputs.make()
    out = run(net, inputs, None)
    torch.testing.assert_close(out.delta_weight(), torch.einsum("pl,plor,plri->ploi", out.alpha, out.B, out.A))
    h = net.trunk.finish(prepared(net, inputs).tokens, *net.trunk.project(inputs.context, inputs.lengths)).mean(2)
    z = h @ net.head.scale.linear.weight[0] + net.head.scale.linear.bias
    torch.testing.assert_close(out.alpha, torch.log1p(torch.exp(z)))


@pytest.mark.parametrize("condition_from", [0, 1])
def test_a_network_is_its_tokens_through_its_blocks_in_order(condition_from: int) -> None:
    """The sum of tile, depth and kind; blocks that read nothing, then the prompt, then stage I where it is read."""
    net, inputs = adapter_net(condition_from=condition_from, read_after=(1,)), Inputs.make()
    response = torch.randn(3, 6, 5, 16).double()
    trunk, x = net.trunk, net.trunk.tiles(unit_rms(inputs.weights))
    x = (x + trunk.depth_embed.weight[inputs.depth][:, None] + trunk.kind_embed.weight[inputs.kind][:, None])[None]
    prompt, mask = trunk.context_proj(inputs.context), torch.arange(7) < inputs.lengths[:, None]
    for number, block in enumerate(trunk.blocks):
        x = block(x, prompt, mask) if number >= condition_from else block(x, None)
        if number == 1:
            x = net.reads["1"](x, response)
    A, B, _ = net.head(layer_norm(x, trunk.norm), (12, 8))
    out = run(net, inputs, response)
    torch.testing.assert_close(out.A, A)
    torch.testing.assert_close(out.B, B)
