"""Host memory of a pass over images does not grow with their number."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory in /proc")

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


def test_images_are_not_held():
    before, peak = gibibytes(3000)  # 0.55 GiB of pixels
    assert peak - before < 0.4  # two covariances, 3000 rows of features and logits, one batch


@pytest.mark.torture
def test_50_000_images_stay_under_2_gb():
    assert gibibytes(50_000)[1] < 2e9 / 2**30
