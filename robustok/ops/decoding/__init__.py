"""Operations of autoregressive decoding: attention over a static cache, guided sampling, and the measured choice."""
