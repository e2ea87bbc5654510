"""uint8 images -> what Inception reads: TensorFlow-1 bilinear resize, (x - 128) / 128, float16, channels last."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch


@triton.jit
def _inception_input_kernel(
    images,  # *u8 (B, 3, H, W), strides stride_b, stride_c, stride_y, 1
    out,  # *f16 (B, side, side, channels) contiguous
    H,
    W,
    stride_b,
    stride_c,
    stride_y,
    ratio_y,  # f32 H / side
    ratio_x,  # f32 W / side
    side: tl.constexpr,
    channels: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (values of an image / BLOCK, B). A program owns BLOCK consecutive values of one output image.

    Each value reads four bytes, which its neighbours read too and the cache holds, and is written once, coalesced.
    """
    image = tl.program_id(1).to(tl.int64)
    value = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel, pixel = value % channels, value // channels
    inside = (pixel < side * side) & (channel < 3)
    source_y, source_x = (pixel // side).to(tl.float32) * ratio_y, (pixel % side).to(tl.float32) * ratio_x
    top, left = source_y.to(tl.int32), source_x.to(tl.int32)  # truncation is floor: both are at least zero
    bottom, right = tl.minimum(top + 1, H - 1), tl.minimum(left + 1, W - 1)
    weight_y, weight_x = source_y - top.to(tl.float32), source_x - left.to(tl.float32)
    plane = images + image * stride_b + channel * stride_c
    top_left = tl.load(plane + top * stride_y + left, mask=inside, other=0).to(tl.float32)
    top_right = tl.load(plane + top * stride_y + right, mask=inside, other=0).to(tl.float32)
    bottom_left = tl.load(plane + bottom * stride_y + left, mask=inside, other=0).to(tl.float32)
    bottom_right = tl.load(plane + bottom * stride_y + right, mask=inside, other=0).to(tl.float32)
    upper = top_left + (top_right - top_left) * weight_x
    lower = bottom_left + (bottom_right - bottom_left) * weight_x
    resized = upper + (lower - upper) * weight_y
    normalized = tl.where(inside, (resized - 128) / 128, 0)
    tl.store(out + image * side * side * channels + value, normalized.to(tl.float16), mask=pixel < side * side)


def inception_input(images: Tensor, out: Tensor) -> None:
    """images uint8 (B, 3, H, W) -> out, float16 (B, C, side, side) in channels-last memory; zero from channel 3 on."""
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out: found strides {out.stride()}, expected channels-last memory")
    images = images.contiguous()
    B, _, H, W = images.shape
    side, channels = out.shape[2], out.shape[1]
    ratio_y, ratio_x = (float(torch.tensor(size, dtype=torch.float32) / side) for size in (H, W))
    BLOCK = 1024
    launch(
        _inception_input_kernel,
        (triton.cdiv(side * side * channels, BLOCK), B),
        images=images,
        out=out,
        H=H,
        W=W,
        stride_b=images.stride(0),
        stride_c=images.stride(1),
        stride_y=images.stride(2),
        ratio_y=ratio_y,
        ratio_x=ratio_x,
        side=side,
        channels=channels,
        BLOCK=BLOCK,
    )
