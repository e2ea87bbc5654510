"""One choice of the device for every command."""

import subprocess
import sys

import pytest
import torch

from robustok import evaluate, explain, pretokenize, sample, train
from robustok.core.cli import run_verb
from robustok.core.device import resolve_device, untested_devices
from robustok.core.errors import UserError


class Launched(Exception):
    """Carries the device that was made the current one."""


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as far as choosing goes; returns the devices that were made the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return current


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu(no_gpu):
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UserError, match=rf"found '{name}'.*no usable GPU.*--device cpu"):
            resolve_device(name)


@pytest.mark.parametrize(
    "name, rank, expected",
    [("auto", None, 0), ("cuda", "1", 1), ("auto", "1", 1), ("cuda:1", None, 1), ("cuda:0", "1", 0)],
)
def test_the_gpu_of_a_process_becomes_the_current_one(two_gpus, monkeypatch, name, rank, expected):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert resolve_device(name) == torch.device("cuda", expected)
    assert two_gpus == [torch.device("cuda", expected)]


def test_a_gpu_that_is_not_there_is_refused(two_gpus, monkeypatch):
    with pytest.raises(UserError, match=r"cuda:2 .* torch sees cuda:0, cuda:1;"):
        resolve_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match=r"found 'auto', which is cuda:3 for this process"):
        resolve_device("auto")
    assert not two_gpus


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "cpu:0", ""])
def test_a_name_that_means_nothing_is_refused(name):
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize(
    "name, why",
    [
        ("gpu", "a GPU is called cuda"),
        ("mps", "not supported.*use cpu"),
        ("xpu:0", "untested.*use cpu"),
        ("hip", "untested"),
        ("ROCm", "called cuda by a ROCm build"),
    ],
)
def test_a_device_of_another_make_is_named(name, why):
    with pytest.raises(UserError, match=f"found '{name}', expected auto.*{why}"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["mps", "gpu", "cuda:"])
@pytest.mark.parametrize(
    "verb, arguments",
    [
        (sample, "--generator g"),
        (evaluate, "generator g --tokenizer t --reference r"),
        (explain, "codebook tokenizer --images images"),
        (pretokenize, "images tokens --tokenizer t"),
        (pretokenize, "lines.jsonl tokens"),
        (train, ""),
        (train, "--dry_run"),
    ],
)
def test_every_verb_refuses_such_a_name_in_one_sentence(verb, arguments, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_verb(verb.main, [*arguments.split(), "--device", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"robustok: device: found {name!r}, expected auto, cpu, cuda or cuda:N")
    assert not list(tmp_path.iterdir())


def test_what_was_never_tested_is_said(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    rocm, mps, xpu = untested_devices()
    assert "ROCm" in rocm and "MPS" in mps and "XPU" in xpu


@pytest.mark.parametrize(
    "verb, arguments",
    [
        (sample, "--generator g"),
        (evaluate, "samples images --reference others"),
        (explain, "codebook tokenizer --images images"),
        (pretokenize, "images tokens --tokenizer t"),
        (train, ""),
    ],
)
def test_every_verb_makes_its_device_the_current_one_first(two_gpus, monkeypatch, tmp_path, verb, arguments):
    """`sample --device cuda:1` and `torchrun -m robustok.sample` launched their kernels on device 0 before."""

    def launch(device):
        raise Launched(device)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "set_device", launch)
    with pytest.raises(Launched, match="cuda:1"):
        verb.main([*arguments.split(), "--device", "cuda:1"])


def test_peak_memory_counts_what_is_gone():
    """A process begins with the peak of the one that started it, so the tensor is larger than that."""
    script = """
import torch
from robustok.core.device import peak_memory_bytes
before = peak_memory_bytes(torch.device("cpu"))
size = before + (64 << 20)
torch.ones(size, dtype=torch.uint8)
print(before, size, peak_memory_bytes(torch.device("cpu")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, size, after = map(int, done.stdout.split())
    assert before > 30 << 20
    assert size <= after <= size + before
