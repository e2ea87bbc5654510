"""What lies between Inception's convolutions, in channels-last float16: pools, and the end of several made as one."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch

BLOCK_P, BLOCK_C = 32, 64  # pixels and channels of a program
MOST = 4  # convolutions that were made as one


@triton.jit
def _max_pool_kernel(
    x,  # *f16 (B, H, W, C) contiguous
    out,  # *f16 (B, OUT_H, OUT_W, C) contiguous
    H,
    W,
    C,
    OUT_H,
    OUT_W,
    pixels,  # B * OUT_H * OUT_W
    stride,
    padding,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid (pixels / BLOCK_P, C / BLOCK_C). A program owns a tile of the output; the cache holds what is read again."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (pixel < pixels)[:, None] & (channel < C)[None, :]
    image, rest = pixel // (OUT_H * OUT_W), pixel % (OUT_H * OUT_W)
    top, left = rest // OUT_W * stride - padding, rest % OUT_W * stride - padding
    largest = tl.full((BLOCK_P, BLOCK_C), float("-inf"), tl.float16)
    for k in tl.static_range(9):
        y, column = top + k // 3, left + k % 3
        exists = (y >= 0) & (y < H) & (column >= 0) & (column < W)
        source = ((image.to(tl.int64) * H + y) * W + column) * C
        value = tl.load(x + source[:, None] + channel[None, :], mask=inside & exists[:, None], other=float("-inf"))
        largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + pixel.to(tl.int64)[:, None] * C + channel[None, :], largest, mask=inside)


@triton.jit
def _split_relu_kernel(
    x,  # *f16 (B, H, W, C) contiguous
    bias,  # *f16 (C,)
    out,  # *f16: the parts of the channels one after the other, each (B, H, W, width of the part) contiguous
    H,
    W,
    C,
    pixels,  # B * H * W
    second,  # the channel that begins the second part, C where there is none
    third,
    fourth,
    averaged,  # parts from this channel on are averaged over 3 x 3, without what lies outside of the image
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid (pixels / BLOCK_P, tiles of BLOCK_C channels of all parts). A program owns a tile of one part."""
    tile = tl.program_id(1)
    first, end, before = 0, second, 0  # channels of the tile's part, and tiles before it
    is_later = tile >= tl.cdiv(second, BLOCK_C)
    before = tl.where(is_later, tl.cdiv(second, BLOCK_C), before)
    first, end = tl.where(is_later, second, first), tl.where(is_later, third, end)
    until_third = tl.cdiv(second, BLOCK_C) + tl.cdiv(third - second, BLOCK_C)
    is_later = tile >= until_third
    before = tl.where(is_later, until_third, before)
    first, end = tl.where(is_later, third, first), tl.where(is_later, fourth, end)
    until_fourth = until_third + tl.cdiv(fourth - third, BLOCK_C)
    is_later = tile >= until_fourth
    before = tl.where(is_later, until_fourth, before)
    first, end = tl.where(is_later, fourth, first), tl.where(is_later, C, end)

    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inner = (tile - before) * BLOCK_C + tl.arange(0, BLOCK_C)  # channel of the part
    channel, width = first + inner, end - first
    inside = (pixel < pixels)[:, None] & (inner < width)[None, :]
    row = pixel.to(tl.int64)[:, None]
    centre = x + row * C + channel[None, :]
    if first >= averaged:
        y, column = pixel // W % H, pixel % W
        value = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        count = tl.zeros((BLOCK_P,), tl.float32)
        for k in tl.static_range(9):
            down, right = k // 3 - 1, k % 3 - 1
            exists = (y + down >= 0) & (y + down < H) & (column + right >= 0) & (column + right < W)
            taken = inside & exists[:, None]
            value += tl.load(centre + (down * W + right) * C, mask=taken, other=0).to(tl.float32)
            count += exists.to(tl.float32)
        value = value / count[:, None]
    else:
        value = tl.load(centre, mask=inside, other=0).to(tl.float32)
    value += tl.load(bias + channel, mask=inner < width, other=0).to(tl.float32)[None, :]
    value = tl.maximum(value, 0, propagate_nan=tl.PropagateNan.ALL)
    part = out + first.to(tl.int64) * pixels
    tl.store(part + row * width + inner[None, :], value.to(tl.float16), mask=inside)


def max_pool(x: Tensor, stride: int, padding: int) -> Tensor:
    """The largest of 3 x 3: float16 (B, C, H, W) in channels-last memory -> (B, C, OUT_H, OUT_W) in the same.

    Nothing but the values is written; torch's own writes int64 positions, too.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    B, C, H, W = x.shape
    OUT_H, OUT_W = ((size + 2 * padding - 3) // stride + 1 for size in (H, W))
    out = torch.empty((B, OUT_H, OUT_W, C), dtype=x.dtype, device=x.device)
    pixels = B * OUT_H * OUT_W
    launch(
        _max_pool_kernel,
        (triton.cdiv(pixels, BLOCK_P), triton.cdiv(C, BLOCK_C)),
        x=x,
        out=out,
        H=H,
        W=W,
        C=C,
        OUT_H=OUT_H,
        OUT_W=OUT_W,
        pixels=pixels,
        stride=stride,
        padding=padding,
        BLOCK_P=BLOCK_P,
        BLOCK_C=BLOCK_C,
    )
    return out.permute(0, 3, 1, 2)


def split_relu(x: Tensor, bias: Tensor, widths: Sequence[int], average_last: bool) -> list[Tensor]:
    """relu(x + bias), each part of the channels by itself; the last one averaged over 3 x 3 before, where asked for.

    x float16 (B, C, H, W) in channels-last memory, bias float16 (C,), widths of at most MOST parts, which sum to C ->
    float16 (B, width, H, W) each, in channels-last memory, which the next convolution reads as it is.
    """
    if len(widths) > MOST or sum(widths) != x.shape[1]:
        raise ValueError(f"widths: found {list(widths)}, expected at most {MOST} that sum to {x.shape[1]}")
    x = x.contiguous(memory_format=torch.channels_last)
    B, C, H, W = x.shape
    starts = [sum(widths[:i]) for i in range(len(widths))]
    second, third, fourth = (*starts[1:], C, C, C)[:3]
    out = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    pixels = B * H * W
    tiles = sum(triton.cdiv(width, BLOCK_C) for width in widths)
    launch(
        _split_relu_kernel,
        (triton.cdiv(pixels, BLOCK_P), tiles),
        x=x,
        bias=bias,
        out=out,
        H=H,
        W=W,
        C=C,
        pixels=pixels,
        second=second,
        third=third,
        fourth=fourth,
        averaged=starts[-1] if average_last else C,
        BLOCK_P=BLOCK_P,
        BLOCK_C=BLOCK_C,
    )
    parts = out.split([pixels * width for width in widths])
    return [part.view(B, H, W, width).permute(0, 3, 1, 2) for part, width in zip(parts, widths, strict=True)]
