"""Attention of the newest places of many short sequences over their static key/value cache.

Made for decoding: a stream is a sequence of its own, with one query (a few where a run of known tokens goes through at
once) and up to a few hundred keys, each read once. The cache is not padded: at head width 48 a key is 48 numbers, and
no lane of the kernel for single queries is idle.
"""

import torch
import triton
import triton.language as tl

from .launch import launch

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
def _normed(x, weight, bias, epsilon, like, WIDTH: tl.constexpr, PARTS: tl.constexpr, BLOCK_W: tl.constexpr):
    """The layer norm of a vector in parts, rounded as `like` (a pointer) has it."""
    total, square = 0.0, 0.0
    for p in tl.static_range(PARTS):
        total += tl.sum(x[p])
    mean = total / WIDTH
    for p in tl.static_range(PARTS):
        w = p * BLOCK_W + tl.arange(0, BLOCK_W)
        apart = tl.where((w < WIDTH)[None, :], x[p] - mean, 0.0)
        square += tl.sum(apart * apart)
    factor, parts = 1 / tl.sqrt_rn(square / WIDTH + epsilon), ()
    for p in tl.static_range(PARTS):
        w = p * BLOCK_W + tl.arange(0, BLOCK_W)
        a = tl.load(weight + w, mask=w < WIDTH, other=0.0).to(tl.float32)
        b = tl.load(bias + w, mask=w < WIDTH, other=0.0).to(tl.float32)
        value = (x[p] - mean) * factor * a[None, :] + b[None, :]
        parts = parts + (value.to(like.dtype.element_ty).to(tl.float32),)
    return parts


@triton.jit
def _turned(x, at, cos, sin, WIDTH: tl.constexpr, PARTS: tl.constexpr, BLOCK_W: tl.constexpr):
    """A vector in parts, and at `at`, whose pairs of neighbouring channels turn by their angles; rounded as it was."""
    parts = ()
    for p in tl.static_range(PARTS):
        w = p * BLOCK_W + tl.arange(0, BLOCK_W)
        other = tl.load(at + (w ^ 1), mask=w < WIDTH, other=0.0).to(tl.float32)
        cosine = tl.load(cos + w // 2, mask=w < WIDTH, other=0.0)
        sine = tl.load(sin + w // 2, mask=w < WIDTH, other=0.0)
        value = x[p] * cosine[None, :] + (other * tl.where(w % 2 == 0, -sine, sine))[None, :]
        parts = parts + (value.to(at.dtype.element_ty).to(tl.float32),)
    return parts


@triton.jit
def _one_query_kernel(
    query,  # *f16, *bf16 or *f32 (S, H, 1, width)
    key,  # as query: key of the new place, which is not in the cache yet; None: all keys are
    value,  # as key
    keys,  # as query (S, H, T, width)
    values,  # as keys
    places,  # *i64 (S, 1): with `ahead` added the last key each query sees, which is that of the new place
    out,  # as query (S, H, 1, width), contiguous
    query_weight,  # as query (width): a layer norm that query and key are waiting for; None: none
    query_bias,
    key_weight,
    key_bias,
    cos,  # *f32 (width / 2): a rotation that query and key are waiting for; None: none
    sin,
    epsilon,
    query_stride_s,  # of key and value too
    query_stride_h,
    key_stride_s,
    key_stride_h,
    key_stride_t,
    place_stride_s,
    ahead,
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
    two would be a quarter idle at width 48. Key and value of the new place never come back from memory: they are what
    place 0 begins with, and the loop goes through the tiles of the places before.
    """
    program = tl.program_id(0).to(tl.int64)
    stream, head = program // heads, program % heads
    place = tl.load(places + stream * place_stride_s) + ahead
    source, one = stream * query_stride_s + head * query_stride_h, tl.full((1,), 1, tl.int1)
    q = _parts(query + source + tl.zeros((1,), tl.int64), WIDTH, one, PARTS, BLOCK_W)
    if query_weight is not None:
        q = _normed(q, query_weight, query_bias, epsilon, query, WIDTH, PARTS, BLOCK_W)
    if cos is not None:
        q = _turned(q, query + source, cos, sin, WIDTH, PARTS, BLOCK_W)
    base = stream * key_stride_s + head * key_stride_h
    lane = tl.arange(0, BLOCK_T)
    best, total = tl.full((BLOCK_T,), LOWEST, tl.float32), tl.zeros((BLOCK_T,), tl.float32)
    mixed, count = (), place + 1
    for _ in tl.static_range(PARTS):
        mixed = mixed + (tl.zeros((BLOCK_T, BLOCK_W), tl.float32),)
    if key is not None:
        own = _parts(key + source + tl.zeros((1,), tl.int64), WIDTH, one, PARTS, BLOCK_W)
        if query_weight is not None:
            own = _normed(own, key_weight, key_bias, epsilon, query, WIDTH, PARTS, BLOCK_W)
        if cos is not None:
            own = _turned(own, key + source, cos, sin, WIDTH, PARTS, BLOCK_W)
        own_value = _parts(value + source + tl.zeros((1,), tl.int64), WIDTH, one, PARTS, BLOCK_W)
        first, sums = 0.0, ()
        for p in tl.static_range(PARTS):
            w = p * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
            target = base + place * key_stride_t + w
            tl.store(keys + target, own[p].to(keys.dtype.element_ty), mask=w < WIDTH)
            tl.store(values + target, own_value[p].to(values.dtype.element_ty), mask=w < WIDTH)
            first += tl.sum(q[p] * own[p])
            sums = sums + (tl.where((lane == 0)[:, None], own_value[p], 0.0),)
        mixed, count = sums, place
        best, total = tl.where(lane == 0, first * scale, LOWEST), tl.where(lane == 0, 1.0, 0.0)
    for start in range(0, count, BLOCK_T):
        t = start + lane
        seen, at = t < count, base + t * key_stride_t
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
        result = tl.sum(mixed[p] * share[:, None], 0)
        tl.store(out + program * WIDTH + w, result.to(out.dtype.element_ty), mask=w < WIDTH)


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
    queries, width = query.shape[2:]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    programs = out.shape[0] * out.shape[1]
    shared = _arguments(query, keys, values, places, out)
    if queries == 1:
        launch(_one_query_kernel, (programs,), **shared, **NOTHING_NEW, **one_query_tiles(width), num_warps=2)
        return out
    launch(
        _few_queries_kernel,
        (programs, triton.cdiv(queries, FEW_BLOCK_N)),
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


def append_and_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    ahead: int,
    norms: tuple[torch.Tensor, ...] | None,
    epsilon: float,
    rotation: tuple[torch.Tensor, ...] | None,
) -> torch.Tensor:
    """Query, key and value (S, H, width) of one new place, of equal strides, before norm and rotation -> as query.

    Stores key and value at places int64 (S, 1) + ahead of the caches (S, H, T, width). norms: weight and bias (width)
    of the queries' layer norm, then of the keys'. rotation: cosine and sine float32 (width / 2).
    """
    if not query.stride() == key.stride() == value.stride():
        raise ValueError("query, key and value: expected equal strides, as parts of one product have them")
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    waiting = dict(zip(("query_weight", "query_bias", "key_weight", "key_bias"), norms or (None,) * 4, strict=True))
    waiting |= dict(zip(("cos", "sin"), rotation or (None,) * 2, strict=True))
    launch(
        _one_query_kernel,
        (out.shape[0] * out.shape[1],),
        **_arguments(query, keys, values, places, out),
        **waiting,
        key=key,
        value=value,
        ahead=ahead,
        epsilon=epsilon,
        **one_query_tiles(out.shape[-1]),
        num_warps=2,
    )
    return out


NOTHING_NEW: dict[str, float | None] = dict.fromkeys(("key", "value", "query_weight", "query_bias"))
NOTHING_NEW |= dict.fromkeys(("key_weight", "key_bias", "cos", "sin")) | {"epsilon": 0.0, "ahead": 0}


def _arguments(query, keys, values, places, out) -> dict:
    """What both kernels take."""
    if keys.stride() != values.stride() or keys.stride(-1) != 1 or query.stride(-1) != 1:
        raise ValueError("keys and values: expected equal strides and a contiguous last dimension, as query's")
    shared = {"query": query, "keys": keys, "values": values, "places": places, "out": out}
    shared |= {"query_stride_s": query.stride(0), "query_stride_h": query.stride(1)}
    shared |= {f"key_stride_{name}": stride for name, stride in zip("sht", keys.stride()[:3], strict=True)}
    return shared | {
        "place_stride_s": places.stride(0),
        "heads": query.shape[1],
        "scale": LOG2_E * query.shape[-1] ** -0.5,
    }


def one_query_tiles(width: int) -> dict[str, int]:
    """Constants of the kernel for a single query of this width."""
    return {"WIDTH": width, "PARTS": triton.cdiv(width, ONE_BLOCK_W), "BLOCK_T": ONE_BLOCK_T, "BLOCK_W": ONE_BLOCK_W}
