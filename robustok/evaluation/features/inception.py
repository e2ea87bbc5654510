"""uint8 images -> Inception features, exactly as the field's reference computes them or as fast as the device can."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import sha256
from ...core.graphs import capture
from ...models.frozen.inception import InceptionOutput, load_inception
from ...models.precision import without_tf32
from .measuring import measuring, parts

SIDE = 299
CHANNELS = 8  # of a float16 image on a GPU, the last five zero: tensor cores take eight at a time
PUBLISHED_HASH = "6726825d"  # first digits of the SHA-256 of the released weights, part of their file names


class InceptionFeatures:
    """Callable: uint8 images (B, 3, H, W) of any size -> `InceptionOutput` (float32, on `device`).

    mode "exact": float32 throughout, TensorFlow-1 resize, unfolded batch norm, TF32 off; for published numbers.
    mode "fast": batch norm folded into channels-last convolutions, of which those of 1 x 1 are merged; on a GPU also
    float16 storage, bias and ReLU in the kernels of the convolutions, resize and normalisation in one kernel, and a
    batch as one captured graph. float16 rounds the features: compare fast figures with fast figures.

    `protocol` names what was computed, `sha256` the weights; both belong beside every figure. Raises UserError for
    missing or foreign weights, and for a file that carries the published hash in its name but not in its bytes.
    """

    def __init__(
        self,
        weights_path: str | Path,
        mode: str = "exact",
        *,
        device: torch.device | str | None = None,
        batch_size: int | None = None,
    ):
        if mode not in ("exact", "fast"):
            raise ValueError(f'mode: found {mode!r}, expected "exact" or "fast"')
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_gpu = self.device.type == "cuda"
        self.batch_size = batch_size or (256 if on_gpu else 8)  # bounds activations: some 20 MB an image in float32
        network = load_inception(weights_path).to(self.device)
        self.sha256 = check_hash(Path(weights_path))
        self.mode, self.half = mode, False
        if mode == "fast":
            network.fold().merge().to(memory_format=torch.channels_last)
        self.network = network
        if mode == "fast" and on_gpu:
            self._store_half()
        precision = "float16" if self.half else "float32"
        self.protocol = f"inception-v3-tf2015/tf1-bilinear-{SIDE}/{mode}-{precision}"

    def _store_half(self) -> None:
        """Float16 from here on, and room for a batch as the network reads it."""
        self.half = True
        self.network.halve(CHANNELS).to(memory_format=torch.channels_last)
        shape = (self.batch_size, SIDE, SIDE, CHANNELS)
        self.inputs = torch.zeros(shape, dtype=torch.float16, device=self.device).permute(0, 3, 1, 2)
        self.graph: torch.cuda.CUDAGraph | None = None

    @measuring
    def __call__(self, images: Tensor) -> InceptionOutput:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise TypeError(f"images: found {images.dtype} {tuple(images.shape)}, expected uint8 (B, 3, H, W)")
        with without_tf32(benchmark=self.half):
            found = [self._forward(batch) for batch in parts(images, self.batch_size, self.device)]
        if len(found) == 1:
            return found[0]
        return InceptionOutput(*(None if field[0] is None else torch.cat(field) for field in zip(*found, strict=True)))

    def _forward(self, images: Tensor) -> InceptionOutput:
        if not self.half:
            inputs = normalize(tf1_resize(images.float()))
            return self.network(inputs.contiguous(memory_format=torch.channels_last) if self.mode == "fast" else inputs)
        from ...kernels.inception_input import inception_input  # needs Triton, which only a GPU machine has to have

        count = len(images)  # behind them the batch keeps what it held: it is computed and dropped
        inception_input(images, self.inputs[:count])
        if self.graph is None:
            self.graph = capture(self._run, self.device)
        self.graph.replay()
        return InceptionOutput(*(None if field is None else field[:count].clone() for field in self.output))

    def _run(self) -> None:
        """What a graph is captured of: it writes its output to the same place every time."""
        self.output = self.network(self.inputs)


def tf1_resize(images: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear resize of float images (B, C, H, W) to side x side as TensorFlow 1 did it.

    Source coordinate = index * (in / out) with no half-pixel centre, the ratio in float32; neighbours floor and floor
    + 1 (clamped); along x first, then y; no antialiasing. The corner stays, the picture drifts to the lower right.
    """
    left, right, weight = _taps(images.shape[3], side, images)
    x, y = images[..., left], images[..., right]
    rows = x + (y - x) * weight
    top, bottom, weight = _taps(images.shape[2], side, images)
    x, y = rows[:, :, top], rows[:, :, bottom]
    return x + (y - x) * weight[:, None]


def _taps(size: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ratio = torch.tensor(size, dtype=torch.float32) / side
    source = torch.arange(side, dtype=torch.float32) * ratio
    low = source.floor().long()
    high = (low + 1).clamp(max=size - 1)
    device = like.device
    weight = (source - low).to(device, like.dtype, non_blocking=True)
    return low.to(device, non_blocking=True), high.to(device, non_blocking=True), weight


def normalize(images: Tensor) -> Tensor:
    """0..255 -> (x - 128) / 128, the input range of the network."""
    return (images - 128) / 128


def check_hash(path: Path) -> str:
    """SHA-256 of a weights file. Raises UserError where its name promises the published hash and its bytes differ."""
    digest = sha256(path)
    if PUBLISHED_HASH in path.name and not digest.startswith(PUBLISHED_HASH):
        raise UserError(f"{path}: SHA-256 begins {digest[:8]}, expected {PUBLISHED_HASH}: damaged, download it again")
    return digest
