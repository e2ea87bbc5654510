"""For GPUs without Triton: the searches are the compiled kernels of csrc/cuda/, the rest is plain PyTorch.

Nothing is compiled at run time, so a C compiler, which Triton needs at its first launch, need not be there. Compared
with the torch backend no matrix of (rows, codes) is formed, and nothing waits for the device: it can be captured in a
CUDA graph. The lists of `neighbors` alone are the torch backend's, which waits.

Tensor cores score rows in float16. All rows are brought to at most unit length by powers of two, which changes the
order of no row's codes: those of the codebook by one factor 2^-b, each row searched by its own 2^-a with a >= b (any a
for "dot"). A score is then u.e - 2^(b-a) |e|^2 / 2, or u.e for "dot", whose second term is one more column.
"""

import torch
from torch import Tensor

from ..reference import norms
from ..types import CodebookShape, Similarity
from .torch_backend import BoundedCodebook, TorchBackend

try:
    from robustok import _cuda
except ImportError as error:
    _cuda, IMPORT_ERROR = None, error

MAX_CODES = 1 << 20
_TILE = 16  # side of the blocks that the tensor cores multiply
_BLOCK_ELEMENTS, _BLOCK_TOKENS = 1 << 20, 1 << 17  # numbers, and rows, that are searched at once
_SCORES = 1 << 24  # float16 numbers in which the blocks of a selection keep their scores (32 MB)
_LOST = -60000.0  # score, times 2^(b-a), of what is no code
_LONGEST = 13  # of a - b: from there on the second term is rounded to too few bits, and _LOST is near other scores
# Of operands in float16: a little more than 2^-11, for coordinates so small that they lose bits. In a selection the
# score is rounded, too.
_NEAREST_ROUNDOFF, _SELECT_ROUNDOFF = float.fromhex("0x1.08p-11"), 2.0**-10


def tile_width(D: int) -> int:
    """Columns of the tiles: the coordinates and one for the second term, padded."""
    return -(-(D + 1) // _TILE) * _TILE


def power(exponent: Tensor) -> Tensor:
    """2 to the integers of `exponent`, float64."""
    return torch.exp2(exponent.double())


class TiledCodebook(BoundedCodebook):
    """A codebook as the kernels read it."""

    def __init__(self, codebook: Tensor, similarity: Similarity):
        super().__init__(codebook, similarity)
        K, D = self.rows.shape
        self.block_rows = max(1, min(_BLOCK_TOKENS, _BLOCK_ELEMENTS // D))
        self.product = similarity == "dot"
        self.exponent = torch.frexp(self.max_norm).exponent  # b
        usable = torch.where(self.finite[:, None], self.rows, 0)
        second = self.rows.new_zeros(K) if self.product else (self.squares * power(-2 * self.exponent) / -2).float()
        self.tiles = self.rows.new_zeros(-(-K // _TILE) * _TILE, tile_width(D), dtype=torch.float16)
        self.tiles[:, D] = _LOST
        self.tiles[:K, :D] = (usable * power(-self.exponent)).float()
        self.tiles[:K, D] = torch.where(self.finite, second, _LOST)

    def scaled(self, u: Tensor, operands: float) -> tuple[Tensor, Tensor]:
        """float32 rows (R, D + 1) that meet the tiles, for rows (R, D), and the largest errors (R,) of their scores.

        Infinite for rows of more than 2^13 times the length of the longest code, of which scores say too little.
        """
        lengths = norms(u.double())
        exponent = torch.frexp(lengths).exponent  # a
        if not self.product:
            exponent = torch.maximum(exponent, self.exponent)
        excess = torch.zeros_like(exponent) if self.product else exponent - self.exponent
        # The least float32, of which `error_at` tells, counts before the scaling: after it, it is below the roundoff.
        error = self.error_at(lengths, operands) * power(-exponent - self.exponent)
        error = torch.where(excess >= _LONGEST, torch.inf, error)
        rows = torch.cat([u * power(-exponent), power(-excess)], 1)
        return rows.float(), error[:, 0].float()


class CudaBackend(TorchBackend):
    name = "cuda"
    devices: tuple[str, ...] = ("cuda",)

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        if _cuda is None:
            return f"the CUDA extension is not there ({IMPORT_ERROR}); it is built where pip finds nvcc"
        if device.type != "cuda":
            return f"it needs a CUDA device, the tensors are on {device.type}"
        gpu = torch.cuda.get_device_properties(device)
        if gpu.major < 8:
            capability = f"{gpu.major}.{gpu.minor}"
            return f"its kernels are compiled for compute capability 8.0 and newer: {gpu.name} has {capability}"
        if shape is not None and shape.K > MAX_CODES:
            return f"it keeps the scores of {_TILE} rows at once: found K = {shape.K}, at most {MAX_CODES}"
        if shape is not None:
            width = tile_width(shape.D)
            needed = max(_cuda.nearest_shared_bytes(width), _cuda.select_shared_bytes(width))
            has = gpu.shared_memory_per_block_optin  # type: ignore[attr-defined]
            if needed > has:
                return f"it keeps rows in shared memory: D = {shape.D} needs {needed} bytes, {gpu.name} has {has}"
        return None

    def prepare(self, codebook: Tensor, similarity: Similarity) -> TiledCodebook:
        return TiledCodebook(codebook, similarity)

    def search(self, u: Tensor, codes: TiledCodebook, ranks: Tensor | None, neighbors: str) -> tuple[Tensor, Tensor]:
        nearest = search_nearest(u, codes)
        if ranks is None:
            return nearest, nearest
        query, indices = u if neighbors == "latent" else codes.rows[nearest], nearest.clone()
        search_ranks(query, codes, ranks.int(), indices)
        return nearest, indices


def search_nearest(u: Tensor, codes: TiledCodebook) -> Tensor:
    """Nearest codes (R,) int64 of float32 rows (R, D)."""
    scaled = codes.scaled(u, _NEAREST_ROUNDOFF)
    out = torch.empty(len(u), dtype=torch.int64, device=u.device)
    tied = torch.empty(len(u), dtype=torch.int32, device=u.device)
    count = torch.zeros(1, dtype=torch.int32, device=u.device)
    _launch("nearest", u, codes, scaled, out.data_ptr(), tied.data_ptr(), count.data_ptr())
    return out


def search_ranks(u: Tensor, codes: TiledCodebook, ranks: Tensor, out: Tensor) -> None:
    """Write the codes at ranks (R,) int32 of float32 rows (R, D) to out (R,) int64, where the rank is not 0."""
    scaled = codes.scaled(u, _SELECT_ROUNDOFF)  # before there is room for scores: its float64 steps need some, too
    tile_scores = _TILE * len(codes.tiles)  # of the rows that a block of threads works on
    blocks = max(1, min(_SCORES // tile_scores, -(-len(u) // _TILE)))
    scores = torch.empty(blocks * tile_scores, dtype=torch.float16, device=u.device)
    _launch("select", u, codes, scaled, ranks.data_ptr(), out.data_ptr(), scores.data_ptr(), blocks)


def _launch(kernel: str, u: Tensor, codes: TiledCodebook, scaled: tuple[Tensor, Tensor], *others: int) -> None:
    """Run a search of rows (R, D), R >= 1, on the current stream of their device."""
    rows, errors = scaled
    given = u.data_ptr(), rows.data_ptr(), errors.data_ptr(), len(u), codes.tiles.data_ptr(), codes.rows.data_ptr()
    sizes = *codes.rows.shape, codes.tiles.shape[1], codes.product
    with torch.cuda.device(u.device):
        getattr(_cuda, kernel)(*given, *sizes, *others, torch.cuda.current_stream().cuda_stream)
