"""Operations of autoregressive decoding: attention over a static cache, and drawing the next token under guidance."""

from .attention import decode_attention, fastest_attention
from .guided_sample import guided_sample
from .reference import guide

__all__ = ["decode_attention", "fastest_attention", "guide", "guided_sample"]
