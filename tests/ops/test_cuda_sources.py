"""The CUDA kernels: they compile for the GPUs supported, and their logic, run on the CPU, finds the codes it must."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok.ops import Draw
from robustok.ops.vq import normalize_rows, reference
from robustok.ops.vq.backends import cuda_backend
from robustok.ops.vq.backends.cuda_backend import _MAX_NORM, CudaBackend, TiledCodebook, half_tiles, scaled_rows
from robustok.ops.vq.backends.triton_backend import TritonBackend

from .table import make, order

CUDA = Path(__file__).parents[2] / "csrc" / "cuda"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("source", ["nearest.cu", "select.cu", "check.cu"])
def test_compiles_without_spills(source, tmp_path):
    architectures = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ("80", "90a")]
    command = [NVCC, "-O3", "-std=c++17", "-Xptxas=-v", *architectures, "-c", CUDA / source, "-o", tmp_path / "out.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    for kernel, spills, registers in re.findall(
        r"Function properties for (\w+).*?(\d+) bytes spill stores.*?Used (\d+) registers", report, re.DOTALL
    ):
        print(f"{kernel}: {registers} registers, {spills} bytes spilled")
        assert int(spills) == 0
    if source != "check.cu":
        assert report.count("registers") >= 2


WRAPPERS = """
#include "kernels.h"
namespace robustok { void check(int) {} }
extern "C" void run_nearest(const float* u, const float* v, int64_t N, const void* t, const float* e, int K, int D,
                            int w, double m, bool product, int64_t* out, int* tied, int* count) {
    robustok::nearest(u, v, N, t, e, K, D, w, m, product, out, tied, count, nullptr);
}
extern "C" void run_select(const float* u, const float* v, int64_t N, const void* t, const float* e, int K, int D,
                           int w, double m, bool product, const int* ranks, int64_t* out) {
    robustok::select(u, v, N, t, e, K, D, w, m, product, ranks, out, nullptr);
}
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> ctypes.CDLL:
    """The sources with launches and shared memory spelt for the CPU (cuda_on_cpu.h), as a library."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    emulator = Path(__file__).with_name("cuda_on_cpu.h")
    check = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", emulator], capture_output=True, text=True
    )
    if "_Float16" in check.stderr:
        pytest.skip("needs a g++ that knows _Float16: version 12 on x86")
    folder = tmp_path_factory.mktemp("cuda")
    for header in ("cuda_fp16.h", "cuda_runtime.h", "mma.h"):
        (folder / header).write_text(f'#include "{emulator}"\n')
    for name in ("nearest", "select"):
        text = (CUDA / f"{name}.cu").read_text()
        text = re.sub(r"(\w+)<<<(.+?)>>>\(", r"emulator::launch(\1, \2)(", text, flags=re.DOTALL)
        text = re.sub(r"extern __shared__.*;", "unsigned char* memory = dynamic_shared;", text)
        (folder / f"{name}.cpp").write_text(text)
    (folder / "wrappers.cpp").write_text(WRAPPERS)
    sources = [folder / f"{name}.cpp" for name in ("nearest", "select", "wrappers")]
    flags = ["-O2", "-march=native", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-I", folder, "-I", CUDA]
    subprocess.run(["g++", *flags, *sources, "-o", folder / "kernels.so"], check=True)
    library = ctypes.CDLL(folder / "kernels.so")
    pointer, size = ctypes.c_void_p, ctypes.c_int
    rows = [pointer, pointer, ctypes.c_int64, pointer, pointer]
    searched = [*rows, size, size, size, ctypes.c_double, ctypes.c_bool]
    library.run_nearest.argtypes = [*searched, pointer, pointer, pointer]
    library.run_select.argtypes = [*searched, pointer, pointer]
    return library


def arguments(u, e, similarity):
    """What the kernels read, to be kept while they do, and their first arguments."""
    is_dot = similarity == "dot"
    codes = TiledCodebook(e, e.T.contiguous(), half_tiles(e, similarity), is_dot)
    kept = u, scaled_rows(u, codes), codes.tiles, e
    first, second, *others = (tensor.data_ptr() for tensor in kept)
    sizes = len(e), e.shape[1], codes.tiles.shape[1], _MAX_NORM, is_dot
    return kept, (first, second, len(u), *others, *sizes)


CASES = {  # N, K, D: blocks not filled, one code, no padding left in the width, many tiles
    "small": (5, 7, 3),
    "one-code": (3, 1, 12),
    "full-width": (20, 300, 15),
    "odd": (19, 333, 33),
    "long": (17, 900, 64),
    "wide": (3, 20, 1700),  # rows that need more shared memory than a block has without asking
}


def case(N, K, D, special, similarity):
    z, codebook = make((1, N, D, K, 1), seed=N)
    if special == "duplicates":
        codebook[K // 2 :] = codebook[: K - K // 2].clone()
    if special == "identical":
        codebook[:] = codebook[0].clone()
    if special == "not finite":
        z[0, -1, 0], z[0, 0, -1], codebook[K // 3, 0] = float("nan"), float("inf"), float("nan")
    if special == "zero":
        z[0, 0], codebook[K - 1] = 0, 0
    if special == "scales":
        z, codebook = z * torch.logspace(-30, 15, N)[:, None], codebook * torch.logspace(-9, 9, K)[:, None]
    u, e = (normalize_rows(rows, similarity == "cosine") for rows in (z[0], codebook))
    return u, e, order(z, codebook, similarity)


@pytest.mark.parametrize("special", ["plain", "duplicates", "identical", "not finite", "zero", "scales"])
@pytest.mark.parametrize("size", CASES)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_nearest_on_cpu(emulated, size, special, similarity):
    u, e, orders = case(*CASES[size], special, similarity)
    out, tied, count = (
        torch.full((len(u),), -1),
        torch.zeros(len(u), dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
    )
    _kept, given = arguments(u, e, similarity)
    emulated.run_nearest(*given, *(x.data_ptr() for x in (out, tied, count)))
    assert np.array_equal(out, orders[:, 0])


@pytest.mark.parametrize("special", ["plain", "duplicates", "not finite", "zero", "scales"])
@pytest.mark.parametrize("size", CASES)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_select_on_cpu(emulated, size, special, similarity):
    u, e, orders = case(*CASES[size], special, similarity)
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(0, min(len(e), 100), (len(u),), generator=generator, dtype=torch.int32)
    out = torch.from_numpy(orders[:, 0].copy())
    _kept, given = arguments(u, e, similarity)
    emulated.run_select(*given, ranks.data_ptr(), out.data_ptr())
    assert np.array_equal(out, orders[np.arange(len(u)), ranks])


@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_backend_on_cpu(emulated, neighbors, similarity, monkeypatch):
    """The whole backend: its own kernels in the emulator, those of Triton in the interpreter."""
    if reason := TritonBackend().missing(torch.device("cpu")):
        pytest.skip(reason)
    searches = SimpleNamespace(
        nearest=lambda *given: emulated.run_nearest(*given[:-1]), select=lambda *given: emulated.run_select(*given[:-1])
    )
    monkeypatch.setattr(cuda_backend, "_cuda", searches)
    monkeypatch.setattr(cuda_backend, "_stream", lambda u: 0)
    z, codebook = make((2, 7, 12, 90, 20))
    numbers = torch.tensor(0.8, dtype=torch.float64), torch.tensor(20), torch.tensor(6)
    draw = Draw(*numbers, sample_ids=torch.arange(2), num_images=2)
    found = CudaBackend().quantize(z, codebook, draw, neighbors, similarity)
    for ours, expected in zip(found, reference.quantize(z, codebook, draw, neighbors, similarity), strict=True):
        torch.testing.assert_close(ours, expected)
    assert torch.equal(CudaBackend().nearest(z, codebook, similarity), found.nearest)
    assert torch.equal(CudaBackend().perturb(z, codebook, draw, neighbors, similarity).indices, found.indices)
    assert not torch.equal(found.indices, found.nearest)
