"""The published size: what loading and converting a full checkpoint costs (torture: it writes 4 GB)."""

import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from robustok.formats.robustok_release import to_released
from robustok.model_configs import TokenizerConfig
from robustok.models.registry import FAMILIES

PUBLISHED = TokenizerConfig(
    image_size=256, patch_size=16, width=768, depth=12, heads=12, drop_path=0.1, codebook_size=4096, code_width=64
)
LIMIT_BYTES = 6 * 2**30

# Runs a statement in a process of its own and prints the seconds it took and the peak memory of the process in bytes
# (VmHWM: getrusage would count the parent's memory at the time of the fork).
MEASURE = """
import re, time
from robustok import load_tokenizer
from robustok.convert import main as convert
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(seconds, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights in the released layout: model and EMA of about 1 GB each, 1.4 GB of optimiser state."""
    with torch.device("meta"):
        shapes = FAMILIES["tokenizer"].build(PUBLISHED).state_dict()
    teacher = {k.removeprefix("encoder.vit."): v for k, v in shapes.items() if k.startswith("encoder.vit.")}
    released = to_released(shapes, PUBLISHED, teacher)
    random = {k: torch.randn(v.shape) if v.is_floating_point() else torch.zeros(v.shape) for k, v in released.items()}
    trained = [k for k in random if not k.startswith("semantic_model.")]
    optimizer = {i: {m: torch.randn(random[k].shape) for m in ("exp_avg", "exp_avg_sq")} for i, k in enumerate(trained)}
    path = tmp_path_factory.mktemp("full") / "main-train.pt"
    ema = {k: v.clone() for k, v in random.items()}
    torch.save({"model": random, "ema": ema, "optimizer": {"state": optimizer}, "steps": 1, "args": Namespace()}, path)
    return path


def measure(statement: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", MEASURE.format(statement=statement)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


@pytest.mark.torture
def test_cost_of_loading_and_converting(checkpoint, record_property):
    """Never more than 6 GB of memory, released or converted."""
    assert checkpoint.stat().st_size > 3e9
    target = checkpoint.with_name("ours")
    for name, statement in {
        "load_released": f"load_tokenizer({str(checkpoint)!r})",
        "convert": f"convert([{str(checkpoint)!r}, {str(target)!r}])",
        "load_ours": f"load_tokenizer({str(target)!r})",
        "convert_back": f"convert([{str(target)!r}, {str(target) + '.pt'!r}, '--to', 'upstream'])",
    }.items():
        seconds, peak = measure(statement)
        record_property(name, f"{seconds:.1f} s, {peak / 2**30:.2f} GB")
        print(f"{name}: {seconds:.1f} s, {peak / 2**30:.2f} GB")
        assert peak < LIMIT_BYTES, name
