"""The compiled CUDA kernels (csrc/cuda/) for the searches, Triton's for the rest. Never waits for the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..types import CodebookShape, Similarity
from .triton_backend import TritonBackend

try:
    from robustok import _cuda
except ImportError as error:
    _cuda, IMPORT_ERROR = None, error

_TILE = 16  # side of the blocks that the tensor cores multiply
_MAX_NORM = 1 + 2.0**-22  # of rows of at most unit length, rounded to float32


def tile_width(D: int) -> int:
    """Columns of the tiles: the coordinates and one for the bias, padded."""
    return -(-(D + 1) // _TILE) * _TILE


def at_most_one(rows: Tensor, size: Tensor) -> Tensor:
    """float32 rows times the power of two that brings the float64 `size` into [1/2, 1), unless it is 0."""
    return torch.ldexp(rows.double(), -torch.frexp(size).exponent).float()


def half_tiles(rows: Tensor, similarity: Similarity) -> Tensor:
    """Normalised rows (K, D) for the tensor cores: float16 (K, D + 1), both padded to whole tiles.

    The last column of a row is (1 - |e|^2) / 2 and meets a 1 in the token, so that a product orders zero rows too. For
    "dot" it is 0, and all rows are shortened by one factor, so that none is longer than 1.
    Rows that are not finite, and those beyond K, lose against all others.
    """
    K, D = rows.shape
    finite = rows.isfinite().all(1)
    usable = torch.where(finite[:, None], rows, 0)
    squares = usable.double().square().sum(1)
    if similarity == "dot":
        usable, bias = at_most_one(usable, squares.max().sqrt()), torch.zeros_like(squares)
    else:
        bias = (1 - squares) / 2
    tiles = rows.new_zeros(-(-K // _TILE) * _TILE, tile_width(D), dtype=torch.float16)
    tiles[:, D] = -60000
    tiles[:K, :D] = usable
    tiles[:K, D] = torch.where(finite, bias, -60000).half()
    return tiles


class TiledCodebook(NamedTuple):
    """A codebook as the CUDA kernels read it, and as Triton's do."""

    rows: Tensor  # (K, D) float32, normalised
    transposed: Tensor  # (D, K) float32
    tiles: Tensor  # float16, `half_tiles` of the rows
    product: bool  # compared by minus the inner product


class CudaBackend(TritonBackend):
    name = "cuda"
    devices: tuple[str, ...] = ()  # Never measured on a GPU, so "auto" does not take it.

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        if _cuda is None:
            return f"the CUDA extension is not there ({IMPORT_ERROR}); it is built where pip finds nvcc"
        if device.type != "cuda":
            return f"it needs a CUDA device, the tensors are on {device.type}"
        if shape is not None and shape.similarity == "l2":
            return "it compares rows of unit length or by products: found similarity 'l2'"
        if shape is not None:
            properties = torch.cuda.get_device_properties(device)
            width = tile_width(shape.D)
            needed = max(_cuda.nearest_shared_bytes(width), _cuda.select_shared_bytes(shape.K, width))
            has = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
            if needed > has:
                found = f"K = {shape.K}, D = {shape.D}"
                return f"it searches in shared memory: {found} need {needed} bytes, {properties.name} has {has}"
        return super().missing(device, shape)

    def prepare(self, codebook: Tensor, similarity: Similarity) -> TiledCodebook:
        codes = super().prepare(codebook, similarity)
        return TiledCodebook(codes.rows, codes.transposed, half_tiles(codes.rows, similarity), codes.product)

    def search_nearest(self, u: Tensor, codes: TiledCodebook, out: Tensor) -> None:
        tied = torch.zeros(len(u), dtype=torch.int32, device=u.device)
        tied_count = torch.zeros(1, dtype=torch.int32, device=u.device)
        if len(u):
            scaled = scaled_rows(u, codes)
            pointers = out.data_ptr(), tied.data_ptr(), tied_count.data_ptr()
            _cuda.nearest(*_search_arguments(u, scaled, codes), *pointers, _stream(u))

    def search_ranks(self, u: Tensor, codes: TiledCodebook, ranks: Tensor, out: Tensor) -> None:
        if len(u):
            scaled = scaled_rows(u, codes)
            _cuda.select(*_search_arguments(u, scaled, codes), ranks.data_ptr(), out.data_ptr(), _stream(u))


def scaled_rows(u: Tensor, codes: TiledCodebook) -> Tensor:
    """Rows (R, D) of at most unit length with which the codes have the same order as with u (R, D)."""
    if not codes.product:
        return u
    return at_most_one(u, u.double().square().sum(1, keepdim=True).sqrt())


def _search_arguments(u: Tensor, scaled: Tensor, codes: TiledCodebook) -> tuple:
    """The first arguments of both searches: rows, tiles and rows of the codebook, and their sizes."""
    K, D = codes.rows.shape
    rows = u.data_ptr(), scaled.data_ptr(), len(u), codes.tiles.data_ptr(), codes.rows.data_ptr()
    return *rows, K, D, codes.tiles.shape[1], _MAX_NORM, codes.product


def _stream(u: Tensor) -> int:
    return torch.cuda.current_stream(u.device).cuda_stream
