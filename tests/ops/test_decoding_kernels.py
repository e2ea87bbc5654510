"""The Triton kernels of decoding against their definitions: on a GPU, and where there is none in the interpreter."""

import pytest
import torch
from torch.nn import functional as F

from robustok.core.random import SAMPLE
from robustok.models.rotary import rotate
from robustok.ops.decoding import NewPlaces, reference
from robustok.ops.decoding.appending import append_sdpa, append_triton

pytest.importorskip("triton")


@pytest.mark.parametrize("queries", [1, 3, 17])
@pytest.mark.parametrize("width", [48, 64])
def test_decode_attention(queries, width, kernel_device):
    from robustok.kernels.attention import decode_attention

    torch.manual_seed(0)
    streams, heads, places = 3, 2, 257
    caches = torch.randn(2, streams, heads, places, width, device=kernel_device)
    caches[:, :, :, 200:] = torch.nan  # places not filled yet must not be read
    query = torch.randn(streams, queries, heads, width, device=kernel_device).transpose(1, 2)
    last = torch.randint(0, 200, (streams, queries), device=kernel_device)
    last[0, 0], last[1, 0] = 0, 199
    found, expected = decode_attention(query, *caches, last), reference.decode_attention(query, *caches, last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("waiting", ["norm", "rotation"])
@pytest.mark.parametrize(("place", "width"), [(0, 64), (1, 20), (32, 48), (40, 64)])
def test_append_and_attend(place, width, waiting, dtype, kernel_device):
    """One kernel normalises or turns query and key, stores the new place, and attends: as one after the other."""
    torch.manual_seed(0)
    streams, heads = 3, 2
    caches = torch.randn(2, streams, heads, 41, width, dtype=dtype, device=kernel_device)
    caches[:, :, :, place:] = torch.nan  # places not filled yet must not be read
    qkv = torch.randn(streams, 3 * heads * width, device=kernel_device).to(dtype)
    if waiting == "norm":
        norms = tuple(torch.randn(4, width, device=kernel_device).to(dtype))
        new = NewPlaces(qkv, lambda x: split_with(norms, x), norms=norms, epsilon=1e-6)
    else:
        rotation = torch.randn(2, 1, width // 2, device=kernel_device).unbind()
        new = NewPlaces(qkv, lambda x: turn_with(rotation, x), rotation=rotation)
    expected_caches = caches.clone()
    q, expected_caches[0, :, :, place], expected_caches[1, :, :, place] = new.split(qkv)
    last = torch.full((streams, 1), place, device=kernel_device)
    expected = reference.decode_attention(q[:, :, None], *expected_caches, last).flatten(1)
    step = torch.tensor([place - 1], device=kernel_device)
    found = append_triton(new, *caches, step, ahead=1)
    # in bfloat16 a key or query may be rounded the other way, by 2^-8 of it, and a score be as much apart
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 0.06}
    torch.testing.assert_close(found.double(), expected, **close)
    stored = caches[:, :, :, place], expected_caches[:, :, :, place]
    torch.testing.assert_close(*stored, rtol=close["rtol"], atol=1e-5)
    assert torch.equal(caches[:, :, :, :place], expected_caches[:, :, :, :place])
    assert caches[:, :, :, place + 1 :].isnan().all()


def test_append_where_query_heads_share_a_head_of_the_cache(kernel_device):
    """Then it is one after the other, with the kernel for several queries."""
    torch.manual_seed(0)
    caches, place = torch.randn(2, 3, 2, 9, 16, device=kernel_device), torch.tensor([5], device=kernel_device)
    qkv = torch.randn(3, (6 + 2 * 2) * 16, device=kernel_device)
    new = NewPlaces(qkv, lambda x: x.unflatten(1, (-1, 16)).split([6, 2, 2], 1))
    expected = append_sdpa(new, *caches.clone(), place, ahead=2)
    torch.testing.assert_close(append_triton(new, *caches, place, ahead=2), expected, rtol=1e-5, atol=1e-5)


def heads_of(qkv, count=2):
    return qkv.unflatten(1, (3, count, -1)).unbind(1)


def split_with(norms, qkv):
    q, k, v = heads_of(qkv)
    width = q.shape[-1:]
    return F.layer_norm(q, width, *norms[:2], eps=1e-6), F.layer_norm(k, width, *norms[2:], eps=1e-6), v


def turn_with(rotation, qkv):
    q, k, v = heads_of(qkv)
    return rotate(q, *rotation), rotate(k, *rotation), v


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.7), (20, 0.5)])
@pytest.mark.parametrize("guided", [True, False])
def test_guided_sample(top_k, top_p, guided, kernel_device):
    from robustok.kernels.sampling import guided_sample as kernel

    torch.manual_seed(0)
    count, size = 24, 37  # a vocabulary that fills neither a power of two nor the last Philox block
    logits = 2 * torch.randn(count * (1 + guided), size)
    scale, steps = 1 + 3 * torch.rand(count), torch.randint(0, 256, (count,))
    ids, seed = torch.randint(-(2**62), 2**62, (count,)), torch.tensor(-(2**40) + 7)
    expected = reference.guided_sample(logits, scale, 1.1, top_k, top_p, seed, ids, steps)
    arguments = [x.to(kernel_device) for x in (logits, scale, seed, ids, steps)]
    found = kernel(*arguments[:2], 1.1, top_k, top_p, *arguments[2:], SAMPLE).cpu()
    assert torch.equal(found, expected)
    if top_k or top_p < 1:
        likely = reference.keep_likely(reference.guide(logits, count, scale[:, None], 1.1), top_k, top_p)
        assert (likely == -torch.inf).any()
