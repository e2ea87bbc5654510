"""Lightning checkpoints of taming VQGAN (arXiv 2012.09841) and IBQ (arXiv 2412.02692): one network, two rules.

The tensors are under `state_dict`; those of `loss.` are no part of the tokenizer. IBQ keeps moving averages under
`model_ema.` and the name without its dots. Taming's code of a latent is the nearest one, IBQ's that of the largest
inner product, and no tensor says which of the two a file is: its averages do, else the version of Lightning. Taming
needs one below 2, which still optimised two networks in turns by itself; IBQ was written for 2.
"""

from collections.abc import Collection
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint, State
from ..core.errors import UserError
from ..model_configs import ConvTokenizerConfig
from .conv_names import ConvNames
from .layout import Given, PublishedFile, under_both_names
from .sources import Source

MARKS = ("encoder.down.0.block.0.norm1.weight", "encoder.mid.block_1.norm1.weight", "quantize.embedding.weight")
AVERAGE = "model_ema."
UNUSED = ("loss.", AVERAGE)
VERSION = "pytorch-lightning_version"
NAMES = ConvNames(
    down="encoder.down.{i}",
    up="decoder.up.{i}",
    block="block.{j}",
    upsample="upsample.conv",
    middle=("block_1", "attn_1", "block_2"),
    up_from_lowest=False,
)
TAMING = Source(
    name="taming VQGAN",
    files=("last.ckpt", "vqgan_imagenet_f16_1024.ckpt", "vqgan_imagenet_f16_16384.ckpt"),
    repository="CompVis/taming-transformers",
    licence="MIT",
    weights="only",
    similarity="l2",
    value_range=(-1.0, 1.0),
    resize="shorter side, bilinear",
)
IBQ = Source(
    name="IBQ",
    files=tuple(f"imagenet256_{size}.ckpt" for size in (1024, 8192, 16384, 262144)),
    repository="TencentARC/SEED-Voken",
    licence="Apache-2.0",
    weights="ema",
    similarity="dot",
    value_range=(-1.0, 1.0),
    resize="shorter side, bilinear",
)


class VQGANRelease:
    """Both, told apart when a file is read."""

    name = "taming VQGAN or IBQ tokenizer"
    marks = MARKS

    def recognises(self, keys: Collection[str]) -> bool:
        return set(MARKS) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """Raises: UserError for missing tensors, and where neither file nor `given.similarity` tells which it is."""
        source, why = source_of(file, given.similarity)
        layout = f"{source.name} tokenizer ({why})"
        config = NAMES.config(file.state, given, str(file.path), layout, similarity=source.similarity)
        weights = {"model": file.state, "ema": averages(file.state)}
        ours = {name: NAMES.from_published(_used(state), config) for name, state in weights.items() if state}
        return Checkpoint(file.path, layout, config, under_both_names(ours), source=source)

    def holds(self, config: ConvTokenizerConfig) -> bool:
        return config.style == "vqgan" and config.similarity != "cosine" and config.middle_blocks == 2

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A checkpoint of Lightning's: taming's of one set of weights, IBQ's with averages beside another one."""
        is_taming = checkpoint.config.similarity == TAMING.similarity
        model, average = (checkpoint.weights.get(name) for name in ("model", "ema"))
        state = NAMES.to_published(average or model or {}, checkpoint.config)
        if not is_taming and average and model and model is not average:
            averages = {AVERAGE + key.replace(".", ""): tensor for key, tensor in state.items()}
            averages |= {f"{AVERAGE}decay": torch.tensor(0.999), f"{AVERAGE}num_updates": torch.tensor(0).int()}
            state = NAMES.to_published(model, checkpoint.config) | averages
        return {"state_dict": state, VERSION: "1.0.8" if is_taming else "2.2.0", "epoch": 0, "global_step": 0}


VQGAN_RELEASE = VQGANRelease()


def source_of(file: PublishedFile, similarity: str | None) -> tuple[Source, str]:
    """Which of the two a file is, and what says so. similarity: what the caller says.

    Raises: UserError where neither tells.
    """
    if similarity is not None:
        return IBQ if similarity == IBQ.similarity else TAMING, f"similarity {similarity!r} was given"
    if any(key.startswith(AVERAGE) for key in file.state):
        return IBQ, f"it has averages under {AVERAGE}"
    version = str(file.content.get(VERSION, ""))
    if not version.partition(".")[0].isdigit():
        raise UserError(
            f"{file.path}: taming VQGAN and IBQ have the same tensors, and the file does not say which of them it is: "
            'give similarity "l2" (taming: the nearest code) or "dot" (IBQ: the code of the largest inner product)'
        )
    return TAMING if int(version.partition(".")[0]) < 2 else IBQ, f"it was written by Lightning {version}"


def averages(state: State) -> State:
    """The moving averages of a state dict, under the names of what they average; empty where there are none."""
    names = {AVERAGE + key.replace(".", ""): key for key in _used(state)}
    return {names[key]: tensor for key, tensor in state.items() if key in names}


def _used(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(UNUSED)}
