"""The families of models that there are: one entry says all that loading, converting and training ask of a family.

docs/extending.md shows how one is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..config import ConvTokenizerConfig, RARConfig, RunConfig, TokenizerConfig
from ..formats.layout import Layout
from ..formats.llamagen_vq import LLAMAGEN_VQ
from ..formats.maskgit_vqgan import MASKGIT_VQGAN
from ..formats.rar_release import RAR_RELEASE
from ..formats.robustok_release import ROBUSTOK_RELEASE
from ..formats.vqgan import VQGAN_RELEASE
from .generators.rar import RAR, order_schedule
from .tokenizers.conv_tokenizer import ConvTokenizer
from .tokenizers.vit_tokenizer import ViTTokenizer

Role = Literal["tokenizer", "generator"]


def no_schedule(run: RunConfig, epoch: float) -> dict[str, float]:
    """The schedule of a family whose loss stays the same all through training."""
    return {}


@dataclass(frozen=True)
class Family:
    """One family of models."""

    kind: str  # its name in the config.json of a checkpoint
    role: Role
    config: type  # frozen dataclass of its shape, of no other family
    build: Callable[[Any], nn.Module]  # a model with fresh weights of such a config
    layouts: tuple[Layout, ...] = ()  # published files that hold one; `convert --to upstream` writes the first that can
    schedule: Callable[[RunConfig, float], dict[str, float]] = no_schedule  # (run, epoch) -> arguments of model.loss


CONVOLUTIONAL = (LLAMAGEN_VQ, VQGAN_RELEASE, MASKGIT_VQGAN)
FAMILIES = {
    family.kind: family
    for family in (
        Family("tokenizer", "tokenizer", TokenizerConfig, ViTTokenizer, (ROBUSTOK_RELEASE,)),
        Family("conv_tokenizer", "tokenizer", ConvTokenizerConfig, ConvTokenizer, CONVOLUTIONAL),
        Family("rar", "generator", RARConfig, RAR, (RAR_RELEASE,), order_schedule),
    )
}


def families(role: Role | None = None) -> list[Family]:
    """All families, or those of one role."""
    return [family for family in FAMILIES.values() if role in (None, family.role)]


def family_of(model: Any) -> Family:
    """The family of a model, or of its config. Raises TypeError for one of none."""
    config = getattr(model, "config", model)
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    known = ", ".join(family.config.__name__ for family in FAMILIES.values())
    raise TypeError(f"{type(config).__name__} is the config of no family; expected one of {known}")
