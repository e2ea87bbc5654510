"""The MaskGIT-VQGAN (arXiv 2202.04200) as ported to PyTorch: a flat state dict without any configuration."""

from collections.abc import Collection
from typing import Any

from ..checkpoints.checkpoint import Checkpoint
from ..model_configs import ConvTokenizerConfig
from .conv_names import ConvNames
from .layout import Given, PublishedFile, described, under_both_names
from .sources import Source

MARKS = ("encoder.down.0.block.0.norm1.weight", "encoder.mid.0.norm1.weight", "quantize.embedding.weight")
NAMES = ConvNames(
    down="encoder.down.{i}",
    up="decoder.up.{i}",
    block="block.{j}",
    upsample="upsample_conv",
    middle=tuple(map(str, range(10))),
    up_from_lowest=False,
)


class MaskGITVQGAN:
    """Its images are in [0, 1]; features are compared with the codes as they are."""

    name = "MaskGIT-VQGAN"
    marks = MARKS
    source = Source(
        name="MaskGIT-VQGAN",
        files=("maskgit-vqgan-imagenet-f16-256.bin",),
        repository="fun-research/TiTok",
        licence="Apache-2.0",
        weights="only",
        similarity="l2",
        value_range=(0.0, 1.0),
        resize="shorter side, bilinear with antialiasing",
    )

    def recognises(self, keys: Collection[str]) -> bool:
        return set(MARKS) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        layout = described(self)
        rest = {"style": "maskgit", "projected": False, "value_range": self.source.value_range}
        config = NAMES.config(file.state, given, str(file.path), layout, **rest)
        weights = {name: NAMES.from_published(state, config) for name, state in file.weights.items()}
        return Checkpoint(file.path, layout, config, under_both_names(weights))

    def holds(self, config: ConvTokenizerConfig) -> bool:
        return config.style == "maskgit"

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The weights for use as a flat state dict."""
        return NAMES.to_published(checkpoint.choose("ema"), checkpoint.config)


MASKGIT_VQGAN = MaskGITVQGAN()
