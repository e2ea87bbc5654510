"""Whole runs on a GPU: generated images and their FID with everything that a cold start costs, and pFID.

Images and weights are random: speed does not depend on them. What is extrapolated says so.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from robustok.checkpoints import writing
from robustok.evaluation import InceptionFeatures, pfid
from robustok.evaluation.features.random_filters import RandomFilters
from robustok.evaluation.pfid import ALPHAS, delta_set
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.computing import compute_in
from robustok.models.generators.rar import RAR
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

from . import recording
from .evaluation_peers import naive_pfid, plain_pfid, random_inception, sqrtm_distance, torch_fidelity_features

VIT_B = TokenizerConfig(256, 16, 768, depth=12, heads=12, num_latents=256, codebook_size=4096, code_width=64)
RARS = {
    "rar-l": RARConfig(1024, 24, 16, 4096, codebook_size=4096, num_classes=1000, num_tokens=256),
    "rar-b": RARConfig(768, 24, 16, 3072, codebook_size=4096, num_classes=1000, num_tokens=256),
}
SMALL_VIT = TokenizerConfig(16, 8, 32, depth=1, heads=2, codebook_size=64, code_width=4)
SMALL_RAR = RARConfig(32, 1, 2, 64, codebook_size=64, num_classes=3, num_tokens=4)
WANTED = {"rar-l": 240, "rar-b": 180}  # seconds for 50,000 images
LIMIT = 400  # seconds, after which a run is stopped so that its row is written within the time of its slice
IMAGES = 50_000
GOAL = "pFID"
BATCH, WIDTH = 256, 2048  # images; features
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_inception(tmp_path_factory.mktemp("whole") / "inception.pth")


def save_models(folder: Path, generator: RARConfig, tokenizer: TokenizerConfig) -> tuple[Path, Path]:
    """Checkpoints of both with random weights."""
    torch.manual_seed(0)
    for kind, model, config in (("rar", RAR(generator), generator), ("tokenizer", ViTTokenizer(tokenizer), tokenizer)):
        about = {"config": {"kind": kind, "config": asdict(config)}}
        writing.save(folder / kind / "step-1", {name: model.state_dict() for name in ("model", "ema")}, about)
    return folder / "rar", folder / "tokenizer"


@pytest.mark.parametrize("name", RARS)
def test_gfid(name, timed, record, gpu, weights, tmp_path):
    """50,000 images and their FID by the command, in a process of its own whose compilers have stored nothing yet."""
    goal = f"FID of 50,000 generated images, {name}"
    if not timed and name != "rar-l":
        pytest.skip("the same code as for rar-l")
    device, count = gpu(goal), IMAGES if timed else 4
    generator, tokenizer = save_models(tmp_path, *((RARS[name], VIT_B) if timed else (SMALL_RAR, SMALL_VIT)))
    np.savez(tmp_path / "reference.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    command = [sys.executable, "-m", "robustok.sample", "--generator", generator, "--tokenizer", tokenizer]
    command += ["--n", count, "--reference", tmp_path / "reference.npz", "--weights", weights, "--fast"]
    command += ["--device", device, "--output", tmp_path / "samples"]
    stores = {name: str(tmp_path / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_HOME")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = []

    def run() -> None:
        environment = {**os.environ, **stores, "PYTHONPATH": path}
        settings = {"env": environment, "capture_output": True, "text": True, "timeout": LIMIT}
        done.append(subprocess.run(list(map(str, command)), **settings))

    what = f"{name}, {count} images, a fresh process, compiling included"
    try:
        seconds = recording.seconds(run)
    except subprocess.TimeoutExpired:
        record.add(goal, what, f"<= {WANTED[name]} s", f"stopped after {LIMIT} s", False)
        pytest.fail(f"stopped after {LIMIT} s")
    assert done[0].returncode == 0, done[0].stderr[-2000:]
    said = [line for line in done[0].stdout.splitlines() if "images/s" in line]
    assert (tmp_path / "samples" / "metrics.json").exists() and said
    record.add_at_most(goal, f"{what} ({said[0]})", WANTED[name], seconds, "s")


class Pfid(NamedTuple):
    """What pFID is measured on; small where nothing is timed."""

    device: str
    exact: ViTTokenizer
    fast: ViTTokenizer  # as --fast has it
    features: Callable
    batches: list[Tensor]  # uint8 (B, 3, H, W)
    alphas: tuple[float, ...]
    deltas: tuple[int, ...]

    @property
    def settings(self) -> list[tuple[float, int]]:
        return [(alpha, delta) for alpha in self.alphas for delta in self.deltas]

    def ours(self, batches: list[Tensor]) -> dict:
        return pfid(self.fast, batches, self.features, alphas=self.alphas, deltas=self.deltas)


@pytest.fixture
def on(timed, gpu, weights) -> Pfid:
    device = gpu(GOAL)
    torch.manual_seed(0)
    config = VIT_B if timed else SMALL_VIT
    exact, tokenizer = (ViTTokenizer(config).to(device).eval() for _ in range(2))
    fast = compute_in(tokenizer, *(("bfloat16", True) if timed else ("float32", False)))
    features = InceptionFeatures(weights, "fast", device=device) if timed else RandomFilters(device=device)
    size, part = (BATCH, 20) if timed else (2, 1)
    shape = (size * part, 3, config.image_size, config.image_size)
    few = list(torch.randint(0, 256, shape, dtype=torch.uint8, device=device).split(size))
    alphas, deltas = (ALPHAS, delta_set(config.codebook_size)) if timed else (ALPHAS[:1], (1, 2))
    found = Pfid(device, exact, fast, features, few, tuple(alphas), tuple(deltas))
    for _ in range(2):  # compiles the networks, for full batches
        found.ours(few[:1])
    return found


def test_pfid(on, record, weights):
    """All 15 settings, against a loop over them with the same kernels and against the authors' way; extrapolated."""
    settings, count = on.settings, sum(map(len, on.batches))
    one, scale = settings[len(settings) // 2], IMAGES / count
    for _ in range(2):
        naive_pfid(on.fast, on.batches[:1], on.features, [one])
    naive = recording.seconds(lambda: naive_pfid(on.fast, on.batches, on.features, [one])) * len(settings) * scale
    ours = recording.seconds(lambda: on.ours(on.batches)) * scale
    what = f"{len(settings)} settings x {IMAGES:,} images, extrapolated from {count} images"
    record.add_at_most(GOAL, what, 300, ours, "s")
    against = f"{what} (the loop: of 1 setting), against a loop with the same kernels"
    record.add_at_least(GOAL, against, 1.5, naive / ours, "x", naive_seconds=naive)
    few = on.batches[: max(1, len(on.batches) // 10)]
    add_authors(record, GOAL, what, on.exact, few, one, ours, len(settings), weights, on.device)


def test_all_images(on, timed, record):
    """The whole of it, compiling excluded."""
    size = len(on.batches[0])
    count = -(-IMAGES // size) if timed else 2
    whole = [on.batches[i % len(on.batches)] for i in range(count)]
    found = recording.seconds(lambda: on.ours(whole))
    what = f"{len(on.settings)} settings x {count * size:,} images, bfloat16 tokenizer"
    record.add_at_most(GOAL, what, 300, found, "s")


def add_authors(record, goal, what, tokenizer, few, one, ours, settings, weights, device) -> None:
    """The authors' way: float32 in TF32, eager, each setting anew, torch-fidelity's features where it is there."""
    features, whose = torch_fidelity_features(weights, device), "torch-fidelity's"
    if features is None:
        network = InceptionFeatures(weights, "exact", device=device)
        features, whose = (lambda images: network(images).features), "our exact"
    count = sum(map(len, few))
    with recording.tf32():
        plain_pfid(tokenizer, few[:1], features, *one)
        seconds = recording.seconds(lambda: plain_pfid(tokenizer, few, features, *one))
    rows = torch.randn(4 * WIDTH if recording.timed else 100, WIDTH if recording.timed else 64)
    moments = rows.mean(0).double().numpy(), np.cov(rows.double().numpy(), rowvar=False)
    distance = recording.seconds(lambda: sqrtm_distance(rows, moments))
    theirs = (seconds * IMAGES / count + distance) * settings
    against = f"{what}, against the authors' way (1 setting x {count} images, extrapolated; {whose} features)"
    record.add_at_least(goal, against, 10, theirs / ours, "x", authors_seconds=theirs)
