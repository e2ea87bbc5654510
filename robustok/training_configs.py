"""How models learn: the sections of `RunConfig` on losses, perturbation, optimisers and when training stops.

Units as in config.py: lengths in epochs, batches over all processes, absolute learning rates; and None as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .core.settings import PATH, setting


@dataclass(frozen=True)
class PerturbationConfig:
    """Latent perturbation of main training (section 3): kind, rate, proportion, strength, and their annealing."""

    # The kinds of robustok.perturb; None: neighbor where the tokenizer has codes, no perturbation where it has none.
    kind: Literal["neighbor", "uniform", "adversarial", "gaussian", "interpolate", "mask"] | None = None
    alpha: float = setting(1.0, "[0, 1]")  # share of an image's tokens perturbed
    beta: float = setting(0.1, "[0, 1]")  # share of the global batch's images perturbed
    delta: int | None = setting(None, "[1, 2**20]")  # size of the neighbour set, of neighbor and adversarial
    # largest strength of gaussian and interpolate, on the scale of the latents
    strength: float | None = setting(None, "[0, inf)")
    neighbors: Literal["latent", "code"] = "latent"
    # epochs; alpha, int(delta) and strength are multiplied by a ratio, which is 1 until here
    anneal_start: float | None = setting(None, "[0, inf)")
    anneal_end: float | None = setting(None, "[0, inf)")  # epochs; the ratio falls linearly until here
    anneal_end_ratio: float = setting(0.5, "[0, 1]")  # the ratio from anneal_end on


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms of main training and post-training (section 2)."""

    reconstruction: float = setting(1.0, "[0, inf)")
    perceptual: float = setting(1.0, "[0, inf)")
    vq: float = setting(1.0, "[0, inf)")
    commit: float = setting(0.25, "[0, inf)")
    semantic: float = setting(0.1, "[0, inf)")
    adversarial: float = setting(0.5, "[0, inf)")
    adversarial_start: float | None = setting(None, "[0, inf)")  # epochs
    adversarial_kind: Literal["hinge", "non_saturating"] = "hinge"
    # a blur of the discriminator's inputs fades out over so long from its start; 0: none
    blur_epochs: float = setting(0.0, "[0, inf)")
    lecam: float = setting(0.001, "[0, inf)")


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast a stage learns (AdamW, warm-up and cosine)."""

    epochs: float | None = setting(None, "(0, 1e6]")
    # images an optimiser step, over all processes and micro-batches
    batch_size: int | None = setting(None, "[1, 2**20]")
    accumulate: int = setting(1, "[1, 2**16]")  # micro-batches a step
    lr: float = setting(2.4e-4, "(0, 1]")
    min_lr: float = setting(5e-5, "[0, 1]")
    warmup_epochs: float | None = setting(None, "[0, inf)")
    warmup_lr: float = setting(1e-5, "[0, 1]")  # where the warm-up starts
    decay_after_warmup: bool = False  # the cosine starts at the end of the warm-up (RAR) instead of at 0 (tokenizer)
    betas: tuple[float, float] = setting((0.9, 0.95), "[0, 1)")
    weight_decay: float = setting(0.0, "[0, 10]")
    clip_norm: float | None = setting(None, "(0, inf)")  # largest gradient norm; None: no clipping
    ema: float | None = setting(None, "[0, 1)")
    save_every: int | None = setting(500, "[1, inf)")  # optimiser steps between checkpoints
    keep: int = setting(2, "[1, inf)")  # newest checkpoints that are kept, beside the best one
    # figure of validation by which the step to use is chosen, a stage's own; None: the last step
    keep_best_by: Literal["rfd", "pfd", "nfd", "psnr", "loss"] | None = None


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Optimiser of the discriminator. In main training its schedule counts from `losses.adversarial_start`."""

    lr: float = setting(8e-4, "(0, 1]")
    min_lr: float = setting(5e-5, "[0, 1]")
    warmup_epochs: float | None = setting(None, "[0, inf)")
    warmup_lr: float = setting(1e-5, "[0, 1]")
    betas: tuple[float, float] = setting((0.9, 0.95), "[0, 1)")
    weight_decay: float = setting(5e-4, "[0, 10]")


@dataclass(frozen=True)
class WarmupConfig(DiscriminatorConfig):
    """Warm-up of a new discriminator before post-training, for a tokenizer that came without one. Its batches are those
    of `post_training`.
    """

    epochs: float | None = setting(None, "(0, 1e6]")
    lr: float = setting(2e-4, "(0, 1]")
    warmup_epochs: float | None = setting(None, "[0, inf)")  # of the learning rate


@dataclass(frozen=True)
class StoppingConfig:
    """When post-training stops: by the distance of samples from the validation images in two spaces of features,
    checked now and then; the best step is used.
    """

    every_epochs: float | None = setting(None, "(0, inf)")  # from one check to the next
    patience: int = setting(2, "[1, inf)")  # checks without a better score


@dataclass(frozen=True)
class CodebookConfig:
    """How the codebook starts: the encoder is trained without it first, then k-means of its outputs sets the codes."""

    # optimiser steps without quantisation before the codebook is set; 0: random codebook
    continuous_steps: int | None = setting(0, "[0, inf)")
    # optimiser steps after which a code that was no latent's nearest is set on a latent of the batch; None: never
    restart_dead_after: int | None = setting(None, "[1, inf)")
    usage_window: int = setting(65536, "[1, inf)")  # tokens over which usage is counted
    alarm_usage: float = setting(0.1, "[0, 1]")  # share of the codes in use below which the log has an alarm


@dataclass(frozen=True)
class OrderConfig:
    """Random-to-raster annealing: sequences are permuted with probability r."""

    anneal_start: float | None = setting(None, "[0, inf)")  # epochs; r is 1 until here
    anneal_end: float | None = setting(None, "[0, inf)")  # and 0 from here


@dataclass(frozen=True)
class ValidationConfig:
    """Figures on the validation images while tokenizer and generator are trained, of their averaged weights."""

    every_epochs: float | None = setting(None, "(0, inf)")  # from one validation to the next; None: none
    inception: str | None = setting(None, PATH)  # Inception's weights, for FID; None: the run's classifier
