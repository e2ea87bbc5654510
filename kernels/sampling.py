"""The next token of every image in one kernel: guidance, temperature, top-k, top-p, keyed Gumbel noise, arg-max."""

import torch
import triton
import triton.language as tl

from .launch import launch

SIGN = tl.constexpr(0x7FFFFFFF)
LOWEST = tl.constexpr(-0x80000000)


@triton.jit
def _ordered(x):
    """float32 -> int32 of the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ SIGN, bits)


@triton.jit
def _largest_threshold(order, weight, wanted):
    """The largest int32 t for which the weight of the entries with order >= t reaches `wanted`: bisection by bit."""
    threshold = tl.full((), LOWEST, tl.int32)
    for i in tl.static_range(32):
        # From the sign bit down: adding 2^31 to the lowest int32 is 0, as a flip of the sign bit.
        candidate = threshold ^ LOWEST if i == 0 else threshold + (1 << (31 - i))
        mass = tl.sum(tl.where(order >= candidate, weight, 0.0))
        threshold = tl.where(mass >= wanted, candidate, threshold)
    return threshold


@triton.jit
def _gumbel(seed, sample, step, stream, GROUPS: tl.constexpr):
    """(4 * GROUPS,) standard Gumbel numbers; entry v takes word v % 4 of the Philox block v // 4."""
    group = tl.arange(0, GROUPS).to(tl.uint32)
    zero = group * 0
    low, high = (sample & 0xFFFFFFFF).to(tl.uint32), ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32)
    position = ((stream << 24) | step).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, group, zero + position, zero + low, zero + high)
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (4 * GROUPS,))
    uniform = (words >> 9).to(tl.float32) * 1.1920928955078125e-07 + 5.9604644775390625e-08  # 2^-23, 2^-24
    return -tl.log(-tl.log(uniform))


@triton.jit
def _guided_sample_kernel(
    logits,  # *f16, *bf16 or *f32 (2B, K), or (B, K) without GUIDED
    scales,  # *f32 (B)
    samples,  # *i64 (B)
    steps,  # *i64 (B)
    seed,  # *i64 ()
    out,  # *i64 (B)
    count,
    size,
    temperature,
    top_k,
    top_p,
    logits_stride,
    scale_stride,
    step_stride,
    STREAM: tl.constexpr,
    GUIDED: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Grid (B,). One program holds the whole vocabulary of an image in registers."""
    image = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, 4 * GROUPS)
    inside = v < size
    x = tl.load(logits + image * logits_stride + v, mask=inside, other=0.0).to(tl.float32)
    if GUIDED:
        free = tl.load(logits + (count + image) * logits_stride + v, mask=inside, other=0.0).to(tl.float32)
        x = free + tl.load(scales + image * scale_stride) * (x - free)
    x = tl.where(inside, x / temperature, float("-inf"))
    if TOP_K:
        order = _ordered(x)
        one = tl.where(inside, 1.0, 0.0)
        x = tl.where(order >= _largest_threshold(order, one, top_k), x, float("-inf"))
    if TOP_P:
        weight = tl.exp(x - tl.max(x))
        order = _ordered(x)
        x = tl.where(order >= _largest_threshold(order, weight, top_p * tl.sum(weight)), x, float("-inf"))
    step = tl.load(steps + image * step_stride)
    noise = _gumbel(tl.load(seed), tl.load(samples + image), step, STREAM, GROUPS)
    tl.store(out + image, tl.argmax(x + noise, 0).to(tl.int64))


def guided_sample(logits, scales, temperature, top_k, top_p, seed, sample_ids, steps, stream):
    """logits (2B, K) or (B, K); scales float32 (B,), steps int64 (B,), seed int64 (), sample_ids int64 (B,) -> (B,)."""
    count, size = len(sample_ids), logits.shape[1]
    out = torch.empty_like(sample_ids)
    groups = triton.next_power_of_2(triton.cdiv(size, 4))
    launch(
        _guided_sample_kernel,
        (count,),
        logits=logits,
        scales=scales,
        samples=sample_ids,
        steps=steps,
        seed=seed,
        out=out,
        count=count,
        size=size,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        logits_stride=logits.stride(0),
        scale_stride=scales.stride(0),
        step_stride=steps.stride(0),
        STREAM=stream,
        GUIDED=len(logits) > count,
        TOP_K=0 < top_k < size,
        TOP_P=top_p < 1.0,
        GROUPS=groups,
        num_warps=8 if groups >= 512 else 4,
    )
    return out
