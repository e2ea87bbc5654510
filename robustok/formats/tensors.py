"""What every layout needs: counting blocks and comparing a state dict with the one a model expects."""

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..core.errors import UserError
from ..core.text import some_of

STANDARD_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16}  # of the standard widths: tiny to large; SiT-XL


def block_count(state: dict[str, Tensor], prefix: str = "", blocks: str = "blocks") -> int:
    """Number of transformer blocks under `prefix`: of different indices in `blocks.<i>.`, however large they are."""
    pattern = re.compile(re.escape(f"{prefix}{blocks}.") + r"(\d+)\.")
    return len({match[1] for match in map(pattern.match, state) if match})


def attention_heads(width: int, num_heads: int | None, where: str, standard: Mapping[int, int] = STANDARD_HEADS) -> int:
    """`num_heads`, or that of the standard network of this width. Raises UserError where neither says."""
    heads = num_heads or standard.get(width)
    if heads is None:
        raise UserError(
            f"{where}: a transformer of width {width} is no standard size ({', '.join(map(str, standard))}), and the "
            "file does not store its number of attention heads: give num_heads"
        )
    if width % heads:
        raise UserError(f"{where}: num_heads must divide the width {width}, found {heads}")
    return heads


def refuse_other_size(name: str, given: int | str | None, found: int | str, where: str) -> None:
    """Raise UserError where the caller gives what is not found so in the file."""
    if given not in (None, found):
        raise UserError(f"{where}: {name}: given {given}, but the file says {found}; leave it out")


def require(state: dict[str, Tensor], keys: Iterable[str], where: str, layout: str) -> None:
    """Raise UserError naming those of `keys`, which tell a model's sizes, that are missing."""
    missing = [key for key in keys if key not in state]
    if missing:
        raise UserError(f"{where}: recognised as {layout}, but {len(missing)} missing: {some_of(missing)}")


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], where: str, layout: str) -> None:
    """Raise UserError unless `state` has exactly the keys and shapes of `expected`, floating-point where that is, and
    finite; name the first ten of each kind.
    """
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    types = [
        f"{key} {state[key].dtype} instead of {tensor.dtype}"
        for key, tensor in expected.items()
        if key in state and (state[key].is_floating_point() != tensor.is_floating_point() or state[key].is_complex())
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another type": types}
    found = [f"{len(keys)} {kind}: {some_of(keys)}" for kind, keys in kinds.items() if keys]
    if found:
        raise UserError(f"{where}: recognised as {layout}, but its tensors do not fit: " + "; ".join(found))
    if broken := [key for key, tensor in state.items() if not _is_finite(tensor)]:
        raise UserError(
            f"{where}: {len(broken)} tensors hold NaN or infinity: {some_of(broken)}; the training that wrote it had "
            "failed, or the file is damaged: take an earlier checkpoint, or fetch it again"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; one pass that takes no memory."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    numbers = tensor.detach() if tensor.element_size() > 1 else tensor.detach().float()  # one byte cannot be compared
    return all(math.isfinite(bound.item()) for bound in numbers.aminmax())
