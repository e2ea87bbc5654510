"""The frozen networks that losses look through: pretrained ones from files, else the run's own classifier.

teacher(images)      images in [-1, 1] -> (B, teacher.width) class feature      semantic loss
teacher.patches(images, grid)          -> (B, P, teacher.width)                 target of masked training
perceptual(x, y)     images in [-1, 1] -> (B,) distances                        perceptual loss
backbone(images)     images in [-1, 1] -> list of (B, C, T); backbone.channels  discriminator

No weight of theirs learns: a gradient passes through them to images that ask for one, and nothing is kept for others.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import FrozenConfig
from ...core.sizes import Size
from ...model_configs import TokenizerConfig
from ..compiling import CompiledBlock, compile_blocks
from .classifier import Classifier
from .dino import load_backbone, load_teacher
from .lpips import load_lpips


class ClassifierTeacher(CompiledBlock):
    """The classifier's feature, layer-normalised as a ViT's class feature is after its final norm."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier, self.width = classifier, classifier.width

    def forward(self, images: Tensor) -> Tensor:
        return F.layer_norm(self.classifier.features(images), (self.width,))

    def patches(self, images: Tensor, grid: Size) -> Tensor:
        """The last feature map, averaged over each place of a grid: (B, P, width), row-major."""
        maps = F.adaptive_avg_pool2d(self.classifier.taps(images)[-1], grid)
        return F.layer_norm(maps.flatten(2).mT, (self.width,))


class ClassifierPerceptual(CompiledBlock):
    """Squared difference of channel-normalised maps, averaged over places and maps (LPIPS with equal weights)."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(self.classifier.taps(x), self.classifier.taps(y), strict=True)
        distances = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(distances).mean(0)


class ClassifierBackbone(CompiledBlock):
    """The classifier's feature maps, flattened over places, for the discriminator's heads."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier
        self.channels = [stage[0].out_channels for stage in classifier.stages]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [tap.flatten(2) for tap in self.classifier.taps(images)]


@dataclass(frozen=True)
class FrozenNetworks:
    """The three networks that the losses of a run look through."""

    teacher: nn.Module | None  # None in post-training, which has no loss that looks through it
    perceptual: nn.Module
    backbone: nn.Module


def open_networks(
    files: FrozenConfig,
    tokenizer: TokenizerConfig | None,
    classifier: Callable[[], Classifier],
    device: torch.device,
    *,
    compile: bool = False,
    bfloat16: bool = False,
) -> FrozenNetworks:
    """The networks of the files that the settings name; `classifier()` stands in for those that are not named.

    It is called only where one is missing: a run trains it then. tokenizer: whose grid the teacher gets; None: no
    teacher. compile: their blocks are. bfloat16: they are called under its autocast.
    """
    named: dict[str, nn.Module | None] = {} if tokenizer is not None else {"teacher": None}
    if files.dinov2 and tokenizer is not None:
        named["teacher"] = load_teacher(files.dinov2, tokenizer)
    if files.lpips:
        named["perceptual"] = load_lpips(files.lpips)
    if files.dino:
        named["backbone"] = load_backbone(files.dino)
    if len(named) < 3:  # a copy: the classifier itself measures, too, and must give the same to the bit in any process
        named = vars(from_classifier(copy.deepcopy(classifier()))) | named
    return FrozenNetworks(
        **{name: network and placed(network, device, compile, bfloat16) for name, network in named.items()}
    )


def placed(network: nn.Module, device: torch.device, compile: bool, bfloat16: bool = False) -> nn.Module:
    """The network where it computes, and its blocks compiled where asked.

    On a GPU convolutions compute in channels_last: their fast kernels do, and others copy to it and back. For use under
    autocast products have their weights in bfloat16: of weights that do not learn it would make copies at every call.
    """
    network.to(device, memory_format=torch.channels_last if device.type == "cuda" else torch.preserve_format)
    if bfloat16:
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(torch.bfloat16)
    if compile:
        compile_blocks(network)
    return network


def from_classifier(classifier: Classifier) -> FrozenNetworks:
    """All three seen through a small classifier trained on the run's own images."""
    classifier.eval().requires_grad_(False)
    parts = (ClassifierTeacher, ClassifierPerceptual, ClassifierBackbone)
    return FrozenNetworks(*(part(classifier).eval() for part in parts))
