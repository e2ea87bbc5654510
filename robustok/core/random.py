"""Counter-based random numbers: Philox 4x32-10 (Salmon et al. 2011, as published in Random123).

A draw is a pure function of its key and counter, so the same image gets the same numbers whatever the batch split,
the number of processes, the backend or the device. No generator is advanced, the global one is never touched.
Words are uint32 values held in int64 tensors, because torch has little uint32 arithmetic.
"""

import hashlib
import math

import torch
from torch import Tensor

# Streams keep independent users of one seed apart: the top 8 bits of the second counter word.
PERTURB = 0  # latent perturbation: sample, token
SAMPLE = 1  # generator sampling: sample, step
KEEP = 2  # tokens preserved while pairs are generated: sample, step
AUGMENT = 3  # training augmentation: image
SHUFFLE = 4  # order of an epoch
NOISE = 5  # noise of continuous latents
MASK = 6  # patches hidden from an encoder: image, patch
FILTERS = 7  # of an untrained network: filter, stage

MAX_SEED = 2**63 - 1  # seeds are whole numbers from 0 to this, on every command and in the settings

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key words after each round


def _multiply(constant: int, word):
    """High and low 32 bits of constant * word. Of a product beyond int64 torch keeps the low 64 bits: all of it."""
    product = constant * word
    return (product >> 32) & _MASK, product & _MASK


def philox4x32(c0, c1, c2, c3, k0, k1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four output words of Philox 4x32-10 for a counter (c0..c3) and a key (k0, k1).

    Arguments are int64 tensors or ints with values in [0, 2**32), broadcast together; results are int64, same range.
    """
    if torch.compiler.is_compiling():
        # One node of the graph: a compiler that sees the rounds writes each out in full into every use of the last.
        return _philox_node([torch.as_tensor(word) for word in (c0, c1, c2, c3, k0, k1)]).unbind()
    return _philox_rounds(c0, c1, c2, c3, k0, k1)


def _philox_rounds(c0, c1, c2, c3, k0, k1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return tuple(torch.broadcast_tensors(*(torch.as_tensor(word) for word in (c0, c1, c2, c3))))


@torch.library.custom_op("robustok::philox", mutates_args=())
def _philox_node(words: list[Tensor]) -> Tensor:
    return torch.stack(_philox_rounds(*words))


@_philox_node.register_fake
def _(words: list[Tensor]) -> Tensor:
    device = next((word.device for word in words if word.ndim), words[0].device)
    return torch.empty((4, *torch.broadcast_shapes(*(word.shape for word in words))), dtype=torch.int64, device=device)


def keyed_words(seed, stream: int, sample_ids, position, inner=0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random uint32 words (int64 tensors) for each (seed, stream, sample, position, inner), broadcast.

    seed: int or 0-d int64 tensor (all 64 bits count); stream: one of this module's constants; sample_ids: int64, who
    the image is; position in [0, 2**24): token or step; inner in [0, 2**32): counts further draws at one position.
    """
    seed = seed if isinstance(seed, Tensor) else int(seed)  # NumPy's numbers overflow
    return philox4x32(
        inner,
        (stream << 24) | position,
        sample_ids & _MASK,
        (sample_ids >> 32) & _MASK,
        seed & _MASK,
        (seed >> 32) & _MASK,
    )


def to_uniform(word: Tensor) -> Tensor:
    """A uint32 word as a float32 strictly between 0 and 1: (word >> 9) * 2**-23 + 2**-24.

    23 bits, because the middle of the last of 2**24 cells would round to 1, where Gumbel noise is infinite.
    """
    return (word >> 9).to(torch.float32) * 2.0**-23 + 2.0**-24


def keyed_normal(seed, stream: int, sample_ids: Tensor, shape: tuple[int, ...], position: int = 0) -> Tensor:
    """Standard normal numbers, float32 (B, *shape), for each (seed, stream, sample, position).

    Box and Muller's transform of pairs of uniform numbers, computed in float64. sample_ids: int64 (B,), on the device
    of the result; the other arguments as in `keyed_words`.
    """
    count = math.prod(shape)
    inner = torch.arange(-(-count // 4), device=sample_ids.device)
    words = torch.stack(keyed_words(seed, stream, sample_ids[:, None], position, inner), -1)
    first, second = to_uniform(words).double().unflatten(-1, (2, 2)).unbind(-1)
    radius, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    numbers = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return numbers.flatten(1)[:, :count].float().reshape(len(sample_ids), *shape)


def narrow_seed(seed: int) -> int:
    """A seed for scikit-learn and NumPy's RandomState, which take 32 bits: itself below 2**32, else derived from it."""
    return seed if seed <= _MASK else derive_seed(seed, "narrow") & _MASK


def derive_seed(seed: int, *path: int | str) -> int:
    """A seed in [0, 2**63) for a named part of a run, the same for ever: derive_seed(run_seed, "perturb", step)."""
    digest = hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
