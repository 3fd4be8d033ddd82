"""The tiny text encoder: `UMT5EncoderModel` and a Unigram tokenizer of words, trained contrastively against scenes.

A caption and the scene it describes (joint trajectories and looks; no pixels needed) are embedded side by side and told
apart from the other pairs of the batch (InfoNCE). A batch holds few looks and many actions, so that looks alone don't
solve it. Captions of held-out classes are left out; their words are not, every word occurs in training classes.
"""

import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from lofa.pretrain.fit import fit
from lofa.pretrain.options import Schedule
from lofa.worlds import ACTIONS, SPLITS, Appearance, caption, sample_motion, vocabulary

__all__ = ["LookVectors", "contrastive_loss", "new_text_encoder", "new_tokenizer", "train_text_encoder"]

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-"


def new_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """Words of the world as one token each, others spelled in characters; case is folded, `</s>` ends a text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -4.0) for word in vocabulary()]
    pieces += [("▁", -8.0)] + [(character, -8.0) for character in _CHARACTERS]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_tokens,
    )


def new_text_encoder(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> UMT5EncoderModel:
    """A UMT5 encoder of `width` with heads of 16, initialised at random."""
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=width // 16,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


class LookVectors(nn.Module):
    """An appearance as the sum of learned vectors of its five named attributes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.index: dict[str, int] = {}
        self.table = nn.Embedding(128, width)

    def forward(self, looks: list[Appearance]) -> Tensor:
        """(B, width)"""
        keys = [
            [f"body={a.body}", f"background={a.background}", f"style={a.style}", f"drift={a.drift}", f"size={a.size}"]
            for a in looks
        ]
        rows = [[self.index.setdefault(key, len(self.index)) for key in row] for row in keys]
        return self.table(torch.tensor(rows)).sum(1)


def contrastive_loss(left: Tensor, right: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of two rows of embeddings (B, D); row i of one belongs to row i of the other."""
    logits = log_scale.exp().clamp(max=100) * F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T
    goal = torch.arange(len(logits))
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2


def train_text_encoder(
    tokenizer: PreTrainedTokenizerFast,
    encoder: UMT5EncoderModel,
    schedule: Schedule,
    seed: int,
    console: Console,
    looks_per_batch: int = 8,
    pool: int = 240,
) -> None:
    """Trains in place and prints how often held-out captions find their own scene among the scenes of one look.

    Args:
        schedule: its batch is the number of captions a step.
        looks_per_batch: different looks in a batch; the rest of the batch differs by action.
        pool: looks drawn in advance; each meets as many actions as a batch has a look.
    """
    width = encoder.config.d_model
    seen = [None, *(name for name, split in SPLITS.items() if split == "train")]
    unseen = [name for name, split in SPLITS.items() if split != "train"]
    rng = np.random.default_rng(seed)
    per_look = schedule.batch // looks_per_batch
    motions = nn.Sequential(
        nn.Linear(17 * 15 * 2, 512), nn.GELU(), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, width)
    )
    looks = LookVectors(width)
    to_scene = nn.Linear(width, width)
    log_scale = nn.Parameter(torch.tensor(2.5))

    def draw(names: list[str | None], look_seed: int) -> tuple[Tensor, list[Appearance], list[str | None]]:
        drawn = [sample_motion(name, look_seed) for name in names]
        joints = torch.from_numpy(np.stack([joints for joints, _, _ in drawn]))
        return joints, [look for _, look, _ in drawn], names

    scenes = [draw([seen[i] for i in rng.choice(len(seen), per_look, replace=False)], seed + k) for k in range(pool)]

    def embed_text(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask.unsqueeze(-1)
        return (hidden * mask).sum(1) / mask.sum(1)

    def embed_scene(joints: Tensor, appearances: list[Appearance]) -> Tensor:
        return to_scene(F.gelu(motions((joints - 0.5).flatten(1) * 4) + looks(appearances)))

    def captions(appearances: list[Appearance], names: list[str | None]) -> list[str]:
        pairs = zip(appearances, names, strict=True)
        return [caption(look, ACTIONS[name] if name else None, rng) for look, name in pairs]

    def loss_of_step(step: int) -> Tensor:
        chosen = [scenes[i] for i in rng.choice(pool, looks_per_batch, replace=False)]
        joints = torch.cat([joints for joints, _, _ in chosen])
        # a little noise on the joints, or the pool is learnt by heart
        joints = joints + 0.01 * torch.from_numpy(rng.standard_normal(joints.shape, dtype=np.float32))
        appearances = [look for _, row, _ in chosen for look in row]
        names = [name for _, _, row in chosen for name in row]
        return contrastive_loss(embed_text(captions(appearances, names)), embed_scene(joints, appearances), log_scale)

    encoder.train()
    parts = nn.ModuleList([encoder, motions, looks, to_scene])
    fit("text encoder", [*parts.parameters(), log_scale], schedule, loss_of_step, console)
    encoder.eval()
    with torch.no_grad():
        for title, pool_of_names in (("training", seen[1:]), ("held-out", unseen)):
            hits = []
            for k in range(8):
                some = [
                    pool_of_names[i] for i in rng.choice(len(pool_of_names), min(48, len(pool_of_names)), replace=False)
                ]
                joints, appearances, names = draw(some, seed + 10_000 + k)
                texts = F.normalize(embed_text(captions(appearances, names)), dim=-1)
                hits.append(
                    (
                        (texts @ F.normalize(embed_scene(joints, appearances), dim=-1).T).argmax(1)
                        == torch.arange(len(some))
                    )
                    .float()
                    .mean()
                )
            console.print(
                f"captions of {title} classes find their scene among {len(some)} of one look: "
                f"{100 * torch.stack(hits).mean():.0f} % (chance {100 / len(some):.0f} %)"
            )
