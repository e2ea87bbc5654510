"""Convolutions with what follows them, and pools between them, for inference: on a GPU in float16 few kernels.

There, tensors are in channels-last memory: cuDNN adds the bias and takes the ReLU where it writes a convolution's
result, and Triton does the rest. Everywhere else the functions are their definitions, in torch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def _in_half_on_a_gpu(x: Tensor) -> bool:
    return x.is_cuda and x.dtype == torch.float16


def convolve_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """relu(convolution + bias): x (B, C, H, W), weight (D, C, h, w), bias (D,) of one dtype -> (B, D, H', W').

    Gradients pass on a CPU and in float32. On a GPU in float16 it is one call of cuDNN (`cudnn_convolution_relu` of
    ATen), which sums in float32; C is best a multiple of 8 there.
    """
    if _in_half_on_a_gpu(x):
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, (1, 1), 1)
    return F.relu(F.conv2d(x, weight, bias, stride, padding), inplace=True)


def convolve_parts(
    x: Tensor, weight: Tensor, bias: Tensor, widths: Sequence[int], average_last: bool
) -> Sequence[Tensor]:
    """Convolutions of 1 x 1 that read the same x, as one, each with its bias and ReLU: (B, width, H, W) by widths.

    average_last: the last one is averaged over 3 x 3 before its ReLU, without what lies outside of the image; this is
    the convolution of the average, as both are linear. x (B, C, H, W), weight (D, C, 1, 1), bias (D,), widths sum to D.
    Gradients as `convolve_relu` has them.
    """
    if _in_half_on_a_gpu(x):
        from ..kernels.pooling import split_relu  # needs Triton, which only a GPU machine has to have

        return split_relu(F.conv2d(x, weight), bias, widths, average_last)
    parts = [*F.conv2d(x, weight, bias).split(list(widths), dim=1)]
    if average_last:
        parts[-1] = average(parts[-1])
    return [F.relu(part) for part in parts]


def average(x: Tensor) -> Tensor:
    """The average of 3 x 3 around every pixel, without what lies outside of the image: (B, C, H, W) -> the same."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor, stride: int, padding: int = 0) -> Tensor:
    """The largest of 3 x 3, as torch's max_pool2d. Gradients as `convolve_relu` has them."""
    if _in_half_on_a_gpu(x):
        from ..kernels.pooling import max_pool as pool

        return pool(x, stride, padding)
    return F.max_pool2d(x, 3, stride, padding)
