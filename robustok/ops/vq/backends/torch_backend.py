"""Fast plain PyTorch: float32 scores of a block of tokens at a time, near ties decided by the definition.

The score of a code is u.e - |e|^2 / 2, or u.e for the similarity "dot": the largest is that of the nearest code. A
matrix product gives it with an error below a bound that is computed from the lengths of the rows. Every code whose
score lies within twice that bound of the score wanted could be the one; where there are several, they are ordered by
float64 distance and index. Infinite and NaN latents need no case of their own: their bound is NaN or infinite, so all
codes are candidates.
On a GPU this backend waits for the device (the number of near ties decides shapes); Triton and CUDA do not.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...linear import ready_linear
from .. import gradients
from ..draws import draw_ranks
from ..gradients import Block, blocks
from ..reference import MIN_NORM, compared_rows, norms
from ..types import CodebookShape, Draw, Perturbed, Quantized, Similarity

_BLOCK_BYTES = 8 << 20  # size of one block of scores
_ELEMENTS = 1 << 20  # numbers that are in float64 at once
_GROUP = 64  # codes; the maximum is taken inside groups first, then inside the winning group
_CANDIDATES = 1 << 18  # (token, code) pairs ordered at once
_LOWEST = torch.finfo(torch.float32).min  # score of the rows that are not finite


class BoundedCodebook:
    """The rows of a codebook that are compared, and how far a score of them may be off, whoever computes it.

    `finite` (K,) marks the rows without NaN and infinity. The others are farther than all of them from any row, so that
    they need no score of their own, as long as theirs is below all others.
    """

    def __init__(self, codebook: Tensor, similarity: Similarity):
        self.similarity = similarity
        part = max(1, _ELEMENTS // codebook.shape[1])
        self.rows = torch.cat([compared_rows(rows, similarity) for rows in codebook.split(part)])  # (K, D) float32
        squares = torch.cat([rows.double().square().sum(1) for rows in self.rows.split(part)])
        self.finite = squares.isfinite()
        self.squares = torch.where(self.finite, squares, 0)  # (K,) float64
        self.max_norm = self.squares.max().clamp_min(MIN_NORM**2).sqrt()

    def error_at(self, lengths: Tensor, operands: float) -> Tensor:
        """Largest error of the scores of rows of these float64 lengths, and of the definition, which rounds too.

        operands: relative rounding of the numbers that are multiplied, where it is not 0 by tensor cores. These sum in
        float32 but cut off what is below 2^-23 of the largest term: of each product, and twice every four products.
        """
        D = self.rows.shape[1]
        magnitude = reach = lengths * self.max_norm  # of a score, and of a distance
        if self.similarity != "dot":
            magnitude, reach = magnitude + self.max_norm.square() / 2, (lengths + self.max_norm).square()
        sums = (3 * D + 16 if operands else D + 8) * 2.0**-24
        roundoff, definition = sums + 2.01 * operands, (D + 3) * 2.0**-53 * reach
        error = 1.01 * (roundoff * magnitude + definition + (D + 2) * 2.0**-126)
        return torch.where((magnitude > 1e37) | (error > 1e37), torch.inf, error)


class ScoredCodebook(BoundedCodebook):
    """A codebook ready to be scored by matrix products."""

    def __init__(self, codebook: Tensor, similarity: Similarity):
        super().__init__(codebook, similarity)
        K, D = codebook.shape
        columns = -(-K // _GROUP) * _GROUP
        self.block_rows = max(1, min(_BLOCK_BYTES // (4 * columns), _ELEMENTS // D))
        weight = self.rows.new_zeros(columns, D)
        weight[:K] = torch.where(self.finite[:, None], self.rows, 0)
        bias = self.rows.new_full((columns,), -torch.inf)  # the padding scores below all codes
        bias[:K] = torch.where(self.finite, 0 if similarity == "dot" else self.squares / -2, _LOWEST)
        self.linear = ready_linear(weight, bias, self.block_rows)
        self.operands = product_roundoff(codebook.device)
        # Normalised rows have length 1 or 0; one that is not finite has NaN scores, whatever the error.
        one = self.max_norm.new_ones(1, 1)
        self.unit_error = self.error_at(one, self.operands) if similarity == "cosine" else None

    def score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (R, padded K) of float32 rows (R, D), and their largest error (R, 1)."""
        error = self.error_at(norms(u.double()), self.operands) if self.unit_error is None else self.unit_error
        with torch.autocast(u.device.type, enabled=False):
            return self.linear(u), error.float().expand(len(u), 1)


def product_roundoff(device: torch.device) -> float:
    """Relative rounding of the operands of a float32 matrix product, which the user may have set below float32.

    Tensor cores cut off what tf32 has no bits for, where the library that calls them does not round.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return {"tf32": 2.0**-10, "bf16": 2.0**-8}.get(backend.matmul.fp32_precision, 0.0)


def _distances(u: Tensor, e: Tensor, similarity: Similarity) -> Tensor:
    """Float64 distances (P,) between float32 rows (P, D) and (P, D), as `reference.distances`."""
    u, e = u.double(), e.double()
    terms = -u * e if similarity == "dot" else (u - e).square()
    total = terms.cumsum(1)[:, -1]
    return torch.where(total.isfinite(), total, torch.inf)


def order_candidates(u: Tensor, codes: ScoredCodebook, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The codes that a mask (M, K) marks for rows u (M, D), row by row, each row's by (distance, index).

    Returns the codes of all rows in one list, and where each row's begin (M,).
    """
    token, code = mask.nonzero(as_tuple=True)
    pairs = max(1, _ELEMENTS // u.shape[1])
    parts = zip(token.split(pairs), code.split(pairs), strict=True)
    distance = torch.cat([_distances(u[t], codes.rows[c], codes.similarity) for t, c in parts])
    order = distance.argsort(stable=True)  # nonzero lists by (token, code), and both sorts keep that among equals
    order = order[token[order].argsort(stable=True)]
    counts = mask.sum(1)
    return code[order], counts.cumsum(0) - counts


def resolve_ties(
    out: Tensor, rows: Tensor, u: Tensor, codes: ScoredCodebook, scores: Tensor, bounds: Tensor, rank: Tensor
) -> None:
    """For the listed rows, write the codes of the given ranks (R,) to out (R,), by the definition.

    bounds (R, 2): a code that scores above the second comes before, one below the first comes after the code wanted,
    whatever the errors.
    """
    K = len(codes.rows)
    for part in rows.split(max(1, _CANDIDATES // K)):
        low, high = bounds[part].unbind(1)
        above = scores[part, :K] > high[:, None]
        mask = ~(scores[part, :K] < low[:, None]) & ~above
        ordered, first = order_candidates(u[part], codes, mask)
        out[part] = ordered[first + rank[part] - above.sum(1)]


def nearest_codes(u: Tensor, codes: ScoredCodebook, scores: Tensor, error: Tensor) -> Tensor:
    """Nearest codes (R,) of float32 rows (R, D), given their scores."""
    groups = scores.view(len(u), -1, _GROUP)
    group_best = groups.amax(2)
    best, group = group_best.max(1, keepdim=True)
    members = groups[torch.arange(len(u), device=u.device), group[:, 0]]
    out = group[:, 0] * _GROUP + members.argmax(1)
    low = best - 2 * error
    candidates = (~(group_best < low)).sum(1) + (~(members < low)).sum(1)
    tied = (candidates != 2).nonzero()[:, 0]  # 2: one group, and one member of it, which is the nearest for certain
    resolve_ties(out, tied, u, codes, scores, torch.cat([low, best + 2 * error], 1), torch.zeros_like(out))
    return out


def codes_at_rank(u: Tensor, codes: ScoredCodebook, scores: Tensor, error: Tensor, rank: Tensor) -> Tensor:
    """Codes (R,) of the given ranks (R,) for float32 rows (R, D), given their scores."""
    top, index = scores.topk(min(len(codes.rows), int(rank.max()) + 2), dim=1)
    out = index.gather(1, rank[:, None])[:, 0]
    bounds = top.gather(1, rank[:, None]) + 2 * error * error.new_tensor([-1, 1])
    close = ~(top < bounds[:, :1]) & ~(top > bounds[:, 1:])
    tied = (close.sum(1) != 1).nonzero()[:, 0]
    resolve_ties(out, tied, u, codes, scores, bounds, rank)
    return out


def block_ranks(draw: Draw, block: Block, L: int) -> Tensor:
    """Ranks of the block's tokens, flat int64; 0 in the images that are not perturbed, which come last."""
    images = draw.sample_ids[block[0]]
    tokens = torch.arange(L, device=images.device)[block[1]]
    ranks = draw_ranks(draw, images, tokens)
    ranks[max(0, draw.num_images - block[0].start) :] = 0
    return ranks.flatten()


class TorchBackend:
    """What is searched, and in what form of the codebook, are its own methods, for the CUDA backend to replace."""

    name = "torch"
    devices: tuple[str, ...] = ("cpu", "cuda")
    perturb_backward = staticmethod(gradients.perturb_backward)
    quantize_backward = staticmethod(gradients.quantize_backward)

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        return None

    def prepare(self, codebook: Tensor, similarity: Similarity):
        """The codebook (K, D) in the form that `search` reads; at most `block_rows` rows are searched at once."""
        return ScoredCodebook(codebook, similarity)

    def search(self, u: Tensor, codes, ranks: Tensor | None, neighbors: str) -> tuple[Tensor, Tensor]:
        """Nearest and perturbed codes (R,) of float32 rows (R, D) with ranks (R,); None: all 0.

        No caller holds the scores: they are freed before the next block asks for room, and the allocator hands out the
        same memory again without a page fault.
        """
        scores, error = codes.score(u)
        nearest = nearest_codes(u, codes, scores, error)
        if ranks is None or not ranks.any():
            return nearest, nearest
        rows, indices = ranks.nonzero()[:, 0], nearest.clone()
        query = u[rows] if neighbors == "latent" else codes.rows[nearest[rows]]
        scores, error = (scores[rows], error[rows]) if neighbors == "latent" else codes.score(query)
        indices[rows] = codes_at_rank(query, codes, scores, error, ranks[rows])
        return nearest, indices

    def nearest(self, z: Tensor, codebook: Tensor, similarity: Similarity) -> Tensor:
        out = z.new_empty(z.shape[:2], dtype=torch.int64)
        for block, _, indices, _ in self._search_blocks(z, self.prepare(codebook, similarity)):
            out[block] = indices.view(out[block].shape)
        return out

    def neighbors(self, query: Tensor, codebook: Tensor, delta: int, similarity: Similarity) -> Tensor:
        codes = ScoredCodebook(codebook, similarity)
        K = len(codes.rows)
        out = query.new_empty(*query.shape[:2], delta, dtype=torch.int64)
        for block in blocks(query.shape, min(codes.block_rows, max(1, _CANDIDATES // K))):
            u = compared_rows(query[block].reshape(-1, query.shape[2]), similarity)
            scores, error = codes.score(u)
            last = scores[:, :K].topk(delta, dim=1).values[:, -1:]
            ordered, first = order_candidates(u, codes, ~(scores[:, :K] < last - 2 * error))
            out[block] = ordered[first[:, None] + torch.arange(delta, device=u.device)].view(out[block].shape)
        return out

    def perturb(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Perturbed:
        codes, out = self.prepare(codebook, similarity), Perturbed.empty(z)
        for block, u, nearest, indices in self._search_blocks(z, codes, draw, neighbors):
            out.z_q[block] = (u + (codes.rows[indices] - u)).view(z[block].shape)
            out.indices[block] = indices.view(z[block].shape[:2])
            out.nearest[block] = nearest.view(z[block].shape[:2])
        return out

    def quantize(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Quantized:
        codes, out = self.prepare(codebook, similarity), Quantized.empty(z, len(codebook))
        total = torch.zeros((), dtype=torch.float64, device=z.device)
        for block, u, nearest, indices in self._search_blocks(z, codes, draw, neighbors):
            difference = codes.rows[nearest] - u
            out.z_q[block] = (u + (codes.rows[indices] - u)).view(z[block].shape)
            out.z_q_clean[block] = (u + difference).view(z[block].shape)
            out.indices[block] = indices.view(z[block].shape[:2])
            out.nearest[block] = nearest.view(z[block].shape[:2])
            out.usage.index_add_(0, nearest, torch.ones_like(nearest))  # a GPU would be waited for by bincount
            total += difference.double().square().sum()
        loss = (total / max(1, z.numel())).float()
        return out._replace(vq_loss=loss, commit_loss=loss.clone())

    def _search_blocks(
        self, z: Tensor, codes, draw: Draw | None = None, neighbors: str = "latent"
    ) -> Iterator[tuple[Block, Tensor, Tensor, Tensor]]:
        """Block by block of z (B, L, D): slices, normalised rows u (R, D), their nearest and perturbed codes."""
        for block in blocks(z.shape, codes.block_rows):
            u = compared_rows(z[block].reshape(-1, z.shape[2]), codes.similarity)
            ranks = None
            if draw is not None and block[0].start < draw.num_images:
                ranks = block_ranks(draw, block, z.shape[1])
            yield block, u, *self.search(u, codes, ranks, neighbors)
