"""The Triton kernels of decoding against their definitions: on a GPU where there is one, else in the interpreter."""

import pytest
import torch

from robustok.core.random import SAMPLE
from robustok.ops.decoding import reference

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("queries", [1, 3, 17])
@pytest.mark.parametrize("width", [48, 64])
def test_decode_attention(queries, width):
    from robustok.kernels.attention import decode_attention

    torch.manual_seed(0)
    streams, heads, places = 3, 2, 257
    caches = torch.randn(2, streams, heads, places, width, device=DEVICE)
    caches[:, :, :, 200:] = torch.nan  # places not filled yet must not be read
    query = torch.randn(streams, queries, heads, width, device=DEVICE).transpose(1, 2)
    last = torch.randint(0, 200, (streams, queries), device=DEVICE)
    last[0, 0], last[1, 0] = 0, 199
    found, expected = decode_attention(query, *caches, last), reference.decode_attention(query, *caches, last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.7), (20, 0.5)])
@pytest.mark.parametrize("guided", [True, False])
def test_guided_sample(top_k, top_p, guided):
    from robustok.kernels.sampling import guided_sample as kernel

    torch.manual_seed(0)
    count, size = 64, 37  # a vocabulary that fills neither a power of two nor the last Philox block
    logits = 2 * torch.randn(count * (1 + guided), size)
    scale, steps = 1 + 3 * torch.rand(count), torch.randint(0, 256, (count,))
    ids, seed = torch.randint(-(2**62), 2**62, (count,)), torch.tensor(-(2**40) + 7)
    expected = reference.guided_sample(logits, scale, 1.1, top_k, top_p, seed, ids, steps)
    arguments = [x.to(DEVICE) for x in (logits, scale, seed, ids, steps)]
    found = kernel(*arguments[:2], 1.1, top_k, top_p, *arguments[2:], SAMPLE).cpu()
    assert torch.equal(found, expected)
    if top_k or top_p < 1:
        likely = reference.keep_likely(reference.guide(logits, count, scale[:, None], 1.1), top_k, top_p)
        assert (likely == -torch.inf).any()
