"""Plain renderings of the published convolutional networks, written from their papers on state dicts as they are."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
Step = tuple[str, str]  # (what to do, name of the layer)


def convolve(state: State, name: str, x: Tensor, **options) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)


def normalized(state: State, name: str, x: Tensor) -> Tensor:
    """Normalised in 32 groups of channels."""
    groups = x.unflatten(1, (32, -1))
    axes = (2, 3, 4)
    spread = (groups.var(axes, unbiased=False, keepdim=True) + 1e-6).sqrt()
    x = ((groups - groups.mean(axes, keepdim=True)) / spread).flatten(1, 2)
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def activated(state: State, name: str, x: Tensor) -> Tensor:
    x = normalized(state, name, x)
    return x * torch.sigmoid(x)


def block(state: State, name: str, x: Tensor) -> Tensor:
    y = convolve(state, f"{name}.conv1", activated(state, f"{name}.norm1", x), padding=1)
    y = convolve(state, f"{name}.conv2", activated(state, f"{name}.norm2", y), padding=1)
    if f"{name}.nin_shortcut.weight" not in state:
        return x + y
    is_maskgit = f"{name}.conv1.bias" not in state
    return y + convolve(state, f"{name}.nin_shortcut", y if is_maskgit else x)


def attention(state: State, name: str, x: Tensor) -> Tensor:
    y = normalized(state, f"{name}.norm", x)
    q, k, v = (convolve(state, f"{name}.{part}", y).flatten(2) for part in "qkv")  # (B, C, H * W)
    shares = torch.softmax(q.mT @ k / q.shape[1] ** 0.5, dim=-1)  # of each position in each other
    return x + convolve(state, f"{name}.proj_out", (v @ shares.mT).view_as(x))


def run(state: State, steps: Iterator[Step], x: Tensor) -> Tensor:
    for kind, name in steps:
        if kind == "stem":
            x = convolve(state, name, x, padding=1)
        elif kind == "block":
            x = block(state, name, x)
        elif kind == "attention" and f"{name}.q.weight" in state:
            x = attention(state, name, x)
        elif kind == "halve" and f"{name}.weight" in state:
            x = convolve(state, name, F.pad(x, (0, 1, 0, 1)), stride=2)
        elif kind == "halve":
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        elif kind == "double":
            x = convolve(state, name, x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
    return x


def head(state: State, side: str, x: Tensor) -> Tensor:
    x = activated(state, f"{side}.norm_out", x)
    return convolve(state, f"{side}.conv_out", x, padding=state[f"{side}.conv_out.weight"].shape[-1] // 2)


def middle(side: str, layout: str, blocks: int) -> Iterator[Step]:
    if layout == "maskgit":
        yield from (("block", f"{side}.mid.{j}") for j in range(blocks))
    else:
        names = {"taming": ("block_1", "attn_1", "block_2"), "llamagen": ("0", "1", "2")}[layout]
        kinds = ("block", "attention", "block")
        yield from ((kind, f"{side}.mid.{name}") for kind, name in zip(kinds, names, strict=True))


def encoder(layout: str, levels: int, blocks: int, middle_blocks: int) -> Iterator[Step]:
    yield "stem", "encoder.conv_in"
    for i in range(levels):
        level = f"encoder.conv_blocks.{i}" if layout == "llamagen" else f"encoder.down.{i}"
        for j in range(blocks):
            yield "block", f"{level}.res.{j}" if layout == "llamagen" else f"{level}.block.{j}"
            yield "attention", f"{level}.attn.{j}"
        if i < levels - 1:
            yield "halve", f"{level}.downsample.conv"
    yield from middle("encoder", layout, middle_blocks)


def decoder(layout: str, levels: int, blocks: int, middle_blocks: int) -> Iterator[Step]:
    yield "stem", "decoder.conv_in"
    yield from middle("decoder", layout, middle_blocks)
    for i in reversed(range(levels)):
        level = f"decoder.conv_blocks.{levels - 1 - i}" if layout == "llamagen" else f"decoder.up.{i}"
        for j in range(blocks):
            yield "block", f"{level}.res.{j}" if layout == "llamagen" else f"{level}.block.{j}"
            yield "attention", f"{level}.attn.{j}"
        if i > 0:
            yield "double", f"{level}.upsample_conv" if layout == "maskgit" else f"{level}.upsample.conv"


def encode(state: State, steps: Iterator[Step], images: Tensor) -> Tensor:
    """Images in the network's own range -> latents (B, D, h, w)."""
    x = head(state, "encoder", run(state, steps, images))
    return convolve(state, "quant_conv", x) if "quant_conv.weight" in state else x


def decode(state: State, steps: Iterator[Step], z_q: Tensor) -> Tensor:
    """Latents (B, D, h, w) -> images in the network's own range."""
    x = convolve(state, "post_quant_conv", z_q) if "post_quant_conv.weight" in state else z_q
    return head(state, "decoder", run(state, steps, x))
