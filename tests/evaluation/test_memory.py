"""Memory of a pass over images does not grow with their number, nor that of a table with its tokenizers."""

import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from robustok import evaluate
from robustok.core.cli import run_verb
from robustok.evaluation import tokenizers

reads_peak = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory in /proc")

PASS = """
import re, sys, torch
from robustok.evaluation.statistics import collect
from robustok.evaluation import inception_score

class Stream:  # images of 256 x 256, each another
    name, transform, labels = "synthetic", "none", None
    def __len__(self):
        return int(sys.argv[1])
    def __iter__(self):
        for i in range(0, len(self), 50):
            image = torch.zeros(50, 3, 256, 256, dtype=torch.uint8)
            image[:, 0, 0, :4] = (torch.arange(i, i + 50)[:, None] >> torch.tensor([0, 8, 16, 24])) & 255
            yield image

class Output:
    features, spatial, logits = torch.randn(50, 2048), torch.randn(50, 2023), torch.randn(50, 1008)

def peak():  # GiB; getrusage would begin at the peak of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20

before = peak()
found = collect(Stream(), lambda images: Output)
inception_score(found.logits)
assert found.count == len(Stream()) and found.duplicates == 0
print(before, peak())
"""


def gibibytes(images: int) -> tuple[float, float]:
    """(before the pass, at its peak) of a process of its own."""
    done = subprocess.run([sys.executable, "-c", PASS, str(images)], capture_output=True, text=True, check=True)
    before, peak = done.stdout.split()
    return float(before), float(peak)


@reads_peak
def test_images_are_not_held():
    before, peak = gibibytes(3000)  # 0.55 GiB of pixels
    assert peak - before < 0.4  # two covariances, 3000 rows of features and logits, one batch


@reads_peak
@pytest.mark.torture
def test_50_000_images_stay_under_2_gb():
    assert gibibytes(50_000)[1] < 2e9 / 2**30


def test_a_tokenizer_that_was_judged_is_let_go(save_models, tmp_path, monkeypatch):
    """On a GPU it would keep the graphs that were captured of it beside those of the next."""
    judge, judged = tokenizers.evaluate_tokenizer, []

    def judged_alone(model, *args, **settings):
        assert [left() for left in judged] == [None] * len(judged)
        judged.append(weakref.ref(model))
        return judge(model, *args, **settings)

    monkeypatch.setattr(tokenizers, "evaluate_tokenizer", judged_alone)
    save_models(tmp_path)
    np.savez(tmp_path / "images.npz", np.zeros((3, 16, 16, 3), np.uint8))
    asked = (
        f"tokenizer {' '.join([f'{tmp_path}/tokenizer'] * 3)} --images {tmp_path}/images.npz --pfid none --device cpu"
    )
    asked += f" --tokenizer_precision bfloat16 --network random-filters --output {tmp_path}/out"
    assert run_verb(evaluate.main, asked.split()) == 0 and len(judged) == 3
