"""Attention of the newest places of many short sequences over their static key/value cache.

Made for decoding: a stream is a sequence of its own, with one query (a few where a run of known tokens goes through at
once) and up to a few hundred keys, each read once. The cache is not padded: at head width 48 a key is 48 numbers, and
only registers are padded to 64.
"""

import torch
import triton
import triton.language as tl

BLOCK_T = 64  # keys a tile
MATMUL_QUERIES = 16  # a tile of queries, the smallest a matrix product takes; a single query takes sums instead
LOG2_E = 1.4426950408889634


@triton.jit
def _decode_attention_kernel(
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
    scale,  # log2(e) / sqrt(width): the softmax is computed in powers of two
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
        if BLOCK_N == 1:
            score = tl.sum(k.to(tl.float32) * q.to(tl.float32), 1)[None, :]
        else:
            score = tl.dot(q, tl.trans(k), input_precision="ieee")
        score = tl.where(t[None, :] <= place[:, None], score * scale, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        weight, shrink = tl.exp2(score - higher[:, None]), tl.exp2(best - higher)
        total = total * shrink + tl.sum(weight, 1)
        if BLOCK_N == 1:
            update = tl.sum(tl.trans(weight) * v.to(tl.float32), 0)[None, :]
        else:
            update = tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        mixed = mixed * shrink[:, None] + update
        best = higher
    target = out + (program * queries + n[:, None]) * width + w[None, :]
    tl.store(target, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


def decode_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor):
    """query (S, H, n, width), keys and values (S, H, T, width) of equal strides, places int64 (S, n) -> as query."""
    streams, heads, queries, width = query.shape
    if keys.stride() != values.stride() or keys.stride(-1) != 1 or query.stride(-1) != 1:
        raise ValueError("keys and values: expected equal strides and a contiguous last dimension, as query's")
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    block = 1 if queries == 1 else MATMUL_QUERIES
    _decode_attention_kernel[(streams * heads, triton.cdiv(queries, block))](
        query=query,
        keys=keys,
        values=values,
        places=places,
        out=out,
        query_stride_s=query.stride(0),
        query_stride_h=query.stride(1),
        query_stride_n=query.stride(2),
        key_stride_s=keys.stride(0),
        key_stride_h=keys.stride(1),
        key_stride_t=keys.stride(2),
        place_stride_s=places.stride(0),
        place_stride_n=places.stride(1),
        heads=heads,
        queries=queries,
        width=width,
        scale=LOG2_E * width**-0.5,
        BLOCK_N=block,
        BLOCK_T=BLOCK_T,
        BLOCK_W=triton.next_power_of_2(width),
        num_warps=4,
    )
    return out
