"""The page of a training run, made from figures alone: no run and no model is needed."""

import re

import pytest
import torch

from robustok.config import FamilyConfig, PairsConfig, RunConfig
from robustok.evaluation.skill import Skill
from robustok.report.decoders import side_by_side
from robustok.report.training_run import FinishedRun, summary_rows, verdicts, write_report


def decoder(gfd: float, best_step: int | None = None) -> dict:
    change = [gfd - 8.5, gfd - 7.5]  # 8 is before
    intervals = {"gfd_interval": [gfd - 0.5, gfd + 0.5], "gfd_change_interval": change}
    return intervals | {"gfd": gfd, "class_agreement": 0.75, "rfd": 1.0, "pfd": 2.0, "nfd": 3.0, "best_step": best_step}


@pytest.fixture
def metrics() -> dict:
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
            "pfd": 6.0,
            "pfd_table": [[alpha, delta, 10 * alpha + delta] for alpha in (0.9, 0.5) for delta in (1, 2)],
        },
        "generator": decoder(8.0),
        "post": decoder(6.0, best_step=12),
        "post_direct": decoder(9.0, best_step=4),
        "seconds": {"tokenizer": 12.5, "evaluation": 2.5},
        "peak_memory_bytes": 3 * 2**30,
    }


@pytest.fixture
def page(metrics, tmp_path) -> str:
    names = ("originals", "reconstructed", "perturbed", "generator", "post", "post-direct")
    log = [{"stage": "tokenizer", "step": step, "psnr": 10.0 + step} for step in range(3)]
    log += [{"stage": stage, "step": 1, "score": 1.0, "loss": 1.0} for stage in ("generator", "post", "post-direct")]
    run = FinishedRun(
        config=RunConfig(name="shapes", pairs=PairsConfig(sigma=0.625)),
        class_names=["circle", "square"],
        post_stages=["post", "post-direct"],
        metrics=metrics,
        pictures={name: torch.zeros(4, 3, 8, 8, dtype=torch.uint8) for name in names},
        log=log,
    )
    write_report(tmp_path / "report.html", run)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_sentences_say_by_how_much_post_training_helped(metrics):
    better, worse = verdicts(metrics)
    interval = "the change is from {} to {}, 95 % over the samples"
    assert better.startswith("Post-trained on reencode pairs: lowers gFD on this data, 8 -> 6 (-25.0%; ")
    assert worse.startswith("Post-trained on direct pairs: raises gFD on this data, 8 -> 9 (+12.5%; ")
    assert interval.format("-2.5", "-1.5") in better and interval.format("+0.5", "+1.5") in worse
    metrics["post"] = decoder(7.9, best_step=4)
    assert "no difference found in gFD on this data, 8 -> 7.9" in verdicts(metrics)[0]
    metrics["post"] = decoder(8.0, best_step=0)
    assert "the decoder stays as it was, gFD 8." in verdicts(metrics)[0]


def test_figures_of_a_classifier_without_skill_are_no_verdict(metrics):
    blind = Skill(0.26, 0.25, 400)
    metrics |= {"notes": [blind.warning("FD-shapes")], "classifier": blind.describe()}
    (said,) = verdicts(metrics)
    assert "FD-shapes means nothing here" in said and "26.0%" in said and "25.0%" in said
    rough = Skill(0.78, 0.25, 400)
    metrics |= {"notes": [rough.warning("FD-shapes")], "classifier": rough.describe()}
    said = verdicts(metrics)
    assert len(said) == 3 and said[0].startswith("FD-shapes is rough here")


def test_the_summary_has_a_row_for_every_decoder(metrics):
    rows = {name: value for name, value, _ in summary_rows(metrics)}
    assert rows["PSNR"] == "21.23 dB" and rows["codebook usage"] == "25.0%" and rows["pFD"] == 6.0
    assert rows["gFD, before post-training"] == 8.0
    assert rows["gFD, post-trained on reencode pairs"] == 6.0
    assert rows["gFD, post-trained on direct pairs"] == 9.0


def test_the_page_shows_everything_of_the_run(page):
    assert "<title>RobusTok: shapes</title>" in page
    assert "2 classes: 100 images to train on" in page
    assert '<td>alpha 0.9</td><td class="number">10</td><td class="number">11</td>' in page  # 10 alpha + delta
    assert "classes circle, square" in page
    assert "<td>pairs.sigma</td><td>0.625</td>" in page
    assert '<td>total</td><td class="number">15</td>' in page and "3.00 GiB" in page
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    for stage in ("tokenizer", "generator", "post", "post-direct"):
        assert f"{stage}: values of the log against optimiser steps" in captions
    assert re.search(r"<td>gFD</td><td[^>]*>8</td><td[^>]*>6 \(-25.0%\)</td><td[^>]*>9 \(\+12.5%\)</td>", page)
    assert "before post-training | post-trained on reencode pairs | post-trained on direct pairs" in page
    assert page.count('class="pixels"') == 4 + 3 * 2 + 4  # test images, classes of three decoders, samples
    assert "5.5 to 6.5 (95 % over the samples drawn)" in page
    assert page.index('<dd class="value">6</dd>') < page.index("<h2>")  # what matters stands first


def test_images_of_one_sample_stand_side_by_side():
    before, after = torch.arange(3)[:, None, None, None], 10 + torch.arange(3)[:, None, None, None]
    assert side_by_side([before, after]).flatten().tolist() == [0, 10, 1, 11, 2, 12]


def test_a_run_on_latents_is_told_by_its_own_figures(metrics, tmp_path):
    """No codebook and no pFD: noise on the latents takes its place, and the page says which models were trained."""
    for name in ("codebook_usage", "pfd", "pfd_table"):
        del metrics["tokenizer"][name]
    metrics["tokenizer"] |= {"nfd": 4.0, "nfd_table": [[0.1, 3.5], [0.5, 4.5]]}
    rows = {name: value for name, value, _ in summary_rows(metrics)}
    assert rows["nFD"] == 4.0 and not {"pFD", "codebook usage"} & rows.keys()
    names = ("originals", "reconstructed", "perturbed", "generator", "post", "post-direct")
    pictures = {name: torch.zeros(4, 3, 8, 8, dtype=torch.uint8) for name in names}
    log = [{"stage": "tokenizer", "step": step, "lr": 0.1, "hog": 0.5 - step} for step in range(2)]
    config = RunConfig(family=FamilyConfig("maetok", "sit"))
    write_report(tmp_path / "r.html", FinishedRun(config, ["a", "b"], ["post", "post-direct"], metrics, pictures, log))
    page = (tmp_path / "r.html").read_text()
    assert "Tokenizer (maetok): 128 latents x 32" in page and "Generator (sit): 768 wide, 12 layers" in page
    assert "noise of 0.5 standard deviations on their latents" in page
    assert '<td>noise 0.5</td><td class="number">4.5</td>' in page
