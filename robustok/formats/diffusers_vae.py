"""The layout of diffusers' AutoencoderKL: a folder with config.json and diffusion_pytorch_model.safetensors.

The tensors tell all sizes but that of the images, which the settings, the caller or 256 gives. Attention is stored
under its present names (to_q) or those of older releases (query).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ..checkpoints.checkpoint import Checkpoint, State
from ..core.errors import UserError
from ..core.sizes import sides
from ..model_configs import ConvVAEConfig
from .layout import Given, HubFolder, PublishedFile, described, under_both_names
from .sources import Source
from .tensors import require

MARKS = (
    *("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
    "encoder.mid_block.resnets.0.conv1.weight",
)
# Parts of a key there -> here, in the order of replacement.
PARTS = (
    *((".down_blocks.", ".levels."), (".up_blocks.", ".levels."), (".resnets.", ".blocks.")),
    *((".downsamplers.0.", ".resample."), (".upsamplers.0.", ".resample."), (".conv_shortcut.", ".shortcut.")),
    *((".conv_norm_out.", ".norm_out."), (".mid_block.attentions.0.", ".middle.1."), (".group_norm.", ".norm.")),
    *((".to_q.", ".q."), (".to_k.", ".k."), (".to_v.", ".v."), (".to_out.0.", ".out.")),
    *((".query.", ".q."), (".key.", ".k."), (".value.", ".v."), (".proj_attn.", ".out.")),
)
ATTENTION = re.compile(r"\.middle\.1\.(q|k|v|out)\.weight")  # linear layers there, 1x1 convolutions here
FIXED = {"act_fn": "silu", "norm_num_groups": 32, "in_channels": 3, "out_channels": 3}  # what this network always has
WEIGHTS = "diffusion_pytorch_model.safetensors"
DIFFUSERS = Source(
    name="diffusers AutoencoderKL",
    files=(WEIGHTS, "config.json"),
    repository="the model's own hub page",
    licence="as that page says",
    weights="only",
    similarity="l2",
    value_range=(-1.0, 1.0),
    resize="shorter side, bilinear",
)


class DiffusersVAE:
    """AutoencoderKL whose blocks are all convolutional (attention in the middle alone)."""

    name = "diffusers AutoencoderKL"
    marks = MARKS
    source = DIFFUSERS

    def recognises(self, keys: Collection[str]) -> bool:
        return set(MARKS) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """Raises: UserError for tensors that are missing, and for settings of another network."""
        settings = file.settings or file.content.get("config") or {}
        where = str(file.path)
        _refuse_other_networks(settings, where)
        config = self._config(file.state, settings, given, where)
        weights = {name: from_published(state, config) for name, state in file.weights.items()}
        return Checkpoint(file.path, described(self), config, under_both_names(weights), upstream={"config": settings})

    def _config(self, state: State, settings: dict[str, Any], given: Given, where: str) -> ConvVAEConfig:
        levels = 0
        while f"encoder.down_blocks.{levels}.resnets.0.norm2.weight" in state:
            levels += 1
        widths = [f"encoder.down_blocks.{i}.resnets.0.norm2.weight" for i in range(levels)]
        require(state, [*widths, "decoder.conv_in.weight", "encoder.conv_out.weight"], where, described(self))
        blocks = 1
        while f"encoder.down_blocks.0.resnets.{blocks}.norm2.weight" in state:
            blocks += 1
        config = ConvVAEConfig(
            image_size=given.image_size or settings.get("sample_size") or 256,
            widths=tuple(len(state[key]) for key in widths),
            blocks=blocks,
            middle_attention="encoder.mid_block.attentions.0.group_norm.weight" in state,
            latent_width=state["decoder.conv_in.weight"].shape[1],
            quant_conv="quant_conv.weight" in state,
            post_quant_conv="post_quant_conv.weight" in state,
            scaling_factor=float(settings.get("scaling_factor") or 1.0),
            shift_factor=float(settings.get("shift_factor") or 0.0),
        )
        cell = 2 ** (levels - 1)
        if any(side % cell for side in sides(config.image_size)):
            raise UserError(f"{where}: image_size must be a multiple of {cell}, found {config.image_size}")
        return config

    def holds(self, config: ConvVAEConfig) -> bool:
        return isinstance(config.image_size, int)

    def write(self, checkpoint: Checkpoint) -> HubFolder:
        """A folder that their `from_pretrained` opens."""
        config = checkpoint.config
        settings = checkpoint.upstream.get("config") or their_settings(config)
        return HubFolder(to_published(checkpoint.choose("ema"), config), settings, WEIGHTS)


DIFFUSERS_VAE = DiffusersVAE()


def _refuse_other_networks(settings: dict[str, Any], where: str) -> None:
    for name, expected in FIXED.items():
        if settings.get(name, expected) != expected:
            raise UserError(f"{where}: {name} = {settings[name]!r} in config.json; expected {expected!r}")
    blocks = {*settings.get("down_block_types", ()), *settings.get("up_block_types", ())}
    if other := blocks - {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise UserError(f"{where}: config.json has blocks of other kinds: {', '.join(sorted(other))}")


def from_published(state: State, config: ConvVAEConfig) -> State:
    """Their keys -> ours. Keys that are not known are kept, so that loading reports them."""
    ours = {}
    for key, tensor in state.items():
        name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".middle.{_place(int(m[1]), config)}.", key)
        for theirs, here in PARTS:
            name = name.replace(theirs, here)
        ours[name] = tensor.view(*tensor.shape[:2], 1, 1) if ATTENTION.search(name) else tensor
    return ours


def to_published(state: State, config: ConvVAEConfig) -> State:
    """Our keys -> theirs, under the present names of attention."""
    back = {_place(j, config): j for j in (0, 1)}
    theirs = {}
    for key, tensor in state.items():
        if ATTENTION.search(key):
            tensor = tensor.flatten(1)
        if config.middle_attention and ".middle.1." in key:
            head, _, name = key.partition(".middle.1.")
            layer, _, kind = name.partition(".")
            layer = {"norm": "group_norm", "out": "to_out.0"}.get(layer, f"to_{layer}")
            theirs[f"{head}.mid_block.attentions.0.{layer}.{kind}"] = tensor
            continue
        side = "down" if key.startswith("encoder.") else "up"
        name = re.sub(r"\.middle\.(\d)\.", lambda m: f".mid_block.resnets.{back[int(m[1])]}.", key)
        name = name.replace(".levels.", f".{side}_blocks.").replace(".blocks.", ".resnets.")
        name = name.replace(".resample.", f".{side}samplers.0.").replace(".shortcut.", ".conv_shortcut.")
        theirs[name.replace(".norm_out.", ".conv_norm_out.")] = tensor
    return theirs


def _place(block: int, config: ConvVAEConfig) -> int:
    """Where residual block 0 or 1 of the middle stands: attention, where there is any, is between them."""
    return 2 * block if config.middle_attention else block


def their_settings(config: ConvVAEConfig) -> dict[str, Any]:
    """What their config.json says of such a model."""
    levels = len(config.widths)
    return {
        "_class_name": "AutoencoderKL",
        **FIXED,
        "sample_size": config.image_size,
        "block_out_channels": list(config.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": config.blocks,
        "latent_channels": config.latent_width,
        "mid_block_add_attention": config.middle_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
    }
