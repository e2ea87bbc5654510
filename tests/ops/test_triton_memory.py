"""What calls of the published size allocate and launch on a GPU: counted on tensors that have no memory. What they read
of tensors that reach far."""

from collections import Counter

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from robustok.ops.vq.backends.triton_backend import TritonBackend
from robustok.ops.vq.types import Draw

from .table import make

if reason := TritonBackend().missing(torch.device("cpu")):
    pytest.skip(reason, allow_module_level=True)

from robustok.kernels import rows as kernel_rows

B, L, D, K, DELTA = 1024, 256, 64, 4096, 100


class PeakBytes(TorchDispatchMode):
    """Bytes of all tensors made while it is entered, where they were the most."""

    def __init__(self):
        super().__init__()
        self.peak, self.storages = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for x in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(x, torch.Tensor) and not any(x.untyped_storage()._cdata == s.cdata for s in self.storages):
                self.storages[StorageWeakRef(x.untyped_storage())] = x.untyped_storage().nbytes()
        self.storages = {storage: size for storage, size in self.storages.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self.storages.values()))
        return found


@pytest.fixture
def launched(monkeypatch) -> Counter:
    """How often each kernel is launched; none runs."""
    count: Counter = Counter()

    def launch(kernel, grid):
        return lambda **arguments: count.update([kernel.fn.__name__.strip("_").removesuffix("_kernel")])

    monkeypatch.setattr(type(kernel_rows._normalize_rows_kernel), "__getitem__", launch)
    return count


def beyond_outputs(run) -> int:
    """Bytes at the peak of a call that are not its results."""
    with PeakBytes() as memory:
        found = run()
    return memory.peak - sum(x.nbytes for x in (found if isinstance(found, tuple) else (found,)))


def latents() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(B, L, D, device="meta"), torch.empty(K, D, device="meta")


def test_lookup(launched):
    z, codebook = latents()
    assert beyond_outputs(lambda: TritonBackend().nearest(z, codebook, "cosine")) <= 64 << 20
    assert launched == {"prepare": 1, "normalize_rows": 2, "nearest": 2, "settle": 2, "resolve_ties": 2}


@pytest.mark.parametrize("neighbors", ["latent", "code"])
def test_quantization(launched, neighbors):
    z, codebook = latents()
    numbers = torch.tensor(1.0, dtype=torch.float64), torch.tensor(DELTA), torch.tensor(0)
    draw = Draw(*numbers, torch.empty(B, dtype=torch.int64, device="meta"), B)
    assert beyond_outputs(lambda: TritonBackend().quantize(z, codebook, draw, neighbors, "cosine")) <= 64 << 20
    assert launched["finish"] == 2
    # The selection among a row's nearest codes has met its nearest one, too: no lookup beside it.
    assert (launched["nearest"], launched["select_top"]) == ((0, 2) if neighbors == "latent" else (2, 0))
    assert launched["candidates"] == (neighbors == "code")  # one table for all blocks


def test_coordinates_further_apart_than_32_bits_tell(tmp_path):
    """Channels first, in a file of which four pages are written."""
    apart = 2**30
    numbers = torch.from_file(str(tmp_path / "latents"), shared=True, size=3 * apart, dtype=torch.float16)
    far = numbers.as_strided((1, 5, 3), (1, 1, apart))
    near, codebook = make((1, 5, 3, 20, 1), torch.float16)
    far.copy_(near)
    backend = TritonBackend()
    for similarity in ("cosine", "l2"):
        assert torch.equal(backend.nearest(far, codebook, similarity), backend.nearest(near, codebook, similarity))
    assert torch.equal(backend.perturb_backward(far, far, "cosine"), backend.perturb_backward(near, near, "cosine"))
