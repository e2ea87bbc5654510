"""Attention of the newest places of many short sequences over their static key/value cache.

Made for decoding: a stream is a sequence of its own, with one query (a few where a run of known tokens goes through at
once) and up to a few hundred keys, each read once. The cache is not padded: at head width 48 a key is 48 numbers, and
no lane of the kernel for single queries is idle.
"""

import torch
import triton
import triton.language as tl

ONE_BLOCK_T = 32  # keys a tile, for a single query,
ONE_BLOCK_W = 16  # and numbers of a vector in one part
FEW_BLOCK_T = 64  # keys a tile, for several queries
FEW_BLOCK_N = 16  # queries a tile, the fewest that a matrix product takes
LOG2_E = 1.4426950408889634
LOWEST = tl.constexpr(-3.4028234663852886e38)  # finite, so that a place that has seen no key has weight 0 and not NaN


@triton.jit
def _parts(at, width, wanted, PARTS: tl.constexpr, BLOCK_W: tl.constexpr):
    """The vectors (n, width) at `at` (n) in parts of BLOCK_W numbers, float32 (n, BLOCK_W) each; 0 where not wanted."""
    parts = ()
    for p in tl.static_range(PARTS):
        w = p * BLOCK_W + tl.arange(0, BLOCK_W)
        mask = wanted[:, None] & (w < width)[None, :]
        parts = parts + (tl.load(at[:, None] + w[None, :], mask=mask, other=0.0).to(tl.float32),)
    return parts


@triton.jit
def _one_query_kernel(
    query,  # *f16, *bf16 or *f32 (S, H, 1, width)
    keys,  # as query (S, H, T, width)
    values,  # as keys
    places,  # *i64 (S, 1): the last key each query sees
    out,  # as query (S, H, 1, width), contiguous
    query_stride_s,
    query_stride_h,
    key_stride_s,
    key_stride_h,
    key_stride_t,
    place_stride_s,
    heads,
    scale,  # log2(e) / sqrt(width): the softmax is computed in powers of two
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Grid (S * H). One program owns a (stream, head): it reads every key once and stops at the last one that is seen.

    Key t of every tile belongs to place t of the tile, which keeps a softmax of its own: places meet only at the end,
    so no thread waits for another in the loop. Vectors are in PARTS parts of BLOCK_W numbers: one tile of a power of
    two would be a quarter idle at width 48.
    """
    program = tl.program_id(0).to(tl.int64)
    stream, head = program // heads, program % heads
    place = tl.load(places + stream * place_stride_s)
    source = query + stream * query_stride_s + head * query_stride_h + tl.zeros((1,), tl.int64)
    q = _parts(source, WIDTH, tl.full((1,), 1, tl.int1), PARTS, BLOCK_W)
    base = stream * key_stride_s + head * key_stride_h
    best, total = tl.full((BLOCK_T,), LOWEST, tl.float32), tl.zeros((BLOCK_T,), tl.float32)
    mixed = ()
    for _ in tl.static_range(PARTS):
        mixed = mixed + (tl.zeros((BLOCK_T, BLOCK_W), tl.float32),)
    for start in range(0, place + 1, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        seen, at = t <= place, base + t * key_stride_t
        k, v = _parts(keys + at, WIDTH, seen, PARTS, BLOCK_W), _parts(values + at, WIDTH, seen, PARTS, BLOCK_W)
        product = k[0] * q[0]
        for p in tl.static_range(1, PARTS):
            product += k[p] * q[p]
        score = tl.where(seen, tl.sum(product, 1) * scale, LOWEST)
        higher = tl.maximum(best, score)
        weight, shrink = tl.where(seen, tl.exp2(score - higher), 0.0), tl.exp2(best - higher)
        total = total * shrink + weight
        sums = ()
        for p in tl.static_range(PARTS):
            sums = sums + (mixed[p] * shrink[:, None] + weight[:, None] * v[p],)
        mixed, best = sums, higher
    share = tl.exp2(best - tl.max(best, 0))
    share /= tl.sum(total * share, 0)
    for p in tl.static_range(PARTS):
        w = p * BLOCK_W + tl.arange(0, BLOCK_W)
        value = tl.sum(mixed[p] * share[:, None], 0)
        tl.store(out + program * WIDTH + w, value.to(out.dtype.element_ty), mask=w < WIDTH)


@triton.jit
def _few_queries_kernel(
    query,  # *f16, *bf16 or *f32 (S, H, n, width)
    keys,  # as query (S, H, T, width)
    values,  # as keys
    places,  # *i64 (S, n): the last key each query sees
    out,  # as query (S, H, n, width), contiguous
    query_stride_s,
    query_stride_h,
    query_stride_n,
    key_stride_s,
    key_stride_h,
    key_stride_t,
    place_stride_s,
    place_stride_n,
    heads,
    queries,
    width,
    scale,  # log2(e) / sqrt(width)
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Grid (S * H, tiles of queries). One program owns a tile of queries of a (stream, head): it reads every key once
    and stops at the last one that any of its queries sees."""
    program = tl.program_id(0).to(tl.int64)
    stream, head = program // heads, program % heads
    n, w = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_W)
    rows, columns = n < queries, w < width
    inside = rows[:, None] & columns[None, :]
    place = tl.load(places + stream * place_stride_s + n * place_stride_n, mask=rows, other=0)
    source = query + stream * query_stride_s + head * query_stride_h + n[:, None] * query_stride_n + w[None, :]
    q = tl.load(source, mask=inside, other=0.0)
    base = stream * key_stride_s + head * key_stride_h
    best = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    mixed = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    for start in range(0, tl.max(place) + 1, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        tile = base + t[:, None] * key_stride_t + w[None, :]
        filled = (t[:, None] <= tl.max(place)) & columns[None, :]
        k = tl.load(keys + tile, mask=filled, other=0.0)
        v = tl.load(values + tile, mask=filled, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee")
        score = tl.where(t[None, :] <= place[:, None], score * scale, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        weight, shrink = tl.exp2(score - higher[:, None]), tl.exp2(best - higher)
        total = total * shrink + tl.sum(weight, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        best = higher
    target = out + (program * queries + n[:, None]) * width + w[None, :]
    tl.store(target, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


def decode_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor):
    """query (S, H, n, width), keys and values (S, H, T, width) of equal strides, places int64 (S, n) -> as query."""
    streams, heads, queries, width = query.shape
    if keys.stride() != values.stride() or keys.stride(-1) != 1 or query.stride(-1) != 1:
        raise ValueError("keys and values: expected equal strides and a contiguous last dimension, as query's")
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    shared = {"query": query, "keys": keys, "values": values, "places": places, "out": out}
    shared |= {"query_stride_s": query.stride(0), "query_stride_h": query.stride(1)}
    shared |= {f"key_stride_{name}": stride for name, stride in zip("sht", keys.stride()[:3], strict=True)}
    shared |= {"place_stride_s": places.stride(0), "heads": heads, "scale": LOG2_E * width**-0.5}
    if queries == 1:
        _one_query_kernel[(streams * heads,)](**shared, **one_query_tiles(width), num_warps=2)
        return out
    _few_queries_kernel[(streams * heads, triton.cdiv(queries, FEW_BLOCK_N))](
        **shared,
        query_stride_n=query.stride(2),
        place_stride_n=places.stride(1),
        queries=queries,
        width=width,
        BLOCK_N=FEW_BLOCK_N,
        BLOCK_T=FEW_BLOCK_T,
        BLOCK_W=triton.next_power_of_2(width),
        num_warps=4,
    )
    return out


def one_query_tiles(width: int) -> dict[str, int]:
    """Constants of the kernel for a single query of this width."""
    return {"WIDTH": width, "PARTS": triton.cdiv(width, ONE_BLOCK_W), "BLOCK_T": ONE_BLOCK_T, "BLOCK_W": ONE_BLOCK_W}
