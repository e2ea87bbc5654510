"""Every setting of a run, as frozen dataclasses. The presets are YAML files in configs/.

Lengths of training are in epochs (passes over the training images), batch sizes count images over all processes,
learning rates are absolute. The shapes of the models are in model_configs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .model_configs import LlamaGenConfig, MAETokConfig, RARConfig, SiTConfig, TokenizerConfig

RENAMED = {  # former name of a setting -> its name; files, options and stored runs with former names are still read
    "data.stop": "data.val",
    "data.judge": "data.test",
}


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split, cropped and flipped."""

    root: str | None = None  # folder of images (one sub-folder a class) or tar shards; None: scikit-learn's digits
    val: int = 200  # validation images: post-training stops by them and chooses its best step
    test: int = 300  # test images: only the final evaluation sees them
    split_seed: int = 0
    crop_min: float = 1.0  # random crop from a random resize: smallest and largest share of the side kept
    crop_max: float = 1.0
    flip: bool = False  # random horizontal flip
    token_views: Literal["none", "flip", "tencrop"] = "none"  # crops of each image that the generator trains on


@dataclass(frozen=True)
class FamilyConfig:
    """Which families of models a run trains or starts from: kinds of models/registry.py. Each that it can train has a
    section of settings. None: the family of the model in `start`, else the ViT tokenizer and RAR.
    """

    tokenizer: str | None = None
    generator: str | None = None


@dataclass(frozen=True)
class FrozenConfig:
    """Weights of pretrained networks, as files; None: the small classifier trained on the run's own data instead."""

    dinov2: str | None = None  # teacher of the semantic loss, and start of encoder and decoder
    dino: str | None = None  # ViT-S/16 backbone of the discriminator
    lpips: str | None = None  # folder with vgg.pth (the linear layers) and torchvision's VGG-16
    encoder_tuning: Literal["full", "lora", "frozen"] = "full"  # which weights of the encoder's ViT learn
    decoder_tuning: Literal["full", "lora", "frozen"] = "full"
    lora_rank: int = 8


@dataclass(frozen=True)
class StartConfig:
    """Models to start from, ours or published files. A stage that trains one goes on from it; later stages use what was
    trained, or the model itself where that stage has not run. Its file says its family and shape: the settings describe
    a tokenizer only to the stage that trains it.
    """

    tokenizer: str | None = None
    generator: str | None = None
    num_heads: int | None = None  # attention heads of a released tokenizer whose width is no standard ViT


@dataclass(frozen=True)
class PerturbationConfig:
    """Latent perturbation of main training (section 3): kind, rate, proportion, strength, and their annealing."""

    # The kinds of robustok.perturb; None: neighbor where the tokenizer has codes, no perturbation where it has none.
    kind: Literal["neighbor", "uniform", "adversarial", "gaussian", "interpolate", "mask"] | None = None
    alpha: float = 1.0  # share of an image's tokens perturbed
    beta: float = 0.1  # share of the global batch's images perturbed
    delta: int = 100  # size of the neighbour set, of neighbor and adversarial
    strength: float | None = None  # largest strength of gaussian and interpolate, on the scale of the latents
    neighbors: Literal["latent", "code"] = "latent"
    anneal_start: float = 40.0  # epochs; the ratio r is 1 until here,
    anneal_end: float = 120.0  # falls linearly until here,
    anneal_end_ratio: float = 0.5  # and then stays at this; alpha, int(delta) and strength are multiplied by r


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms of main training and post-training (section 2)."""

    reconstruction: float = 1.0
    perceptual: float = 1.0
    vq: float = 1.0
    commit: float = 0.25
    semantic: float = 0.1
    adversarial: float = 0.5
    adversarial_start: float = 56.0  # epochs
    adversarial_kind: Literal["hinge", "non_saturating"] = "hinge"
    blur_epochs: float = 0.0  # a blur of the discriminator's inputs fades out over so long from its start; 0: none
    lecam: float = 0.001


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast a stage learns (AdamW, warm-up and cosine)."""

    epochs: float = 200.0
    batch_size: int = 1024  # images an optimiser step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches a step
    lr: float = 2.4e-4
    min_lr: float = 5e-5
    warmup_epochs: float = 1.0
    warmup_lr: float = 1e-5  # where the warm-up starts
    decay_after_warmup: bool = False  # the cosine starts at the end of the warm-up (RAR) instead of at 0 (tokenizer)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float | None = None  # largest gradient norm; None: no clipping
    ema: float = 0.9999
    save_every: int = 500  # optimiser steps between checkpoints


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Optimiser of the discriminator; its schedule counts from `losses.adversarial_start`."""

    lr: float = 8e-4
    min_lr: float = 5e-5
    warmup_epochs: float = 4.0
    warmup_lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class WarmupConfig(DiscriminatorConfig):
    """Warm-up of a new discriminator before post-training, for a tokenizer that came without one. Its batches are those
    of `post_training`.
    """

    epochs: float = 1.0
    lr: float = 2e-4
    warmup_epochs: float = 0.1  # of the learning rate


@dataclass(frozen=True)
class StoppingConfig:
    """When post-training stops: by gFD against the validation images, checked now and then; the best step is used."""

    every_epochs: float = 5.0
    patience: int = 2  # checks without a better score


@dataclass(frozen=True)
class CodebookConfig:
    """How the codebook starts: the encoder is trained without it first, then k-means of its outputs sets the codes."""

    continuous_steps: int = 0  # optimiser steps without quantisation before the codebook is set; 0: random codebook
    usage_window: int = 65536  # tokens over which usage is counted


@dataclass(frozen=True)
class FlowSamplingConfig:
    """How a flow generator is sampled."""

    steps: int = 50
    solver: Literal["euler", "heun", "dopri5", "sde"] = "euler"
    guidance_scale: float = 1.5  # 1 is no guidance
    guidance_interval: tuple[float, float] | None = None  # times of guidance, 1 is noise and 0 data; None: all
    batch_size: int = 50


@dataclass(frozen=True)
class OrderConfig:
    """Random-to-raster annealing: sequences are permuted with probability r."""

    anneal_start: float = 200.0  # epochs; r is 1 until here
    anneal_end: float = 300.0  # and 0 from here


@dataclass(frozen=True)
class SamplingConfig:
    """How the generator is sampled (power-cosine guidance, section 5)."""

    guidance_scale: float = 6.0
    guidance_power: float | None = 1.15  # None: constant guidance
    temperature: float = 1.02
    top_k: int = 0
    top_p: float = 1.0
    batch_size: int = 50


@dataclass(frozen=True)
class PairsConfig:
    """Pairs for post-training (section 6): generated latents beside their real images."""

    sigma: float = 0.7  # how much of the real image is kept, see generation/pairs.py: 1 all, 0 nothing
    modes: tuple[Literal["reencode", "direct"], ...] = ("reencode", "direct")  # one post-trained decoder each
    per_image: int = 1  # generated ones an image


@dataclass(frozen=True)
class EvaluationConfig:
    """How many images the evaluation samples and takes at a time."""

    samples_per_class: int = 50
    batch_size: int = 100


@dataclass(frozen=True)
class RunConfig:
    """One run: from images to a post-trained and evaluated tokenizer."""

    name: str = "demo"
    runs: str = "runs"  # folder that holds runs/NAME/
    seed: int = 0
    resume: Literal["auto", "never"] = "auto"  # never: set an existing run folder aside and start over
    device: str = "auto"  # auto: cuda where there is one, else cpu
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast on a GPU that computes in it
    compile: bool = False
    log_every: int = 10  # optimiser steps
    data: DataConfig = field(default_factory=DataConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    maetok: MAETokConfig = field(default_factory=MAETokConfig)
    frozen: FrozenConfig = field(default_factory=FrozenConfig)
    start: StartConfig = field(default_factory=StartConfig)
    classifier: TrainingConfig = field(default_factory=TrainingConfig)  # of the network that stands in for frozen ones
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    tokenizer_training: TrainingConfig = field(default_factory=TrainingConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    generator: RARConfig = field(default_factory=RARConfig)
    llamagen: LlamaGenConfig = field(default_factory=LlamaGenConfig)
    sit: SiTConfig = field(default_factory=SiTConfig)
    generator_training: TrainingConfig = field(default_factory=TrainingConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    flow_sampling: FlowSamplingConfig = field(default_factory=FlowSamplingConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    post_training: TrainingConfig = field(default_factory=TrainingConfig)
    post_discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    discriminator_warmup: WarmupConfig = field(default_factory=WarmupConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def with_new_names(settings: Mapping[str, Any], note: Callable[[str], None] = lambda old: None) -> dict[str, Any]:
    """Settings {section: {name: value}} with former names (`RENAMED`) replaced; `note` is called with each one found.

    A setting that is there under both names keeps the value of the new one.
    """
    settings = {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    for old, new in RENAMED.items():
        (section, name), (_, new_name) = old.split("."), new.split(".")
        if isinstance(settings.get(section), dict) and name in settings[section]:
            value = settings[section].pop(name)
            settings[section].setdefault(new_name, value)
            note(old)
    return settings
