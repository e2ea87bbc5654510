"""Every kind of page that the project makes, from small made-up results whose names mean something to HTML and TeX."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustok.benchmark.entries import BenchmarkList, Entry, GeneratorEntry
from robustok.benchmark.page import report_benchmark
from robustok.config import DataConfig, FamilyConfig, PairsConfig, RunConfig
from robustok.evaluation.decoders import DecoderFigures
from robustok.evaluation.explaining import Lipschitz, usage_of
from robustok.evaluation.intervals import Estimate
from robustok.evaluation.metrics.moments import FeatureStatistics
from robustok.evaluation.metrics.ranking import RankCorrelation
from robustok.evaluation.noise import NoiseFID
from robustok.evaluation.perturbing import CLEAN
from robustok.evaluation.pfid import ALPHAS, PFID
from robustok.evaluation.reconstruction import Reconstruction
from robustok.evaluation.statistics import ImageStatistics
from robustok.evaluation.tokenizers import TokenizerFigures
from robustok.report import explained
from robustok.report.comparison import report_comparison
from robustok.report.decoders import report_decoders
from robustok.report.results import Results
from robustok.report.tokenizers import report_tokenizers
from robustok.report.training_run import FinishedRun, write_report

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;$a_b^$" + os.fsdecode(b"\xe9")
LONG = "folder/" * 30 + "name-without-a-place-to-break" * 4 + HOSTILE
DRAW = np.random.default_rng(0)
SETTINGS = {(alpha, delta): 10 * alpha + delta for alpha in ALPHAS for delta in (1, 2, 3)}
STRENGTHS = {strength: 3 + strength for strength in (0.1, 0.3, 0.5)}


def pictures(count: int = 4, size: int = 8) -> torch.Tensor:
    return torch.from_numpy(DRAW.integers(0, 256, (count, 3, size, size), np.uint8))


def estimate(value: float) -> Estimate:
    return Estimate(value, value + torch.linspace(-0.1, 0.1, 10, dtype=torch.float64))


def decoder(gfd: float, best_step: int | None = None) -> dict:
    """As in metrics.json; gFD before is 8, pFD changes by chance alone."""
    found = {"gfd": gfd, "gfd_interval": [gfd - 0.5, gfd + 0.5], "class_agreement": 0.75, "rfd": 1.0}
    found |= {"pfd": 2.0, "pfd_interval": [1.85, 2.15], "best_step": best_step}
    if best_step is not None:
        found |= {"gfd_change_interval": [gfd - 8.5, gfd - 7.5], "pfd_change_interval": [-0.1, 0.2]}
    return found


def run_metrics() -> dict:
    return {
        "distance": "FD-shapes",
        "modes": ["reencode", "direct"],
        "images": {"train": 100, "val": 20, "test": 30, "samples": 40},
        "real_fd": 0.5,
        "classifier": {"accuracy": 0.9, "skill": "good"},
        "notes": [],
        "tokenizer": {
            "psnr": 21.234,
            "codebook_usage": 0.25,
            "rfd": 3.0,
            "rfd_interval": [2.75, 3.25],
            "pfd": 6.0,
            "pfd_interval": [5.5, 6.5],
            "pfd_table": [[alpha, delta, 10 * alpha + delta] for alpha in (0.9, 0.5) for delta in (1, 2)],
        },
        "generator": decoder(8.0),
        "post": decoder(6.0, best_step=12),
        "post_direct": decoder(9.0, best_step=4),
        "seconds": {"tokenizer": 12.5, "tokens": 1.0, "generator": 4.0, "post": 2.0, "evaluation": 2.5},
        "peak_memory_bytes": 3 * 2**30,
    }


def without_pfd(metrics: dict) -> dict:
    for record in (metrics[name] for name in ("tokenizer", "generator", "post", "post_direct")):
        for name in [name for name in record if name.startswith("pfd")]:
            del record[name]
    return metrics


def finished_run(**changes) -> FinishedRun:
    names = ("originals", "reconstructed", "perturbed", "generator", "post", "post-direct")
    log = [{"stage": "tokenizer", "step": step, "seconds": 4.0 * step, "psnr": 10.0 + step} for step in range(3)]
    log += [{"stage": "tokenizer", "step": step, "seconds": 4.0 * step, "reconstruction": 0.5} for step in range(3)]
    for stage in ("generator", "post", "post-direct"):
        log.append({"stage": stage, "step": 1, "seconds": 1.0, "validation_gfd": 1.0, "loss": 1.0})
    given = dict(
        config=RunConfig(name="shapes", pairs=PairsConfig(sigma=0.625)),
        class_names=["circle", "square"],
        post_stages=["post", "post-direct"],
        metrics=run_metrics(),
        pictures={name: pictures() for name in names},
        drawn=torch.tensor([0, 0, 0, 1]),
        perturbed={setting: pictures(2) for setting in ((0.0, 1), (0.5, 1), (0.5, 2), (0.9, 1), (0.9, 2))},
        usage=usage_of(torch.tensor([50, 25, 25, 0])),
        log=log,
    )
    return FinishedRun(**given | changes)


def run_on_latents(**changes) -> FinishedRun:
    """No codebook and no pFD: noise on the latents takes its place."""
    metrics = run_metrics()
    del metrics["tokenizer"]["codebook_usage"]
    without_pfd(metrics)
    metrics["tokenizer"] |= {"nfd": 4.0, "nfd_interval": None, "nfd_table": [[0.1, 3.5], [0.5, 4.5]]}
    config, strengths = RunConfig(family=FamilyConfig("maetok", "sit")), ((0.0,), (0.1,), (0.5,))
    given = {"config": config, "metrics": metrics, "usage": None}
    given["perturbed"] = {strength: pictures(2) for strength in strengths}
    return finished_run(**given | changes)


def statistics(name: str) -> ImageStatistics:
    rows = torch.from_numpy(DRAW.normal(size=(40, 4)))
    return ImageStatistics(name, "means", None, HOSTILE, FeatureStatistics(4).update(rows), class_counts=[30, 10])


def tokenizer_figures(name: str, discrete: bool) -> TokenizerFigures:
    usage = usage_of(torch.tensor([5, 3, 0, 1])) if discrete else None
    common = (estimate(2.5), estimate(1.5), 40)
    noise = NoiseFID(STRENGTHS, *common, torch.ones(4))
    settings = [CLEAN, (0.5, 3), (0.7, 3), (0.9, 3)] if discrete else [CLEAN]
    return TokenizerFigures(
        name=name,
        distance="FD",
        codebook_size=4 if discrete else None,
        transform=HOSTILE,
        plain=Reconstruction(estimate(1.5), 20.0, 0.9, None, usage, 40),
        perturbed=PFID(SETTINGS, *common) if discrete else None,
        mixed=PFID(SETTINGS, *common) if discrete else None,
        others={"uniform": PFID(SETTINGS, *common, "uniform")} if discrete else {"gaussian": noise},
        interpolated=None,
        quick=True,
        originals=pictures(),
        strips={setting: pictures() for setting in settings},
    )


def benchmark(results: Results) -> None:
    published = {"rfid": 2.19, "pfid": 13.12, "gfid_llamagen_b": 8.61, "gfid_llamagen_l": 4.40}
    generator = GeneratorEntry(HOSTILE)
    entries = [
        Entry(
            f"{HOSTILE}{n}",
            f"{HOSTILE}{n}",
            8,
            generator=generator,
            published=published,
            source=HOSTILE,
            licence=HOSTILE,
        )
        for n in range(6)
    ]
    cells = [{"alpha": alpha, "delta": delta, "value": value} for (alpha, delta), value in SETTINGS.items()]
    found = {entry.name: {"rfd": n, "pfd": 6.0 - n, "gfd": 1.0 + n} for n, entry in enumerate(entries[:5])}
    found[entries[0].name] |= {"pfd_settings": cells}
    report_benchmark(results, BenchmarkList(entries, [HOSTILE]), found, "fd", Path("nowhere"))


def explanations(folder: Path) -> dict[str, Results]:
    results = {f"explain {name}": Results(folder / f"explain {name}", HOSTILE) for name in EXPLAINED}
    counts, rows = torch.tensor([500, 200, 20, 0]), [{"name": LONG, "rfid": 1.0, "pfid": 2.0, "gfid": 3.0}] * 3
    explained.report_codebook(results["explain codebook"], usage_of(counts), torch.randn(4, 2), 40)
    under = {setting: pictures(3) for setting in (CLEAN, *SETTINGS)}
    explained.report_strips(results["explain strips"], pictures(3), under)
    ratios = {LONG: Lipschitz(1.5, 2.0, torch.tensor([1.0, 2.0]))}
    explained.report_lipschitz(results["explain lipschitz"], ratios)
    explained.report_mmd(results["explain mmd"], SETTINGS)
    explained.report_elbow(results["explain elbow"], {512: 3.0, 1024: 2.0, 16384: 1.5}, 40)
    found = dict.fromkeys(("rfid", "pfid"), RankCorrelation(1.0, 0.5, 1.0, 3))
    explained.report_correlation(results["explain correlation"], rows, found)
    return results


EXPLAINED = ("codebook", "strips", "lipschitz", "mmd", "elbow", "correlation")


@pytest.fixture
def make_run():
    """Makers of what a page of a training run is of; each run takes changed fields of FinishedRun."""
    return SimpleNamespace(on_tokens=finished_run, on_latents=run_on_latents, decoder=decoder, without_pfd=without_pfd)


@pytest.fixture
def metrics() -> dict:
    return run_metrics()


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The page of every kind, by what makes it."""
    folder = tmp_path_factory.mktemp("pages")
    config = RunConfig(name=HOSTILE, data=DataConfig(root=LONG))
    log = [*finished_run().log, {"stage": "tokenizer", "step": 2, "event": "not_finite", "text": HOSTILE}]
    metrics = run_metrics() | {"distance": f"FD-{HOSTILE}", "notes": [HOSTILE]}
    runs = {
        "train": finished_run(config=config, metrics=metrics, class_names=[HOSTILE, LONG], log=log),
        "train on latents": run_on_latents(),
    }
    for name, run in runs.items():
        (folder / name).mkdir()
        write_report(folder / name / "report.html", run)
    verbs = {name: Results(folder / name, LONG) for name in ("tokenizer", "decoders", "benchmark")}
    both = [tokenizer_figures(LONG, True), tokenizer_figures(HOSTILE, False)]
    report_tokenizers(verbs["tokenizer"], both, HOSTILE)
    figures = [{"rfd": estimate(r), "psnr": 20.0, "gfd": estimate(3.0)} for r in (2.0, 1.0)]
    decoders = [DecoderFigures(LONG, these, statistics(HOSTILE), pictures(24)) for these in figures]
    report_decoders(verbs["decoders"], decoders, statistics(LONG), HOSTILE)
    benchmark(verbs["benchmark"])
    report_comparison(
        statistics(HOSTILE), statistics(LONG), folder / "samples", sampling={HOSTILE: LONG}, pictures=pictures(32)
    )
    for results in (verbs | explanations(folder)).values():
        results.save()
    return {str(path.parent.relative_to(folder)): path for path in folder.glob("**/report.html")}
