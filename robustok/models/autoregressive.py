"""What every autoregressive generator can do: sample with guidance, and give the logits it samples from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops.guided_sample import guide, guided_sample
from ..ops.philox import KEEP, keyed_words


class Autoregressive(nn.Module):
    """A generator of L tokens out of K codes for C classes; class C is the null class.

    A subclass has `forward(tokens, classes, orders) -> (B, L, K)` and `decoder(classes)`: an object whose `first()`
    gives logits of token 0 and whose `step(tokens, k)` takes token k - 1 and gives logits of token k.
    """

    def __init__(self, codebook_size: int, num_classes: int, num_tokens: int):
        super().__init__()
        self.codebook_size, self.num_classes, self.num_tokens = codebook_size, num_classes, num_tokens

    def decoder(self, classes: Tensor):
        raise NotImplementedError

    def logits(self, tokens: Tensor, classes: Tensor | None, *, order: Tensor | None = None) -> Tensor:
        """Teacher-forced logits (B, L, K); row i predicts tokens[order[i]].

        tokens: int64 (B, L) in raster order. classes: int64 (B,), None = the null class. order: int64 (L,) or (B, L),
        None = raster order.
        """
        if classes is None:
            classes = torch.full_like(tokens[:, 0], self.num_classes)
        orders = order if order is None else order.expand(len(tokens), -1)
        return self(tokens, classes, orders)

    @torch.no_grad()
    def generate(self, classes: Tensor, *, seed: int, sample_ids: Tensor | None = None, guidance_scale: float,
                 guidance_power: float | None = None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
                 keep_tokens: Tensor | None = None, keep_ratio: float = 0.0) -> Tensor:  # fmt: skip
        """Samples one sequence for each class: int64 (B, L) on the device of `classes`.

        Args:
            classes: int64 (B,), 0..C-1.
            seed: the tokens are a pure function of weights, class, seed and sample id.
            sample_ids: int64 (B,), who each image is; None means 0..B-1.
            guidance_scale: s of classifier-free guidance; 1 is none.
            guidance_power: p of the power-cosine ramp from 1 to s (section 5); None keeps s constant.
            temperature: > 0.   top_k: 0 keeps all.   top_p: in (0, 1].
            keep_tokens: int64 (B, L). Each token is overwritten by this one with probability keep_ratio (the
                preservation ratio sigma, section 6), and the sequence goes on from it.

        Raises: ValueError for an argument out of its range or of the wrong shape.
        """
        count = len(classes)
        if sample_ids is None:
            sample_ids = torch.arange(count, device=classes.device)
        guided = guidance_scale != 1.0
        streams = torch.cat([classes, torch.full_like(classes, self.num_classes)]) if guided else classes
        scales = guidance_ramp(guidance_scale, guidance_power, self.num_tokens, classes.device)
        tokens = classes.new_empty(count, self.num_tokens)
        kept = keep_mask(keep_ratio, seed, sample_ids, self.num_tokens)
        if keep_tokens is None:
            keep_tokens, kept = tokens, torch.zeros_like(kept)
        decoder = self.decoder(streams)
        logits = decoder.first()
        for step in range(self.num_tokens):
            drawn = guided_sample(logits, scales[step], temperature, top_k, top_p, seed, sample_ids, step)
            tokens[:, step] = torch.where(kept[:, step], keep_tokens[:, step], drawn)
            if step + 1 < self.num_tokens:
                logits = decoder.step(tokens[:, step].repeat(len(streams) // count), step + 1)
        return tokens

    @torch.no_grad()
    def guided_logits(self, tokens: Tensor, classes: Tensor, *, guidance_scale: float,
                      guidance_power: float | None = None, temperature: float = 1.0) -> Tensor:  # fmt: skip
        """What `generate` samples from at each step if the tokens drawn were `tokens` (B, L): float32 (B, L, K)."""
        count = len(classes)
        guided = guidance_scale != 1.0
        streams = torch.cat([classes, torch.full_like(classes, self.num_classes)]) if guided else classes
        scales = guidance_ramp(guidance_scale, guidance_power, self.num_tokens, classes.device)
        decoder = self.decoder(streams)
        rows = [guide(decoder.first(), count, scales[0], temperature)]
        for step in range(1, self.num_tokens):
            logits = decoder.step(tokens[:, step - 1].repeat(len(streams) // count), step)
            rows.append(guide(logits, count, scales[step], temperature))
        return torch.stack(rows, 1)


def guidance_ramp(scale: float, power: float | None, length: int, device: torch.device) -> Tensor:
    """Guidance scale at every step, float32 (length,): 1 + (s - 1) (1 - cos(pi (t / L)^p)) / 2, or s (section 5)."""
    if power is None:
        return torch.full((length,), scale, device=device)
    ramp = [(1 - math.cos(math.pi * (step / length) ** power)) / 2 for step in range(length)]
    return torch.tensor([1 + (scale - 1) * share for share in ramp], device=device)


def keep_mask(ratio: float, seed: int, sample_ids: Tensor, length: int) -> Tensor:
    """Which tokens are kept, bool (B, L), each with probability `ratio`: nested in the ratio for one seed."""
    steps = torch.arange(length, device=sample_ids.device)
    return keyed_words(seed, KEEP, sample_ids[:, None], steps)[0] < math.floor(ratio * 2**32)
