"""Operations of autoregressive decoding: attention over a static cache, and drawing the next token under guidance."""

from .appending import Append, NewPlaces, append, fastest_attention
from .attention import decode_attention
from .guided_sample import guided_sample
from .reference import guide
from .step_linear import StepLinear, fuses

__all__ = [
    "Append",
    "NewPlaces",
    "StepLinear",
    "append",
    "decode_attention",
    "fastest_attention",
    "fuses",
    "guide",
    "guided_sample",
]
