"""Every setting of a run, as frozen dataclasses. The presets are YAML files in configs/.

Lengths of training are in epochs (passes over the training images), batch sizes count images over all processes,
learning rates are absolute. None, where the comment says nothing else: decided from the data and the device, which is
said (job/decisions.py). Each setting says what it may be (`core.settings`); how settings must fit each other is in
job/relations.py. How models learn is in training_configs.py, their shapes are in model_configs.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .core.settings import NAME, PATH, WORD, setting
from .model_configs import LlamaGenConfig, MAETokConfig, RARConfig, SiTConfig, TokenizerConfig
from .training_configs import (
    CodebookConfig,
    DiscriminatorConfig,
    LossConfig,
    OrderConfig,
    PerturbationConfig,
    StoppingConfig,
    TrainingConfig,
    ValidationConfig,
    WarmupConfig,
)


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split, cropped and flipped."""

    # folder of images (one sub-folder a class), tar shards or Parquet files; None: scikit-learn's digits
    root: str | None = setting(None, PATH)
    # Validation images: post-training stops by them and chooses its best step, and `validation` measures them. None: a
    # tenth, 2 to 2000
    val: int | None = setting(None, "[2, inf)")
    # Test images: only the final evaluation sees them. None: three twentieths, 2 to 10,000
    test: int | None = setting(None, "[2, inf)")
    split_seed: int = setting(0, "[0, 2**63)")
    # random crop from a random resize: smallest and largest share of the side kept
    crop_min: float = setting(1.0, "(0, 1]")
    crop_max: float = setting(1.0, "(0, 1]")
    flip: bool = False  # random horizontal flip
    token_views: Literal["none", "flip", "tencrop"] = "none"  # crops of each image that the generator trains on


@dataclass(frozen=True)
class FamilyConfig:
    """Which families of models a run trains or starts from: kinds of models/registry.py. Each that it can train has a
    section of settings. None: the family of the model in `start`, else the ViT tokenizer and RAR.
    """

    tokenizer: str | None = setting(None, WORD)
    generator: str | None = setting(None, WORD)


@dataclass(frozen=True)
class FrozenConfig:
    """Weights of pretrained networks, as files; None: the small classifier trained on the run's own data instead."""

    dinov2: str | None = setting(None, PATH)  # teacher of the semantic loss, and start of encoder and decoder
    dino: str | None = setting(None, PATH)  # ViT-S/16 backbone of the discriminator
    lpips: str | None = setting(None, PATH)  # folder with vgg.pth (the linear layers) and torchvision's VGG-16
    encoder_tuning: Literal["full", "lora", "frozen"] = "full"  # which weights of the encoder's ViT learn
    decoder_tuning: Literal["full", "lora", "frozen"] = "full"
    lora_rank: int = setting(8, "[1, 65536]")


@dataclass(frozen=True)
class StartConfig:
    """Models to start from, ours or published files. A stage that trains one goes on from it; later stages use what was
    trained, or the model itself where that stage has not run. Its file says its family and shape: the settings describe
    a tokenizer only to the stage that trains it.
    """

    tokenizer: str | None = setting(None, PATH)
    generator: str | None = setting(None, PATH)
    # folder RUN/classifier of another run on the same data and split, taken as it is: figures of both then compare
    classifier: str | None = setting(None, PATH)
    # attention heads of a released tokenizer whose width is no standard ViT
    num_heads: int | None = setting(None, "[1, 1024]")
    # at which the tokenizer is used; a ViT's positions are resampled. None: its own
    image_size: int | tuple[int, int] | None = setting(None, "[1, 10000]")


@dataclass(frozen=True)
class FlowSamplingConfig:
    """How a flow generator is sampled."""

    steps: int = setting(50, "[1, 10000]")
    solver: Literal["euler", "heun", "dopri5", "sde"] = "euler"
    guidance_scale: float = setting(1.5, "[0, 1000]")  # 1 is no guidance
    # times of guidance, 1 is noise and 0 data; None: all
    guidance_interval: tuple[float, float] | None = setting(None, "[0, 1]")
    batch_size: int | None = setting(None, "[1, 2**20]")


@dataclass(frozen=True)
class SamplingConfig:
    """How the generator is sampled (power-cosine guidance, section 5)."""

    guidance_scale: float = setting(6.0, "[0, 1000]")
    guidance_power: float | None = setting(1.15, "(0, inf)")  # None: constant guidance
    temperature: float = setting(1.02, "[0, inf)")
    top_k: int = setting(0, "[0, inf)")
    top_p: float = setting(1.0, "(0, 1]")
    batch_size: int | None = setting(None, "[1, 2**20]")


@dataclass(frozen=True)
class PairsConfig:
    """Pairs for post-training (section 6): generated latents beside their real images."""

    # how much of the real image is kept, see generation/pairs.py: 1 all, 0 nothing
    sigma: float = setting(0.7, "[0, 1]")
    modes: tuple[Literal["reencode", "direct"], ...] = ("reencode", "direct")  # one post-trained decoder each
    per_image: int = setting(1, "[1, 10000]")  # generated ones an image


@dataclass(frozen=True)
class EvaluationConfig:
    """How many images the generator makes to be evaluated by: each class as often as it is among the images."""

    # on the average
    samples_per_class: int | None = setting(None, "[1, 10**6]")


@dataclass(frozen=True)
class RunConfig:
    """One run: from images to a post-trained and evaluated tokenizer."""

    name: str = setting("demo", NAME)
    runs: str = setting("runs", PATH)  # folder that holds runs/NAME/
    seed: int = setting(0, "[0, 2**63)")
    resume: Literal["auto", "never"] = "auto"  # never: set an existing run folder aside and start over
    device: str = setting("auto", WORD)  # auto: cuda where there is one, else cpu
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast on a GPU that computes in it
    compile: bool = False
    checkpoint_activations: bool = False  # compute blocks again for their gradients in place of keeping what they need
    # How several processes share a network. ddp: each holds all of it; fsdp: a generator is sharded over them (FSDP2).
    parallel: Literal["ddp", "fsdp"] = "ddp"
    log_every: int = setting(10, "[1, inf)")  # optimiser steps
    tracker: Literal["none", "wandb"] = "none"  # beside log.jsonl and TensorBoard; wandb: `robustok[wandb]`
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
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
