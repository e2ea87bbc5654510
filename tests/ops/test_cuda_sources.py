"""The CUDA kernels: they compile for the GPUs supported, and their logic, run on the CPU, finds the codes it must."""

import ctypes
import re
import shutil
import subprocess
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok.ops import Draw
from robustok.ops.vq import reference
from robustok.ops.vq.backends import cuda_backend, registry, triton_backend
from robustok.ops.vq.backends.cuda_backend import CudaBackend
from robustok.ops.vq.backends.torch_backend import TorchBackend
from robustok.ops.vq.backends.triton_backend import TritonBackend
from robustok.ops.vq.types import CodebookShape, QuantizedGradients
from tests.host_reads import reads_of

from .table import DTYPES, SIMILARITIES, make, order

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
extern "C" void run_nearest(const float* u, const float* v, const float* x, int64_t N, const void* t, const float* e,
                            int K, int D, int w, bool product, int64_t* out, int* tied, int* count, void* stream) {
    robustok::nearest(u, v, x, N, t, e, K, D, w, product, out, tied, count, stream);
}
extern "C" void run_select(const float* u, const float* v, const float* x, int64_t N, const void* t, const float* e,
                           int K, int D, int w, bool product, const int* ranks, int64_t* out, void* scores, int blocks,
                           void* stream) {
    robustok::select(u, v, x, N, t, e, K, D, w, product, ranks, out, scores, blocks, stream);
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
    searched = [*[pointer] * 3, ctypes.c_int64, pointer, pointer, size, size, size, ctypes.c_bool]
    library.run_nearest.argtypes = [*searched, pointer, pointer, pointer, pointer]
    library.run_select.argtypes = [*searched, pointer, pointer, pointer, size, pointer]
    return library


@pytest.fixture
def on_cpu(emulated, monkeypatch) -> None:
    """The backend launches its kernels in the emulator."""
    kernels = SimpleNamespace(nearest=emulated.run_nearest, select=emulated.run_select)
    monkeypatch.setattr(cuda_backend, "_cuda", kernels)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=None))


CASES = {  # N, K, D: blocks not filled, one code, no padding left in the width, many tiles
    "small": (5, 7, 3),
    "one-code": (3, 1, 12),
    "full-width": (20, 300, 15),
    "odd": (19, 333, 33),
    "long": (17, 500, 64),
    "wide": (3, 20, 1700),  # rows that need more shared memory than a block has without asking
}


SPECIAL = [
    *((similarity, name) for similarity in ("cosine", "dot") for name in ("duplicates", "identical", "zero")),
    *((similarity, name) for similarity in SIMILARITIES for name in ("plain", "not finite", "scales")),
    *(("l2", name) for name in ("far", "farther")),
]


def case(N, K, D, special, similarity):
    z, codebook = make((1, N, D, K, 1), seed=N)
    if special == "duplicates":
        codebook[K // 2 :] = codebook[: K - K // 2].clone()
    if special == "identical":
        codebook[:] = codebook[0].clone()
    if special == "not finite":
        z[0, -1, 0], z[0, 0, -1], codebook[K // 3, 0] = float("nan"), float("inf"), float("nan")
        codebook[K // 2, 0] = float("inf")
    if special == "zero":
        z[0, 0], codebook[K - 1] = 0, 0
    if special == "scales":
        z, codebook = z * torch.logspace(-30, 15, N)[:, None], codebook * torch.logspace(-9, 9, K)[:, None]
    if special == "far":  # rows longer than the codes, by up to where scores say too little; a code that is lost
        z[0] *= torch.logspace(0, 4, N)[:, None]
        codebook[K // 3, 0] = float("nan")
    if special == "farther":  # up to where the definition cannot tell codes apart
        z[0] *= torch.logspace(4, 20, N)[:, None]
    return z, codebook, order(z, codebook, similarity)


@pytest.mark.parametrize(("similarity", "special"), SPECIAL)
@pytest.mark.parametrize("size", CASES)
def test_nearest_on_cpu(on_cpu, size, special, similarity):
    z, codebook, orders = case(*CASES[size], special, similarity)
    assert np.array_equal(CudaBackend().nearest(z, codebook, similarity)[0], orders[:, 0])


@pytest.mark.parametrize(("similarity", "special"), SPECIAL)
@pytest.mark.parametrize("size", CASES)
def test_select_on_cpu(on_cpu, size, special, similarity):
    z, codebook, orders = case(*CASES[size], special, similarity)
    codes = CudaBackend().prepare(codebook, similarity)
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(0, min(len(codebook), 100), (len(z[0]),), generator=generator, dtype=torch.int32)
    out = torch.from_numpy(orders[:, 0].copy())
    cuda_backend.search_ranks(reference.compared_rows(z[0], similarity), codes, ranks, out)
    assert np.array_equal(out, orders[np.arange(len(out)), ranks])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_decide_nearly_all_rows(similarity):
    """Of ordinary rows few codes are within the error of the best score, and the true scores are within it."""
    z, codebook = make((1, 200, 64, 1000, 1))
    codes = cuda_backend.TiledCodebook(codebook, similarity)
    u = reference.compared_rows(z[0], similarity)
    rows, errors = codes.scaled(u, cuda_backend._NEAREST_ROUNDOFF)
    scores = rows.half().double() @ codes.tiles[:, : rows.shape[1]].double().T
    exact = rows[:, :-1].double() @ (codes.rows.double() * 2.0 ** -codes.exponent.double()).T
    if similarity != "dot":
        exact -= rows[:, -1:].double() * codes.squares * 4.0 ** -codes.exponent.double() / 2
    off = (scores[:, : len(codebook)] - exact).abs().amax(1)
    assert (off <= errors).all() and (errors < 100 * off).all()
    near = (scores >= scores.amax(1, keepdim=True) - 2 * errors[:, None]).sum(1)
    assert (near > 0).all() and near.float().mean() < 2


@pytest.mark.parametrize("blocks", [1, 2])
def test_few_blocks_select_for_many_rows(on_cpu, blocks, monkeypatch):
    """Each block of threads works on tokens after tokens, in the same room for scores."""
    monkeypatch.setattr(cuda_backend, "_SCORES", blocks * 16 * 64)
    z, codebook = make((1, 75, 8, 60, 1))
    ranks = torch.randint(0, 60, (75,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    ranks[16:48] = 0  # tokens that a block has nothing to do for
    orders = order(z, codebook)
    out = torch.from_numpy(orders[:, 0].copy())
    codes = CudaBackend().prepare(codebook, "cosine")
    cuda_backend.search_ranks(reference.compared_rows(z[0], "cosine"), codes, ranks, out)
    assert np.array_equal(out, orders[np.arange(75), ranks])


@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_backend_on_cpu(on_cpu, neighbors, similarity, dtype):
    z, codebook = make((3, 7, 12, 90, 20), dtype)
    numbers = torch.tensor(0.8, dtype=torch.float64), torch.tensor(20), torch.tensor(6)
    draw = Draw(*numbers, sample_ids=torch.arange(3), num_images=2)
    found = CudaBackend().quantize(z, codebook, draw, neighbors, similarity)
    for ours, expected in zip(found, reference.quantize(z, codebook, draw, neighbors, similarity), strict=True):
        torch.testing.assert_close(ours, expected)
    assert torch.equal(CudaBackend().perturb(z, codebook, draw, neighbors, similarity).indices, found.indices)
    assert not torch.equal(found.indices, found.nearest)
    lists = CudaBackend().neighbors(z, codebook, 9, similarity)
    assert torch.equal(lists, reference.neighbors(z, codebook, 9, similarity))


@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_it_reads_nothing_back(on_cpu, neighbors, similarity):
    z, codebook = make((3, 7, 12, 90, 20))
    draw = Draw(torch.tensor(0.8).double(), torch.tensor(20), torch.tensor(6), torch.arange(3), 2)
    grads = QuantizedGradients([torch.ones_like(z)], torch.tensor(1.0), torch.tensor(1.0))
    backend, nearest = CudaBackend(), torch.zeros(3, 7, dtype=torch.int64)

    def work() -> None:
        backend.nearest(z, codebook, similarity)
        backend.perturb(z, codebook, draw, neighbors, similarity)
        backend.quantize(z, codebook, draw, neighbors, similarity)
        backend.perturb_backward(z, z, similarity)
        backend.quantize_backward(z, codebook, nearest, grads, similarity)

    assert not reads_of(work)
    assert reads_of(lambda: TorchBackend().quantize(z, codebook, draw, neighbors, similarity))


def gpu(monkeypatch, name="an A100", capability=(8, 0), shared=163 << 10, triton="no C compiler"):
    """A machine with this GPU and the extension, and why Triton cannot run on it."""
    properties = SimpleNamespace(
        name=name, major=capability[0], minor=capability[1], shared_memory_per_block_optin=shared
    )
    sizes = {  # as nearest.cu and select.cu add them up
        "nearest_shared_bytes": lambda width: 3 * 1024 + 32 * width,
        "select_shared_bytes": lambda width: 8 * 1408 + 32 * width,
    }
    monkeypatch.setattr(cuda_backend, "_cuda", SimpleNamespace(**sizes))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(TritonBackend, "missing", lambda self, device, shape=None: triton)


def test_auto_takes_it_where_triton_cannot_run(monkeypatch):
    gpu(monkeypatch)
    published = CodebookShape(4096, 64, "l2")
    assert registry.choose("auto", torch.device("cuda"), published).name == "cuda"
    assert registry.choose("auto", torch.device("cuda"), CodebookShape(262_144, 256, "dot")).name == "cuda"
    assert registry.choose("auto", torch.device("cpu"), published).name in ("cpp", "torch")
    gpu(monkeypatch, triton=None)
    assert registry.choose("auto", torch.device("cuda"), published).name == "triton"


def test_triton_without_a_compiler_says_so(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = triton_backend.launcher_lacks.__wrapped__()
    assert found == "no C compiler (CC, gcc or clang)"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    assert triton_backend.launcher_lacks.__wrapped__() == "no /nowhere/Python.h (Python's headers for C)"
    monkeypatch.setattr(triton_backend, "IMPORT_ERROR", None)
    monkeypatch.setattr(triton_backend, "launcher_lacks", lambda: found)
    assert found in TritonBackend().missing(torch.device("cuda"))


REFUSED = {
    "old GPU": ({"name": "a T4", "capability": (7, 5)}, (10, 10), "compute capability 8.0 and newer: a T4 has 7.5"),
    "wide rows": ({"name": "an RTX"}, (10, 5000), r"D = 5000 needs 171520 bytes, an RTX has 166912"),
    "many codes": ({}, (2**20 + 1, 8), "found K = 1048577, at most 1048576"),
}


@pytest.mark.parametrize(("machine", "size", "message"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_do_is_said(monkeypatch, machine, size, message):
    gpu(monkeypatch, **machine)
    shape = CodebookShape(*size, "cosine")
    assert registry.choose("auto", torch.device("cuda"), shape).name == "torch"
    with pytest.raises(ValueError, match=f"'cuda' cannot run here: .*{message}"):
        registry.choose("cuda", torch.device("cuda"), shape)


@pytest.mark.skipif(cuda_backend._cuda is None, reason="needs the CUDA extension")
def test_sizes_of_shared_memory_are_those_of_the_extension():
    for D in (1, 15, 16, 64, 4000):
        width = cuda_backend.tile_width(D)
        assert cuda_backend._cuda.nearest_shared_bytes(width) == 3 * 1024 + 32 * width
        assert cuda_backend._cuda.select_shared_bytes(width) == 8 * 1408 + 32 * width
