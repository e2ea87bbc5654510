"""Whole runs on a GPU: generated images and their FID with everything that a cold start costs, and pFID.

Images and weights are random: speed does not depend on them. What is extrapolated says so, and comes first, so that a
run that is stopped has it.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robustok.checkpoints import writing
from robustok.core.machine import version_of
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
IMAGES = 50_000
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
        done.append(subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True))

    seconds = recording.seconds(run)
    assert done[0].returncode == 0, done[0].stderr[-2000:]
    said = [line for line in done[0].stdout.splitlines() if "images/s" in line]
    assert (tmp_path / "samples" / "metrics.json").exists() and said
    what = f"{name}, {count} images, a fresh process, compiling included ({said[0]})"
    record.add_at_most(goal, what, WANTED[name], seconds, "s")


def in_turn(batches: list[Tensor], count: int) -> list[Tensor]:
    """So many batches, from few."""
    return [batches[i % len(batches)] for i in range(count)]


def test_pfid(timed, record, gpu, weights):
    """All 15 settings, against a loop over them with the same kernels and against the authors' way."""
    goal = "pFID"
    device = gpu(goal)
    torch.manual_seed(0)
    config = VIT_B if timed else SMALL_VIT
    exact, tokenizer = (ViTTokenizer(config).to(device).eval() for _ in range(2))
    fast = compute_in(tokenizer, *(("bfloat16", True) if timed else ("float32", False)))  # as --fast has it
    features = InceptionFeatures(weights, "fast", device=device) if timed else RandomFilters(device=device)
    size, part = (BATCH, 20) if timed else (2, 1)
    shape = (size * part, 3, config.image_size, config.image_size)
    few = list(torch.randint(0, 256, shape, dtype=torch.uint8, device=device).split(size))
    alphas, deltas = (ALPHAS, delta_set(config.codebook_size)) if timed else (ALPHAS[:1], (1, 2))
    settings, scale = [(alpha, delta) for alpha in alphas for delta in deltas], IMAGES / (size * part)
    one = settings[len(settings) // 2]
    for _ in range(2):  # compiles the networks of both, for full batches
        naive_pfid(fast, few[:1], features, [one])
        pfid(fast, few[:1], features, alphas=alphas, deltas=deltas)
    naive = recording.seconds(lambda: naive_pfid(fast, few, features, [one])) * len(settings) * scale
    ours = recording.seconds(lambda: pfid(fast, few, features, alphas=alphas, deltas=deltas)) * scale
    what = f"{len(settings)} settings x {IMAGES:,} images, extrapolated from {size * part} images"
    record.add_at_most(goal, what, 300, ours, "s")
    against = f"{what} (the loop: of 1 setting), against a loop with the same kernels"
    record.add_at_least(goal, against, 1.5, naive / ours, "x", naive_seconds=naive)
    add_authors(record, goal, what, exact, few[: max(1, part // 10)], one, ours, len(settings), weights, device)
    if timed:
        whole = in_turn(few, -(-IMAGES // size))
        found = recording.seconds(lambda: pfid(fast, whole, features, alphas=alphas, deltas=deltas))
        record.add_at_most(goal, f"{len(settings)} settings x {IMAGES:,} images, bfloat16 tokenizer", 300, found, "s")


def add_authors(record, goal, what, tokenizer, few, one, ours, settings, weights, device) -> None:
    """The authors' way: float32 in TF32, eager, each setting anew, torch-fidelity's features where it is there."""
    if version_of("torch-fidelity"):
        features, whose = torch_fidelity_features(weights, device), "torch-fidelity's"
    else:
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
