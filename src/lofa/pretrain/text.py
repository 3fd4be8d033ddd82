"""The tiny text encoder: `UMT5EncoderModel` and a Unigram tokenizer of words, trained contrastively against scenes.

A caption and the scene it describes (joint trajectories and looks; no pixels needed) are embedded side by side and told
apart from the other pairs of the batch (InfoNCE). A batch holds few looks and many actions, so that looks alone don't
solve it. Captions of held-out classes are left out; their words are not, every word occurs in training classes.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from lofa.pretrain.fit import contrastive_loss, fit, share_found
from lofa.pretrain.options import Schedule
from lofa.worlds import SPLITS, Appearance, caption, sample_motion, vocabulary

__all__ = ["LookVectors", "new_text_encoder", "new_tokenizer", "train_text_encoder"]

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-"
_LOOKS = 8  # different looks in a batch; the rest of the batch differs by action


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
    """An appearance as the sum of learned vectors of its named attributes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.index: dict[tuple[str, str], int] = {}
        self.table = nn.Embedding(128, width)

    def forward(self, looks: list[Appearance]) -> Tensor:
        """(B, width)"""
        rows = [[self.index.setdefault(word, len(self.index)) for word in vars(look).items()] for look in looks]
        return self.table(torch.tensor(rows)).sum(1)


def train_text_encoder(
    tokenizer: PreTrainedTokenizerFast,
    encoder: UMT5EncoderModel,
    schedule: Schedule,
    seed: int,
    console: Console,
    pool: int = 240,
) -> None:
    """Trains in place and prints how often held-out captions find their own scene among the scenes of one look.

    Args:
        schedule: its batch is the number of captions a step.
        pool: looks drawn in advance; each meets as many actions as a batch has a look.
    """
    width = encoder.config.d_model
    seen = [None, *(name for name, split in SPLITS.items() if split == "train")]
    unseen = [name for name, split in SPLITS.items() if split != "train"]
    rng = np.random.default_rng(seed)
    motions = nn.Sequential(
        nn.Linear(17 * 15 * 2, 512), nn.GELU(), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, width)
    )
    looks = LookVectors(width)
    to_scene = nn.Linear(width, width)
    log_scale = nn.Parameter(torch.tensor(2.5))

    def draw(
        names: Sequence[str | None], count: int, look_seed: int
    ) -> tuple[list[str | None], list[Appearance], Tensor]:
        """Names, looks and joints of `count` of the classes `names` in one look."""
        chosen = [names[i] for i in rng.choice(len(names), count, replace=False)]
        drawn = [sample_motion(name, look_seed) for name in chosen]
        joints = torch.from_numpy(np.stack([joints for joints, _, _ in drawn]))
        return chosen, [look for _, look, _ in drawn], joints

    scenes = [draw(seen, schedule.batch // _LOOKS, seed + k) for k in range(pool)]

    def embed(names: list[str | None], appearances: list[Appearance], joints: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, width) of a caption of each scene and of the scene."""
        texts = [caption(look, name, rng) for look, name in zip(appearances, names, strict=True)]
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask.unsqueeze(-1)
        scene = to_scene(F.gelu(motions((joints - 0.5).flatten(1) * 4) + looks(appearances)))
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1), F.normalize(scene, dim=-1)

    def loss_of_step(step: int) -> Tensor:
        names, appearances, joints = zip(*(scenes[i] for i in rng.choice(pool, _LOOKS, replace=False)), strict=True)
        moved = torch.cat(joints)
        # a little noise on the joints, or the pool is learnt by heart
        moved = moved + 0.01 * torch.from_numpy(rng.standard_normal(moved.shape, dtype=np.float32))
        pairs = embed([*chain(*names)], [*chain(*appearances)], moved)
        return contrastive_loss(*pairs, log_scale.exp().clamp(max=100))

    encoder.train()
    parts = nn.ModuleList([encoder, motions, looks, to_scene])
    fit("text encoder", [*parts.parameters(), log_scale], schedule, loss_of_step, console)
    encoder.eval()
    for title, names in (("training", seen[1:]), ("held-out", unseen)):
        count = min(48, len(names))
        with torch.no_grad():
            found = torch.stack([share_found(*embed(*draw(names, count, seed + 10_000 + k))) for k in range(8)])
        console.print(
            f"captions of {title} classes find their scene among {count} of one look: "
            f"{100 * found.mean():.0f} % (chance {100 / count:.0f} %)"
        )
