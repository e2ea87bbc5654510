"""The families of models that there are: one entry says all that loading, converting and training ask of a family.

docs/extending.md shows how one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from ..checkpoints.checkpoint import Checkpoint
from ..config import PerturbationConfig, RunConfig
from ..core.errors import UserError
from ..core.sizes import Size
from ..formats.diffusers_vae import DIFFUSERS_VAE
from ..formats.gigatok import GIGATOK
from ..formats.layout import Layout
from ..formats.llamagen_gpt import LLAMAGEN_GPT
from ..formats.llamagen_vq import LLAMAGEN_VQ
from ..formats.maetok import MAETOK_RELEASE
from ..formats.maskgit_vqgan import MASKGIT_VQGAN
from ..formats.rar_release import RAR_RELEASE
from ..formats.robustok_release import ROBUSTOK_RELEASE
from ..formats.sit_release import SIT_GRID, SIT_SEQUENCE
from ..formats.titok import TITOK_RELEASE
from ..formats.vqgan import VQGAN_RELEASE
from ..model_configs import (
    ConvTokenizerConfig,
    ConvVAEConfig,
    GigaTokConfig,
    LlamaGenConfig,
    MAETokConfig,
    RARConfig,
    SiTConfig,
    TiTokConfig,
    TokenizerConfig,
)
from ..ops.perturbation import Kind, uses
from .generators.llamagen import LlamaGen
from .generators.rar import RAR, order_schedule
from .generators.sit import SiT
from .interfaces import DiscreteTokenizer, Tokenizer, is_discrete
from .tokenizers.conv_tokenizer import ConvTokenizer
from .tokenizers.conv_vae import ConvVAE
from .tokenizers.gigatok import GigaTok
from .tokenizers.maetok import MAETok
from .tokenizers.resizing import resize_config, resize_vit
from .tokenizers.titok import TiTok
from .tokenizers.vit_tokenizer import ViTTokenizer

Role = Literal["tokenizer", "generator"]
USUAL = {"tokenizer": "tokenizer", "generator": "rar"}  # the families of a run that names none


def no_schedule(run: RunConfig, epoch: float) -> dict[str, float]:
    """The schedule of a family whose loss stays the same all through training."""
    return {}


def sizes_of_tokens(
    tokenizer: DiscreteTokenizer, num_classes: int, statistics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a generator of tokens that the tokenizer and the data decide; tokens have no statistics.

    Raises UserError for a tokenizer without tokens.
    """
    if not is_discrete(tokenizer):
        raise UserError(
            f"a {family_of(tokenizer).kind} makes latents without a codebook, and a generator of tokens cannot be "
            "trained on them: choose another family.generator, or another tokenizer"
        )
    codes = tokenizer.codebook.shape[-2]
    return {"codebook_size": codes, "num_classes": num_classes, "num_tokens": tokenizer.num_tokens}


def sizes_of_grid_tokens(
    tokenizer: DiscreteTokenizer, num_classes: int, statistics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The same for a generator that knows where its tokens lie: the rows of a grid that is no square, too."""
    return sizes_of_tokens(tokenizer, num_classes, statistics) | rows_of(tokenizer)


def rows_of(tokenizer: Tokenizer) -> dict[str, int]:
    """{"rows": ...} of a tokenizer whose latents are a grid and no square, else {}."""
    grid = getattr(tokenizer, "grid", None)
    return {} if grid is None or isinstance(grid, int) else {"rows": grid[0]}


def sizes_of_latents(
    tokenizer: Tokenizer, num_classes: int, statistics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a generator of latents that the tokenizer and the data decide.

    statistics: `mean` and `std` of each channel of the training images' latents; None: latents are taken as they are.
    """
    length, width = tokenizer.latent_shape
    decided = {"num_latents": length, "latent_width": width, "num_classes": num_classes}
    decided |= rows_of(tokenizer)
    if statistics is not None:
        decided |= {f"latent_{name}": tuple(statistics[name]) for name in ("mean", "std")}
    return decided


def codes_of(config: TokenizerConfig, run: RunConfig) -> str:
    """What a run trains as its tokenizer of codes."""
    codes = f"{config.codebook_size} codes x {config.code_width}"
    return f"{codes}, {perturbation_of(run.perturbation, run.perturbation.kind or 'neighbor')}"


def latents_of(config: MAETokConfig, run: RunConfig) -> str:
    """What a run trains as its tokenizer of latents."""
    low, high = config.hidden
    latents = f"{config.num_latents} latents x {config.latent_width}"
    perturbed = perturbation_of(run.perturbation, run.perturbation.kind)
    return f"{latents}, {low:.0%} to {high:.0%} of the patches hidden, {perturbed}"


def perturbation_of(p: PerturbationConfig, kind: Kind | None) -> str:
    """How main training perturbs latents; kind: as it follows from the tokenizer."""
    if kind is None:
        return "no latent perturbation"
    name = "latent perturbation" if kind == "neighbor" else f"latent perturbation ({kind})"
    used = [f"{argument} {getattr(p, argument)}" for argument in ("delta", "strength") if uses(kind, argument)]
    return ", ".join([f"{name} alpha {p.alpha}", f"beta {p.beta}", *used])


def size_of(config: Any, run: RunConfig) -> str:
    """What a run trains, of a network with width and depth."""
    return f"{config.width} wide, {config.depth} layers"


@dataclass(frozen=True)
class Family:
    """One family of models."""

    kind: str  # its name in the config.json of a checkpoint
    role: Role
    config: type  # frozen dataclass of its shape, of no other family
    build: Callable[[Any], nn.Module]  # a model with fresh weights of such a config
    layouts: tuple[Layout, ...] = ()  # published files that hold one; `convert --to upstream` writes the first that can
    schedule: Callable[[RunConfig, float], dict[str, float]] = no_schedule  # (run, epoch) -> arguments of model.loss
    section: str | None = None  # field of RunConfig with the config that a run trains; None: no run trains this family
    sections: tuple[str, ...] = ()  # other fields of RunConfig that its training depends on
    decided: Callable[..., dict[str, Any]] = sizes_of_tokens  # of a generator: what of its config is not given, but
    # follows from (tokenizer, number of classes, statistics of the latents)
    sampling: str = "sampling"  # of a generator: field of RunConfig with the settings of its sampler
    about: Callable[[Any, RunConfig], str] = size_of  # for people: what a run with this config and settings trains
    resized: Callable[[Checkpoint, Size], Checkpoint] | None = None  # of a tokenizer: the same for another image size;
    # None: it is of one size


CONVOLUTIONAL = (LLAMAGEN_VQ, VQGAN_RELEASE, MASKGIT_VQGAN)
FAMILIES = {
    family.kind: family
    for family in (
        Family(
            "tokenizer",
            "tokenizer",
            TokenizerConfig,
            ViTTokenizer,
            (ROBUSTOK_RELEASE,),
            section="tokenizer",
            about=codes_of,
            resized=resize_vit,
        ),
        Family("conv_tokenizer", "tokenizer", ConvTokenizerConfig, ConvTokenizer, CONVOLUTIONAL, resized=resize_config),
        Family("gigatok", "tokenizer", GigaTokConfig, GigaTok, (GIGATOK,)),
        Family("maetok", "tokenizer", MAETokConfig, MAETok, (MAETOK_RELEASE,), section="maetok", about=latents_of),
        Family("titok", "tokenizer", TiTokConfig, TiTok, (TITOK_RELEASE,)),
        Family("conv_vae", "tokenizer", ConvVAEConfig, ConvVAE, (DIFFUSERS_VAE,), resized=resize_config),
        Family("rar", "generator", RARConfig, RAR, (RAR_RELEASE,), order_schedule, "generator", ("order",)),
        Family(
            "llamagen",
            "generator",
            LlamaGenConfig,
            LlamaGen,
            (LLAMAGEN_GPT,),
            section="llamagen",
            decided=sizes_of_grid_tokens,
        ),
        Family(
            "sit",
            "generator",
            SiTConfig,
            SiT,
            (SIT_SEQUENCE, SIT_GRID),
            section="sit",
            decided=sizes_of_latents,
            sampling="flow_sampling",
        ),
    )
}


def families(role: Role | None = None) -> list[Family]:
    """All families, or those of one role."""
    return [family for family in FAMILIES.values() if role in (None, family.role)]


def family_of(model: Any) -> Family:
    """The family of a model, or of its config. Raises TypeError for one of none."""
    config = getattr(model, "config", model)
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    known = ", ".join(family.config.__name__ for family in FAMILIES.values())
    raise TypeError(f"{type(config).__name__} is the config of no family; expected one of {known}")


def trained_family(run: RunConfig, role: Role) -> Family:
    """The family that a run trains as its tokenizer or generator, or starts from.

    Raises UserError for a kind that no run can train, unless there is a model to start from.
    """
    kind = getattr(run.family, role) or USUAL[role]
    given = getattr(run.start, role) is not None
    kinds = {family.kind: family for family in families(role) if given or family.section is not None}
    if kind not in kinds:
        raise UserError(f"family.{role}: found {kind!r}, expected one of {', '.join(kinds)}")
    return kinds[kind]


def trained_config(run: RunConfig, role: Role) -> Any:
    """The settings of the tokenizer or generator that a run trains: the section of its family.

    Raises UserError for a family that can be started from, but not trained.
    """
    family = trained_family(run, role)
    if family.section is None:
        raise UserError(
            f"start.{role}: {getattr(run.start, role)} is a {family.kind}, which no run trains: leave out the stage "
            f"{role} (run --stage generator, pairs or post)"
        )
    return getattr(run, family.section)


def sections_of(run: RunConfig, names: Collection[str]) -> set[str]:
    """Names of sections of a run, where "tokenizer", "generator" and "sampling" mean those of the trained families."""
    tokenizer, generator = trained_family(run, "tokenizer"), trained_family(run, "generator")
    meant = {
        "tokenizer": {tokenizer.section, *tokenizer.sections},
        "generator": {generator.section, *generator.sections},
        "sampling": {generator.sampling},
    }
    return set().union(*(meant.get(name, {name}) for name in names)) - {None}


def sampler_settings(section: Any) -> dict[str, Any]:
    """The arguments of `generator.sampler` among the settings of a sampling section: all but the batch size."""
    return {name: value for name, value in asdict(section).items() if name != "batch_size"}
