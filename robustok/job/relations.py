"""How settings must fit each other: the one place for what no field can say of itself alone."""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any

from ..config import RunConfig, TrainingConfig
from ..core.errors import UserError
from ..core.sizes import sides
from ..models.registry import Role, trained_family

ROLES: tuple[Role, ...] = ("tokenizer", "generator")
RISING = (  # the first is at most the second
    ("data.crop_min", "data.crop_max"),
    ("perturbation.anneal_start", "perturbation.anneal_end"),
    ("order.anneal_start", "order.anneal_end"),
)
# Of a model: a field, and the one that divides it; a decoder's that is None is the encoder's.
DIVIDED = (
    *(("image_size", "patch_size"), ("image_size", "decoder_patch_size"), ("heads", "kv_heads")),
    *(("width", "heads"), ("decoder_width", "decoder_heads"), ("auxiliary_width", "auxiliary_heads")),
)


def check_relations(c: RunConfig) -> None:
    """Raises UserError naming a setting that contradicts another one, with what was expected.

    What is None is not decided yet, and passed over. Of models, those that the run trains count: what is set for a
    family that it does not train does not matter.
    """
    for name, other in RISING:
        value, top = attrgetter(name)(c), attrgetter(other)(c)
        if value is not None and top is not None:
            expect(value <= top, name, value, f"at most {other} = {top}")
    _check_rising_pair("flow_sampling.guidance_interval", c.flow_sampling.guidance_interval)
    modes = c.pairs.modes
    expect(len(set(modes)) == len(modes), "pairs.modes", modes, "each mode once")
    for f in fields(c):
        training = getattr(c, f.name)
        if isinstance(training, TrainingConfig) and training.batch_size is not None:
            parts, size = training.accumulate, training.batch_size
            micro_batches = f"a multiple of {f.name}.accumulate = {parts}"
            expect(size % parts == 0, f"{f.name}.batch_size", size, micro_batches)
    for section in {trained_family(c, role).section for role in ROLES} - {None}:
        _check_model(getattr(c, section), section)


def _check_model(config: Any, section: str) -> None:
    """The settings of one model. What only a constructor knows (a grid that patches must fit) it refuses itself."""
    for name, divisor in DIVIDED:
        value, by = _of(config, name), _of(config, divisor)
        if value is not None and by is not None:
            multiple = all(side % by == 0 for side in sides(value))
            expect(multiple, f"{section}.{name}", value, f"a multiple of {section}.{divisor} = {by}")
    _check_rising_pair(f"{section}.hidden", getattr(config, "hidden", None))
    codes = getattr(config, "codebook_size", None)
    if getattr(config, "codebooks", 0) and codes is not None:
        expect(codes >= 1, f"{section}.codebook_size", codes, f"at least 1 for {section}.codebooks {config.codebooks}")


def _check_rising_pair(name: str, pair: tuple[float, float] | None) -> None:
    if pair is not None:
        expect(pair[0] <= pair[1], name, pair, "two numbers, the smaller first")


def _of(config: Any, name: str) -> Any:
    """The value of a field; a decoder's that is None is that of the encoder."""
    value = getattr(config, name, None)
    return getattr(config, name.removeprefix("decoder_"), None) if value is None else value


def expect(holds: bool, name: str, found: object, expected: str) -> None:
    """Raises UserError with what was found and what was expected, unless the condition holds."""
    if not holds:
        raise UserError(f"{name}: found {found}, expected {expected}")
