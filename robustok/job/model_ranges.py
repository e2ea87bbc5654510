"""In which ranges the settings of a model lie, for the configs of all families: by a field's type, else by its name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..samplers.settings import check

SHARES = ("dropout", "attention_dropout", "token_dropout", "class_dropout", "drop_path")
ABOVE_ZERO = ("mlp_ratio", "temperature", "latent_std")
# A field, and the one that divides it; a decoder's that is None is the encoder's.
DIVIDED = (
    *(("image_size", "patch_size"), ("image_size", "decoder_patch_size"), ("heads", "kv_heads")),
    *(("width", "heads"), ("decoder_width", "decoder_heads"), ("auxiliary_width", "auxiliary_heads")),
)


def check_ranges(config: Any, section: str) -> None:
    """Raises UserError naming the setting of a model's config that cannot be, before a model is built of it.

    Whole numbers are from 1, or from 0 where the default is 0, which then means none. What only a constructor knows
    (a grid of latents that patches must fit) it refuses itself.
    """
    for f in fields(config):
        value, name = getattr(config, f.name), f"{section}.{f.name}"
        if f.name in SHARES:
            check(0 <= value <= 1, name, value, "a share in [0, 1]")
        elif isinstance(value, int) and not isinstance(value, bool) and not isinstance(f.default, float):
            least = 0 if f.default == 0 else 1
            check(value >= least, name, value, f"a whole number from {least}")
        elif isinstance(value, float | int) and not isinstance(value, bool):
            expected = "above 0" if f.name in ABOVE_ZERO else "at least 0"
            holds = value > 0 if f.name in ABOVE_ZERO else value >= 0 or f.name == "latent_mean"
            check(holds, name, value, expected)
        elif f.name == "scales" and value is not None:
            check(len(value) > 0 and min(value) >= 1, name, value, "whole numbers from 1")
        elif f.name == "hidden":
            rising = len(value) == 2 and 0 <= value[0] <= value[1] < 1
            check(rising, name, value, "two shares in [0, 1), the smaller first")
    for name, divisor in DIVIDED:
        value, by = _of(config, name), _of(config, divisor)
        if value is not None and by is not None:
            check(value % by == 0, f"{section}.{name}", value, f"a multiple of {section}.{divisor} = {by}")
    if getattr(config, "codebooks", 0):
        check(config.codebook_size >= 1, f"{section}.codebook_size", config.codebook_size, "a whole number from 1")


def _of(config: Any, name: str) -> int | None:
    """The value of a field; a decoder's that is None is that of the encoder."""
    value = getattr(config, name, None)
    return getattr(config, name.removeprefix("decoder_"), None) if value is None else value
