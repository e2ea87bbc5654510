"""TiTok (arXiv 2406.07550) as published: a hub's folder with model.safetensors and config.json, or a flat .bin file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, State
from ..core.errors import UserError
from ..model_configs import TiTokConfig
from .conv_names import LAYERS as CONV_LAYERS
from .conv_names import renamed
from .layout import Given, HubFolder, PublishedFile, described, under_both_names
from .maskgit_vqgan import NAMES as PIXEL_NAMES
from .sources import Source
from .tensors import attention_heads, block_count, refuse_other_size, require

MARKS = ("latent_tokens", "encoder.latent_token_positional_embedding", "quantize.embedding.weight")
TWO_STAGE = "decoder.ffn.2.weight"  # the layer of logits: what a single-stage decoder does not have
PIXEL = "pixel_"  # what keys of the pixel decoder and its codes begin with
PIXEL_CODES = "pixel_quantize.embedding.weight"
# Beginning of a key there -> here, after that of the side.
TRANSFORMER = {
    "class_embedding": "transformer.cls_token",
    "positional_embedding": "transformer.pos_embed",
    "latent_token_positional_embedding": "latent_positions",
    "ln_pre.": "transformer.first_norm.",
    "ln_post.": "transformer.norm.",
    "transformer.": "transformer.blocks.",
}
PREFIXES = (
    ("latent_tokens", "encoder.latent_tokens"),
    ("encoder.patch_embed.", "encoder.patch_embed.proj."),
    ("encoder.conv_out.", "quant_conv."),
    *(
        (f"{side}.{theirs}", f"{side}.{ours}")
        for side in ("encoder", "decoder")
        for theirs, ours in TRANSFORMER.items()
    ),
    ("decoder.decoder_embed.", "decoder.project."),
    ("decoder.ffn.0.", "decoder.output."),
    ("decoder.ffn.2.", "pixels.logits."),
    ("decoder.conv_out.", "pixels.conv."),
    ("quantize.embedding.weight", "quantizer.codebook"),
)
LAYERS = {
    **{".ln_1.": ".norm1.", ".attn.in_proj_": ".attn.qkv.", ".attn.out_proj.": ".attn.proj."},
    **{".ln_2.": ".norm2.", ".mlp.c_fc.": ".mlp.fc1.", ".mlp.c_proj.": ".mlp.fc2."},
}
TABLES = ("latent_tokens", "class_embedding", "positional_embedding")  # have one axis more here: the batch's
POINTWISE = ("encoder.conv_out.weight", "decoder.ffn.0.weight", TWO_STAGE)  # 1x1 convolutions, linear layers here
SIZES = (
    *("encoder.patch_embed.weight", "encoder.positional_embedding", "encoder.transformer.0.mlp.c_fc.weight"),
    *("encoder.conv_out.weight", "decoder.positional_embedding", "latent_tokens"),
)
HEADS = {"small": 8, "base": 12, "large": 16}  # of the transformers that config.json names
STANDARD_HEADS = {512: 8, 768: 12, 1024: 16}  # of their widths


_FACTS = dict(licence="Apache-2.0", weights="only", value_range=(0.0, 1.0))
_FACTS |= dict(resize="shorter side, bilinear with antialiasing", repository="fun-research/TiTok")
SINGLE_STAGE_SOURCE = Source(
    name="TiTok, single-stage",
    files=tuple(f"tokenizer_titok_{name}.bin" for name in ("bl64_vq8k", "bl128_vq8k", "sl256_vq8k")),
    similarity="l2",
    **_FACTS,
)
TWO_STAGE_SOURCE = Source(
    name="TiTok, two-stage",
    files=tuple(f"tokenizer_titok_{name}.bin" for name in ("l32", "b64", "s128")),
    similarity="cosine",
    **_FACTS,
)


class TiTokRelease:
    """Single-stage and two-stage TiTok with vector quantisation.

    The tensors tell all sizes but the number of attention heads: config.json names the size of each transformer, and of
    a .bin file, which stands alone, they follow from the standard widths. No tensor says either whether unit vectors
    are compared: config.json does, and a file that stands alone is taken as all published ones of its kind are, unless
    the caller gives `similarity`.
    """

    name = "TiTok tokenizer"
    marks = MARKS

    def recognises(self, keys: Collection[str]) -> bool:
        return set(MARKS) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """`given.num_heads` and `given.similarity` are for a file without config.json.

        Raises: UserError for tensors that are missing, for unknown heads, and for a config.json of another model.
        """
        config = self._config(file.state, file.settings, given, str(file.path))
        weights = {name: from_published(state, config) for name, state in file.weights.items()}
        upstream = {"config": file.settings} if file.settings else {}
        weights, source = under_both_names(weights), source_of(config)
        return Checkpoint(file.path, described(self), config, weights, upstream=upstream, source=source)

    def _config(self, state: State, settings: dict[str, Any], given: Given, where: str) -> TiTokConfig:
        require(state, SIZES, where, described(self))
        width, decoder_width = (state[f"{side}.positional_embedding"].shape[1] for side in ("encoder", "decoder"))
        grid, decoder_grid = (_grid(state[f"{side}.positional_embedding"]) for side in ("encoder", "decoder"))
        patch = state["encoder.patch_embed.weight"].shape[-1]
        decoder_patch = patch * grid // decoder_grid
        codebook_size, code_width = state["quantize.embedding.weight"].shape
        config = TiTokConfig(
            image_size=patch * grid,
            patch_size=patch,
            width=width,
            depth=block_count(state, "encoder.", "transformer"),
            decoder_patch_size=None if decoder_patch == patch else decoder_patch,
            decoder_width=decoder_width,
            decoder_depth=block_count(state, "decoder.", "transformer"),
            mlp_ratio=len(state["encoder.transformer.0.mlp.c_fc.weight"]) / width,
            num_latents=len(state["latent_tokens"]),
            codebook_size=codebook_size,
            code_width=code_width,
            **(self._pixel_sizes(state, where) if TWO_STAGE in state else {}),
        )
        refuse_other_size("image_size", given.image_size, config.image_size, where)
        return replace(config, **(_told(settings, config, given, where) if settings else _untold(config, given, where)))

    def _pixel_sizes(self, state: State, where: str) -> dict[str, Any]:
        layout = described(self)
        require(state, (PIXEL_CODES, "pixel_decoder.conv_in.weight"), where, f"two-stage {layout}")
        codes, code_width = state[PIXEL_CODES].shape
        sizes = PIXEL_NAMES.decoder_sizes(state, where, layout, PIXEL)
        return {f"{PIXEL}{name}": size for name, size in sizes.items()} | dict(
            pixel_codes=codes, pixel_code_width=code_width
        )

    def holds(self, config: TiTokConfig) -> bool:
        """Their settings name a transformer by a size, which has so many heads, and one of two similarities."""
        heads = {config.heads, config.decoder_heads or config.heads}
        return heads <= set(HEADS.values()) and config.similarity != "dot"

    def write(self, checkpoint: Checkpoint) -> HubFolder:
        """A folder that their `from_pretrained` opens; that knows the standard widths and depths alone."""
        config = checkpoint.config
        settings = checkpoint.upstream.get("config") or their_settings(config)
        return HubFolder(to_published(checkpoint.choose("ema"), config), settings)


TITOK_RELEASE = TiTokRelease()


def source_of(config: TiTokConfig) -> Source:
    """Where published tokenizers of such a kind come from."""
    return SINGLE_STAGE_SOURCE if config.pixel_widths is None else TWO_STAGE_SOURCE


def from_published(state: State, config: TiTokConfig) -> State:
    """Their keys and shapes -> ours. Keys that are not known are kept, so that loading reports them."""
    shaped = {}
    for key, tensor in state.items():
        tensor = tensor[None] if key.endswith(TABLES) else tensor
        shaped[key] = tensor.flatten(1) if key in POINTWISE else tensor
    rest, pixels = _split(shaped, PIXEL)
    return renamed(rest, PREFIXES, LAYERS) | renamed(pixels, _pixel_prefixes(config), CONV_LAYERS)


def to_published(state: State, config: TiTokConfig) -> State:
    """Our keys and shapes -> theirs."""
    rest, pixels = _split(state, ("pixels.decoder.", "pixels.codebook"))
    theirs = renamed(rest, _swapped(PREFIXES), dict(_swapped(LAYERS.items())))
    theirs |= renamed(pixels, _swapped(_pixel_prefixes(config)), dict(_swapped(CONV_LAYERS.items())))
    for key, tensor in theirs.items():
        tensor = tensor[0] if key.endswith(TABLES) else tensor
        theirs[key] = tensor[:, :, None, None] if key in POINTWISE else tensor
    return theirs


def their_settings(config: TiTokConfig) -> dict[str, Any]:
    """What their config.json says of such a model."""
    sizes = _sizes(config)
    preprocessing = {"crop_size": sizes.pop("crop_size")}
    names = {heads: name for name, heads in HEADS.items()}
    model = {
        **sizes,
        "use_l2_norm": config.similarity == "cosine",
        "commitment_cost": 0.25,
        "vit_enc_model_size": names[config.heads],
        "vit_dec_model_size": names[config.decoder_heads or config.heads],
    }
    return {"model": {"vq_model": model}, "dataset": {"preprocessing": preprocessing}}


def _sizes(config: TiTokConfig) -> dict[str, Any]:
    """What config.json and tensors both tell; two-stage decoders came with the legacy way of reading latents."""
    two_stage = config.pixel_widths is not None
    return {
        "codebook_size": config.codebook_size,
        "token_size": config.code_width,
        "vit_enc_patch_size": config.patch_size,
        "vit_dec_patch_size": config.decoder_patch_size or config.patch_size,
        "num_latent_tokens": config.num_latents,
        "finetune_decoder": two_stage,
        "is_legacy": two_stage,
        "crop_size": config.image_size,
    }


def _told(settings: dict[str, Any], config: TiTokConfig, given: Given, where: str) -> dict[str, Any]:
    """Heads and similarity that a config.json tells, which must be of the model whose sizes the tensors tell."""
    model = settings.get("model", {}).get("vq_model", {})
    said = {"is_legacy": True, "finetune_decoder": True} | settings.get("dataset", {}).get("preprocessing", {}) | model
    for name, expected in _sizes(config).items():
        if said.get(name, expected) != expected:
            raise UserError(f"{where}: {name} is {expected} by the tensors, but {said[name]} by config.json beside it")
    names = [model.get(f"vit_{side}_model_size") for side in ("enc", "dec")]
    if not set(names) <= set(HEADS):
        found, known = " and ".join(map(repr, names)), ", ".join(HEADS)
        raise UserError(f"{where}: config.json: vit_enc_model_size and vit_dec_model_size are {found}; known: {known}")
    heads, decoder_heads = (HEADS[name] for name in names)
    similarity = "cosine" if model.get("use_l2_norm") else "l2"
    for count in (heads, decoder_heads):
        refuse_other_size("num_heads", given.num_heads, count, where)
    refuse_other_size("similarity", given.similarity, similarity, where)
    return dict(heads=heads, decoder_heads=decoder_heads, similarity=similarity)


def _untold(config: TiTokConfig, given: Given, where: str) -> dict[str, Any]:
    """Heads and similarity of a file without config.json."""
    heads, decoder_heads = (
        attention_heads(width, given.num_heads, where, STANDARD_HEADS) for width in (config.width, config.decoder_width)
    )
    similarity = given.similarity or source_of(config).similarity
    return dict(heads=heads, decoder_heads=decoder_heads, similarity=similarity)


def _grid(table: Tensor) -> int:
    """Places along one side, of a table of positions whose first is the class token's."""
    return round((len(table) - 1) ** 0.5)


def _split(state: State, start: str | tuple[str, ...]) -> tuple[State, State]:
    """Without, and with the keys that begin so."""
    chosen = {key: tensor for key, tensor in state.items() if key.startswith(start)}
    return {key: tensor for key, tensor in state.items() if key not in chosen}, chosen


def _swapped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(ours, theirs) for theirs, ours in pairs]


def _pixel_prefixes(config: TiTokConfig) -> Iterator[tuple[str, str]]:
    """(beginning of a key there, ours) of the pixel decoder and its codes."""
    for theirs, ours in PIXEL_NAMES.decoder_prefixes(len(config.pixel_widths or ()), config.pixel_blocks):
        yield PIXEL + theirs, f"pixels.{ours}"
    yield "pixel_decoder.", "pixels.decoder."
    yield PIXEL_CODES, "pixels.codebook"
