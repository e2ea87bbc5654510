"""The published layout of MAETok and SoftVQ: a file of weights, in a hub's folder with a config.json beside it.

The tensors tell all sizes but the number of attention heads, which follows from the standard widths. The settings
tell what no tensor does: SoftVQ's temperature and normalisation, and the mean and standard deviation that generators
of the same authors expect.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint, State
from ..model_configs import MAETokConfig
from .layout import Given, HubFolder, PublishedFile, described, under_both_names
from .sources import Source
from .tensors import attention_heads, block_count, require

MARKS = (
    *("encoder.latent_tokens", "encoder.latent_pos_embed", "decoder.latent_pos_embed"),
    "decoder.to_pixel.model.weight",
)
# Beginning of a key there -> here. The longest match counts.
PREFIXES = {
    "encoder.model.patch_embed.": "encoder.patch_embed.",
    "encoder.model.": "encoder.transformer.",
    "encoder.latent_pos_embed": "encoder.latent_positions",
    "encoder.freqs": "encoder.transformer.frequencies",
    "post_quant_conv.": "decoder.project.",
    "decoder.model.": "decoder.transformer.",
    "decoder.latent_pos_embed": "decoder.latent_positions",
    "decoder.freqs": "decoder.transformer.frequencies",
    "decoder.to_pixel.model.": "decoder.output.",
    "quantize.embedding": "quantizer.codebook",
}
THEIR_MODULATION = re.compile(r"(blocks\.\d+)\.adaLN_modulation\.1\.")
OUR_MODULATION = re.compile(r"(blocks\.\d+)\.norm\.modulation\.")
# Tables that follow from the sizes, parts that only training uses, and what the decoder has but does not use.
IGNORED = (
    *("encoder.freqs_t_", "decoder.freqs_t_", "decoder.model.patch_embed."),
    *("encoder.mask_token", "decoder_", "post_quant_conv_", "repa_", "quantize.codebook_used"),
)
SIZES = (
    *("encoder.model.patch_embed.proj.weight", "encoder.model.pos_embed", "encoder.model.blocks.0.mlp.fc1.weight"),
    *("encoder.latent_tokens", "quant_conv.weight", "post_quant_conv.weight", "decoder.mask_token"),
)
STANDARD_NAMES = {384: "small", 768: "base", 1024: "large"}  # widths of the transformers that they name
MAETOK = Source(
    name="MAETok",
    files=("model.safetensors", "config.json"),
    repository="Hhhhhhao/continuous_tokenizer",
    licence=None,
    weights="only",
    similarity="l2",
    value_range=(-1.0, 1.0),
    resize="shorter side, halving box then bicubic",
)


class MAETokRelease:
    """MAETok and SoftVQ; a codebook tells them apart."""

    name = "MAETok or SoftVQ tokenizer"
    marks = MARKS
    source = MAETOK

    def recognises(self, keys: Collection[str]) -> bool:
        return set(MARKS) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """`given.num_heads` is needed only for a width that is no standard ViT.

        Raises: UserError for tensors that are missing, and for unknown heads.
        """
        told = file.settings or file.content
        settings = told["config"] if isinstance(told.get("config"), dict) else {}
        config = self._config(file.state, settings, given.num_heads, str(file.path))
        weights = {name: from_published(state, config) for name, state in file.weights.items()}
        upstream = {"config": settings} if settings else {}
        return Checkpoint(file.path, described(self), config, under_both_names(weights), upstream=upstream)

    def _config(self, state: State, settings: dict, num_heads: int | None, where: str) -> MAETokConfig:
        require(state, SIZES, where, described(self))
        latent_width, width = state["quant_conv.weight"].shape
        decoder_width = len(state["post_quant_conv.weight"])
        patch = state["encoder.model.patch_embed.proj.weight"].shape[-1]
        decoder_patch = round((len(state["decoder.to_pixel.model.weight"]) / 3) ** 0.5)
        codebooks, codebook_size, _ = state["quantize.embedding"].shape if "quantize.embedding" in state else (0, 0, 0)
        return MAETokConfig(
            image_size=patch * round((state["encoder.model.pos_embed"].shape[1] - 1) ** 0.5),
            patch_size=patch,
            width=width,
            depth=block_count(state, "encoder.model."),
            heads=attention_heads(width, num_heads, where),
            decoder_patch_size=None if decoder_patch == patch else decoder_patch,
            decoder_width=decoder_width,
            decoder_depth=block_count(state, "decoder.model."),
            decoder_heads=attention_heads(decoder_width, num_heads, where),
            mlp_ratio=len(state["encoder.model.blocks.0.mlp.fc1.weight"]) / width,
            layer_scale=1e-5 if "encoder.model.blocks.0.ls1.gamma" in state else None,
            num_latents=state["encoder.latent_tokens"].shape[1],
            latent_width=latent_width,
            rotary="encoder.freqs" in state,
            decoder_class_token=bool(settings.get("dec_cls_token", True)),
            modulated_decoder=any(THEIR_MODULATION.search(key) for key in state),
            codebooks=codebooks,
            codebook_size=codebook_size,
            normalize=bool(settings.get("codebook_l2_norm", True)),
            temperature=float(settings.get("tau", 0.07)),
            latent_mean=float(settings.get("vq_mean", 0.0)),
            latent_std=float(settings.get("vq_std", 1.0)),
            targets=(),
            hidden=(0.0, 0.0),
        )

    def holds(self, config: MAETokConfig) -> bool:
        return isinstance(config.image_size, int)

    def write(self, checkpoint: Checkpoint) -> HubFolder:
        """A folder that their `from_pretrained` opens; auxiliary decoders are left out."""
        config = checkpoint.config
        settings = checkpoint.upstream.get("config") or their_settings(config)
        return HubFolder(to_published(checkpoint.choose("ema"), config), {"config": settings})


MAETOK_RELEASE = MAETokRelease()


def from_published(state: State, config: MAETokConfig) -> State:
    """Their keys -> ours. Keys that are not known are kept, so that loading reports them."""
    ignored = list(IGNORED)
    if config.rotary:
        ignored.append("decoder.model.pos_embed")  # is not added there
    if not config.decoder_class_token:
        ignored.append("decoder.model.cls_token")
    ours = {}
    for key, tensor in state.items():
        if not key.startswith(tuple(ignored)):
            name = THEIR_MODULATION.sub(r"\1.norm.modulation.", _renamed(key, PREFIXES))
            ours[name.replace("norm.adaLN_modulation.1.", "norm.modulation.")] = tensor
    return ours


def to_published(state: State, config: MAETokConfig) -> State:
    """Our keys -> theirs, with tables that follow from the sizes, and zeros for what their decoder does not use."""
    back = {ours: theirs for theirs, ours in PREFIXES.items()}
    theirs = {}
    for key, tensor in state.items():
        if not key.startswith("masked."):
            name = OUR_MODULATION.sub(r"\1.adaLN_modulation.1.", _renamed(key, back))
            theirs[name.replace("norm.modulation.", "norm.adaLN_modulation.1.")] = tensor
    width, patch = config.decoder_width or config.width, config.decoder_patch_size or config.patch_size
    theirs["decoder.model.patch_embed.proj.weight"] = torch.zeros(width, 3, patch, patch)
    theirs["decoder.model.patch_embed.proj.bias"] = torch.zeros(width)
    theirs.setdefault("decoder.model.cls_token", torch.zeros(1, 1, width))
    theirs.setdefault("decoder.model.pos_embed", torch.zeros(1, 1 + (config.image_size // patch) ** 2, width))
    if config.rotary:
        for side, size in (("encoder", config.patch_size), ("decoder", patch)):
            grid = config.image_size // size
            place = torch.arange(grid**2)
            theirs |= {f"{side}.freqs_t_x": (place % grid).float(), f"{side}.freqs_t_y": (place // grid).float()}
    return theirs


def their_settings(config: MAETokConfig) -> dict[str, Any]:
    """What their config.json says of such a model; the names of transformers only where the width is a standard one."""
    settings = {
        "image_size": config.image_size,
        "base_image_size": config.image_size,
        "codebook_size": config.codebook_size,
        "codebook_embed_dim": config.latent_width,
        "codebook_l2_norm": config.normalize,
        "num_codebooks": max(1, config.codebooks),
        "tau": config.temperature,
        "enc_type": "vit",
        "dec_type": "vit",
        "num_latent_tokens": config.num_latents,
        "to_pixel": "linear",
        "enc_patch_size": config.patch_size,
        "dec_patch_size": config.decoder_patch_size or config.patch_size,
        "dec_cls_token": config.decoder_class_token,
        "use_ape": not config.rotary,
        "use_rope": config.rotary,
        "rope_mixed": config.rotary,
        "vq_mean": config.latent_mean,
        "vq_std": config.latent_std,
    }
    kind = "_movqv2" if config.modulated_decoder else ".lvd142m"
    names = {"encoder_model": (config.width, ".lvd142m"), "decoder_model": (config.decoder_width or config.width, kind)}
    for name, (width, ending) in names.items():
        if width in STANDARD_NAMES:
            settings[name] = f"vit_{STANDARD_NAMES[width]}_patch14_dinov2{ending}"
    return settings


def _renamed(key: str, prefixes: dict[str, str]) -> str:
    for prefix in sorted(prefixes, key=len, reverse=True):
        if key.startswith(prefix):
            return prefixes[prefix] + key[len(prefix) :]
    return key
