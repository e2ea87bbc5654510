"""What every layout needs: counting blocks and comparing a state dict with the one a model expects."""

import re
from collections.abc import Iterable

from torch import Tensor

from ..core.errors import UserError

SHOWN = 10  # keys named of each kind
STANDARD_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}  # of the standard ViT widths: tiny, small, base, large


def block_count(state: dict[str, Tensor], prefix: str = "") -> int:
    """Number of transformer blocks under `prefix` (one more than the largest index in `blocks.<i>.`)."""
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    found = [int(match[1]) for match in map(pattern.match, state) if match]
    return max(found, default=-1) + 1


def attention_heads(width: int, num_heads: int | None, where: str) -> int:
    """`num_heads`, or that of the standard ViT of this width. Raises UserError where neither says."""
    heads = num_heads or STANDARD_HEADS.get(width)
    if heads is None:
        raise UserError(
            f"{where}: a ViT of width {width} is no standard size ({', '.join(map(str, STANDARD_HEADS))}), and the "
            "file does not store its number of attention heads: give num_heads"
        )
    if width % heads:
        raise UserError(f"{where}: num_heads must divide the width {width}, found {heads}")
    return heads


def require(state: dict[str, Tensor], keys: Iterable[str], where: str, layout: str) -> None:
    """Raise UserError naming those of `keys`, which tell a model's sizes, that are missing."""
    missing = [key for key in keys if key not in state]
    if missing:
        raise UserError(f"{where}: recognised as {layout}, but {len(missing)} missing: {_first(missing)}")


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], where: str, layout: str) -> None:
    """Raise UserError unless `state` has exactly the keys and shapes of `expected`; name the first ten of each kind."""
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    found = [f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in kinds.items() if keys]
    if found:
        raise UserError(f"{where}: recognised as {layout}, but its tensors do not fit: " + "; ".join(found))


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def merge_adapters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose linear layers have LoRA adapters (peft's names, alpha = rank) -> one without: W + B A."""
    merged = {}
    for key, tensor in state.items():
        layer, found, name = key.partition(".base_layer.")
        if found and name == "weight":
            low, high = (state[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            merged[f"{layer}.weight"] = tensor + high @ low
        elif found:
            merged[f"{layer}.{name}"] = tensor
        elif ".lora_" not in key:
            merged[key] = tensor
    return merged
