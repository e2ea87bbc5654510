"""The compiled CUDA kernels (csrc/cuda/) for the search, Triton's for the rest. Never waits for the device."""

import torch
from torch import Tensor

from ..checks import Shape
from ..reference import Draw, Perturbed, Quantized
from . import triton_backend as backend_triton

try:
    from robustok import _cuda
except ImportError as error:
    _cuda, IMPORT_ERROR = None, error

_TILE = 16  # side of the blocks that the tensor cores multiply
_LONGEST = 1 + 2.0**-22  # of rows of unit length, rounded to float32


def missing(device: torch.device, shape: Shape | None = None) -> str | None:
    if _cuda is None:
        return f"the CUDA extension is not there ({IMPORT_ERROR}); it is built where pip finds nvcc"
    if device.type != "cuda":
        return f"it needs a CUDA device, the tensors are on {device.type}"
    if shape is not None and not shape.normalize:
        return "it compares rows of unit length: found normalize=False"
    if shape is not None:
        properties = torch.cuda.get_device_properties(device)
        needed, has = _cuda.select_shared_bytes(shape.K, _width(shape.D)), properties.shared_memory_per_block_optin
        if needed > has:
            found = f"K = {shape.K}, D = {shape.D}"
            return f"it selects in shared memory: {found} need {needed} bytes, {properties.name} has {has}"
    return backend_triton.missing(device, shape)


def _width(D: int) -> int:
    """Columns of the tiles: the coordinates and one for the bias, padded."""
    return -(-(D + 1) // _TILE) * _TILE


def half_tiles(rows: Tensor) -> Tensor:
    """Unit rows (K, D) for the tensor cores: float16 (K, D + 1), both padded to whole tiles.

    The last column of a row is (1 - |e|^2) / 2 and meets a 1 in the token, so that a product orders zero rows too.
    Rows that are not finite, and those beyond K, lose against all others.
    """
    K, D = rows.shape
    finite = rows.isfinite().all(1)
    usable = torch.where(finite[:, None], rows, 0)
    tiles = rows.new_zeros(-(-K // _TILE) * _TILE, _width(D), dtype=torch.float16)
    tiles[:, D] = -60000
    tiles[:K, :D] = usable
    tiles[:K, D] = torch.where(finite, (1 - usable.double().square().sum(1)) / 2, -60000).half()
    return tiles


def _arguments(u: Tensor, codes, tiles: Tensor) -> tuple:
    K, D = codes.rows.shape
    return u.data_ptr(), len(u), tiles.data_ptr(), codes.rows.data_ptr(), K, D, tiles.shape[1], _LONGEST


def _search(codebook: Tensor) -> backend_triton.Search:
    stream = torch.cuda.current_stream(codebook.device).cuda_stream
    tiles = {}  # of the one codebook of this call, made when it is known as compared

    def prepared(codes) -> Tensor:
        if not tiles:
            tiles[0] = half_tiles(codes.rows)
        return tiles[0]

    def nearest(u: Tensor, codes, out: Tensor) -> None:
        tied, count = (torch.zeros(n, dtype=torch.int32, device=u.device) for n in (len(u), 1))
        if len(u):
            pointers = out.data_ptr(), tied.data_ptr(), count.data_ptr()
            _cuda.nearest(*_arguments(u, codes, prepared(codes)), *pointers, stream)

    def select(u: Tensor, codes, ranks: Tensor, out: Tensor) -> None:
        if len(u):
            _cuda.select(*_arguments(u, codes, prepared(codes)), ranks.data_ptr(), out.data_ptr(), stream)

    return backend_triton.Search(nearest, select)


def nearest(z: Tensor, codebook: Tensor, normalize: bool) -> Tensor:
    return backend_triton.nearest(z, codebook, normalize, _search(codebook))


def neighbors(query: Tensor, codebook: Tensor, delta: int, normalize: bool) -> Tensor:
    return backend_triton.neighbors(query, codebook, delta, normalize)


def perturb(z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool) -> Perturbed:
    return backend_triton.perturb(z, codebook, draw, around, normalize, _search(codebook))


def quantize(z: Tensor, codebook: Tensor, draw: Draw, around: str, normalize: bool) -> Quantized:
    return backend_triton.quantize(z, codebook, draw, around, normalize, _search(codebook))
