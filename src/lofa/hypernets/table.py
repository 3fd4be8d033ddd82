"""The kinds of hypernetwork."""

from lofa.hypernets.lightweight import Lightweight
from lofa.hypernets.prompt_tokens import PromptTokens
from lofa.hypernets.protocol import Hypernetwork
from lofa.hypernets.single_stage import SingleStage
from lofa.hypernets.text_to_lora import TextToLora
from lofa.hypernets.two_stage import TwoStage

__all__ = ["HYPERNETS"]

HYPERNETS: dict[str, type[Hypernetwork]] = {
    "two_stage": TwoStage,
    "single_stage": SingleStage,
    "text_to_lora": TextToLora,
    "prompt_tokens": PromptTokens,
    "lightweight": Lightweight,
}
"""What `hypernet.kind` may be, and a saved predictor may name."""
