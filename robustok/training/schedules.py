"""What changes over training: learning rates and perturbation strength. Plain functions of time.

Time is counted in epochs or in steps, as long as all arguments use the same unit (METHOD.md sections 2 and 3).
"""

import math

from ..config import PerturbationConfig, TrainingConfig
from ..core.annealing import anneal_ratio


def step_counts(training: TrainingConfig, examples: int) -> tuple[int, int]:
    """(optimiser steps of an epoch, of the whole training) over so many examples; what fills no batch is left out."""
    per_epoch = examples // training.batch_size
    return per_epoch, max(1, round(training.epochs * per_epoch))


def cosine_rate(
    time: float, *, total: float, warmup: float, peak: float, floor: float, first: float = 0.0, decay_from: float = 0.0
) -> float:
    """Learning rate: linear from `first` to `peak` during `warmup`, then half a cosine down to `floor` at `total`.

    `decay_from` is where the cosine's phase starts: 0 for the tokenizer (its warm-up is cut out of the curve), the end
    of the warm-up for RAR.
    """
    if time < warmup:
        return first + (peak - first) * time / warmup
    progress = min((time - decay_from) / (total - decay_from), 1.0)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def perturbation_strength(config: PerturbationConfig, epoch: float) -> tuple[float, int, float]:
    """(alpha, delta, strength of noise) in force at `epoch`: all are multiplied by the ratio.

    delta is rounded down but never below 1; the strength is 0 for kinds without one.
    """
    ratio = anneal_ratio(epoch, start=config.anneal_start, end=config.anneal_end, end_ratio=config.anneal_end_ratio)
    return ratio * config.alpha, max(1, int(ratio * config.delta)), ratio * (config.strength or 0.0)
