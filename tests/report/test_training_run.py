"""The page of a training run, made from figures alone: no run and no model is needed."""

import re

import pytest
import torch

from robustok.evaluation.skill import Skill
from robustok.report.curves import stages_figure
from robustok.report.decoders import side_by_side
from robustok.report.judgement import signal_and_noise
from robustok.report.page import Page
from robustok.report.run_figures import headlines, summary_rows, verdicts
from robustok.report.training_run import write_report
from robustok.report.wording import with_interval


def written(path, run) -> str:
    write_report(path / "report.html", run)
    return (path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def page(make_run, tmp_path) -> str:
    return written(tmp_path, make_run.on_tokens())


def test_sentences_say_by_how_much_post_training_helped(metrics, make_run):
    decoder = make_run.decoder
    better, worse = verdicts(metrics)
    assert better == (
        "Post-trained on reencode pairs: lowers gFD, 8.00 ± 0.50 -> 6.00 ± 0.50 (change -2.00 ± 0.50, -25%)."
    )
    assert worse.startswith(
        "Post-trained on direct pairs: raises gFD, 8.00 ± 0.50 -> 9.00 ± 0.50 (change +1.00 ± 0.50, +"
    )
    metrics["post"] = decoder(7.9, best_step=4)
    said = verdicts(metrics)[0]
    assert said == "Post-trained on reencode pairs: no difference found in gFD (-0.10 ± 0.50)."
    metrics["post"]["gfd_change_interval"] = None
    assert verdicts(metrics)[0].endswith(": gFD 8.00 ± 0.50 -> 7.90 ± 0.50; how much of that is noise is not known.")
    metrics["post"] = decoder(8.0, best_step=0)
    assert "the decoder stays as it was, gFD 8." in verdicts(metrics)[0]


def with_unbiased(metrics: dict, kernel: float, extrapolated: float) -> dict:
    """gKD and gFD_inf of the first post-trained decoder; before they are 0.02 and 0.3, both at the edge of noise."""
    for name, values in (("generator", (0.02, 0.3)), ("post", (kernel, extrapolated))):
        for key, value, start, half in zip(("gkd", "gfd_inf"), values, (0.02, 0.3), (0.01, 0.4), strict=True):
            metrics[name] |= {key: value, f"{key}_interval": [value - half, value + half]}
            metrics[name][f"{key}_change_interval"] = [value - start - half, value - start + half]
    return metrics


def test_unbiased_distances_judge_where_they_are_there(metrics):
    """gFD falls by a quarter beyond its noise; what few images do not raise finds nothing, or part of it."""
    said = verdicts(with_unbiased(metrics, kernel=0.015, extrapolated=0.1))[0]
    assert said == (
        "Post-trained on reencode pairs: no difference found in gFD_inf (-0.20 ± 0.40), gKD (-0.005 ± 0.010)."
    )
    rows = {name: (value, of) for name, value, of in summary_rows(metrics)}
    assert rows["gFD, post-trained on reencode pairs"][1].endswith("; no difference found")
    assert rows["gKD, post-trained on reencode pairs"][0] == "0.015 ± 0.010"
    assert not rows["gFD, post-trained on direct pairs"][1].endswith("found")  # only gFD was measured of it
    metrics["post"] |= {"gkd_filters": 2.0, "gkd_filters_change_interval": [0.5, 1.5]}
    metrics["generator"] |= {"gkd_filters": 1.0, "gkd_filters_interval": [0.5, 1.5]}
    assert ": raises gKD (filters), 1.00 ± 0.50 -> 2 (change +1.00 ± 0.50, +100%); no" in verdicts(metrics)[0]
    said = verdicts(with_unbiased(metrics, kernel=0.005, extrapolated=-0.2))[0]
    assert "lowers gFD_inf, 0.30 ± 0.40 -> -0.20 ± 0.40 (change -0.50 ± 0.40);" in said  # of what may be 0: no share
    assert "lowers gKD, 0.020 ± 0.010 -> 0.005 ± 0.010 (change -0.015 ± 0.010, -75%);" in said


def test_the_page_tells_signal_from_noise(metrics, make_run, tmp_path):
    assert ("gFD, b", "-2.00", "0.50", "signal") in signal_and_noise(
        [("a", metrics["generator"]), ("b", metrics["post"])]
    )
    metrics |= {"real_fd_inf": 0.05, "real_fd_inf_interval": [-0.05, 0.15]}
    page = written(tmp_path, make_run.on_tokens(metrics=with_unbiased(metrics, kernel=0.015, extrapolated=0.1)))
    section = page[page.index("What separates signal from noise") :]
    assert "The training images are 0.05 ± 0.10 from the test images by FD_inf, and 0.5 by FD" in section
    cells = ("gKD, post-trained on reencode pairs", "-0.005", "0.010", "no difference found")
    assert re.search("".join(f"<td[^>]*>{cell}</td>" for cell in cells), section)
    for record in (metrics["post"], metrics["post_direct"]):
        for name in [name for name in record if name.endswith("_change_interval")]:
            del record[name]
    assert "signal from noise" not in written(tmp_path, make_run.on_tokens(metrics=metrics))


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
    assert rows["PSNR"] == "21.23 dB" and rows["codebook usage"] == "25.0%"
    assert (rows["rFD"], rows["pFD"]) == ("3.00 ± 0.25", "6.00 ± 0.50")
    assert rows["gFD, before post-training"] == "8.00 ± 0.50"
    assert rows["gFD, post-trained on reencode pairs"] == "6.00 ± 0.50"
    assert rows["gFD, post-trained on direct pairs"] == "9.00 ± 0.50"
    del metrics["tokenizer"]["pfd_interval"]
    assert dict(row[:2] for row in summary_rows(metrics))["pFD"] == "6"  # without an interval the figure alone


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([11.84, 17.04], "14.4 ± 2.6"),
        ([4921.3, 5321.3], "5121 ± 200"),
        ([1e-5, 3e-5], "0.000020 ± 0.000010"),
        ([8.0, 8.0], "8 ± 0"),
    ],
)
def test_a_figure_has_the_decimals_of_its_half_width(interval, said):
    record = {"x": sum(interval) / 2, "x_interval": interval}
    assert with_interval(record, "x") == said
    assert with_interval({"x": 14.44}, "x") == "14.44"


def test_a_headline_says_how_sure_it_is(metrics, make_run):
    metrics["post"] = make_run.decoder(7.9, best_step=4)
    cards = {name: (value, meaning) for name, value, meaning in headlines(metrics)}
    assert cards["rFD"][0] == "3.00" and cards["rFD"][1].startswith("± 0.25 (95 % over the test images); FD-shapes")
    assert cards["pFD"][1].startswith("± 0.50 (95 % over the test images); ")
    assert cards["gFD, post-trained on reencode pairs"][1].endswith("no difference found from before post-training")
    assert "no difference" not in cards["gFD, post-trained on direct pairs"][1]


def test_the_page_shows_everything_of_the_run(page):
    assert "<title>RobusTok: shapes</title>" in page
    assert "2 classes: 100 images to train on" in page
    assert '<td>alpha 0.9</td><td class="number">10.00</td><td class="number">11.00</td>' in page  # 10 alpha + delta
    assert "classes circle, square" in page
    assert "<td>pairs.sigma</td><td>0.625</td>" in page
    assert '<td>total</td><td class="number">22.00</td>' in page and "3.00 GiB" in page
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    for stage in ("tokenizer", "generator", "post", "post-direct"):
        assert f"{stage}: values of the log against optimiser steps" in captions
    changes = r"<td[^>]*>6 \(-2.00\s±\s0.50\)</td><td[^>]*>9 \(\+1.00\s±\s0.50\)</td>"
    assert re.search(r"<td>gFD</td><td[^>]*>8.00\s±\s0.50</td>" + changes, page)
    assert "before post-training | post-trained on reencode pairs | post-trained on direct pairs" in page
    grids = 2 * 2 * (2 + 2)  # two images, two deltas; the original, the clean one and two alphas
    assert page.count('class="pixels"') == 4 + grids + 3 * 2 + 3  # test images, classes of three decoders, samples
    assert 'alt="test image 2, alpha 0.9, delta 1"' in page
    assert "± 0.50 (95 % over the samples drawn)" in page
    assert "75.0% of the 4 codes occur; perplexity 3:" in page  # exp(entropy) of 1/2, 1/4, 1/4 is 2.8
    assert re.search(r"<td>pFD</td><td[^>]*>2.00\s±\s0.15</td>(<td[^>]*>2 \(no difference found\)</td>){2}", page)
    assert page.index('<dd class="value">6.00</dd>') < page.index("<h2>")  # what matters stands first


def test_generated_images_stand_under_their_classes(make_run, tmp_path, monkeypatch):
    """Classes have as many as were drawn of them: here three and one."""
    shown: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(Page, "tiles", lambda page, tiles, caption, *, columns: shown.update(tiles) or page)
    run = make_run.on_tokens(class_names=["circle", "never drawn", "square"], drawn=torch.tensor([0, 0, 0, 2]))
    write_report(tmp_path / "report.html", run)
    for title, name in (("Before post-training", "generator"), ("After post-training (post)", "post")):
        assert torch.equal(shown[f"{title}: circle"], run.pictures[name][:3])
        assert torch.equal(shown[f"{title}: square"], run.pictures[name][3:])
    beside = [run.pictures[name][3] for name in ("generator", "post", "post-direct")]
    assert torch.equal(shown["square"], torch.stack(beside))
    assert not [label for label in shown if "never drawn" in label]


def test_images_of_one_sample_stand_side_by_side():
    before, after = torch.arange(3)[:, None, None, None], 10 + torch.arange(3)[:, None, None, None]
    assert side_by_side([before, after]).flatten().tolist() == [0, 10, 1, 11, 2, 12]


def test_a_run_on_latents_is_told_by_its_own_figures(make_run, tmp_path):
    """No codebook and no pFD: noise on the latents takes its place, and the page says which models were trained."""
    run = make_run.on_latents()
    rows = {name: value for name, value, _ in summary_rows(run.metrics)}
    assert rows["nFD"] == "4" and not {"pFD", "codebook usage"} & rows.keys()
    page = written(tmp_path, run)
    assert "Tokenizer (maetok): 128 latents x 32" in page and "Generator (sit): 768 wide, 12 layers" in page
    assert "noise of 0.5 standard deviations on their latents" in page and "Usage of the codebook" not in page
    assert '<td>noise 0.5</td><td class="number">4.500</td>' in page
    assert page.count("<th>noise 0.5</th><td><img") == 2


def test_a_run_that_cannot_be_perturbed_has_a_page(make_run, metrics, tmp_path):
    page = written(tmp_path, make_run.on_tokens(metrics=make_run.without_pfd(metrics), perturbed={}))
    assert "pFD" not in page and "From right to wrong" not in page and "Usage of the codebook" in page


def test_all_stages_stand_on_one_axis_of_time(make_run):
    run = make_run.on_tokens()
    figure = stages_figure(run.log, run.metrics["seconds"])
    (axes,) = figure.axes
    spans = [(patch.get_x(), patch.get_width()) for patch in axes.patches]
    assert spans == [(0, 12.5), (12.5, 1), (13.5, 4), (17.5, 2)]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["tokenizer: reconstruction", "tokens", "generator: loss", "post: loss"]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0, 4, 8], [14.5], [18.5]]
    assert axes.get_xlabel() == "seconds of training"
    hours = stages_figure(run.log, {"tokenizer": 36_000.0})
    assert hours.axes[0].get_xlabel() == "hours of training" and hours.axes[0].get_xlim() == (0, 10)
    untimed = [{key: value for key, value in record.items() if key != "seconds"} for record in run.log]
    assert stages_figure(untimed, run.metrics["seconds"]) is None


def test_what_was_noticed_stands_above_the_curves(make_run, tmp_path):
    run = make_run.on_tokens()
    assert "What was noticed" not in written(tmp_path, run)
    run.log.append({"stage": "tokenizer", "step": 2, "event": "codebook_collapse", "text": "1 of <16> codes"})
    page = written(tmp_path, run)
    assert "tokenizer, step 2: 1 of &lt;16&gt; codes" in page
    assert page.index("What was noticed") < page.index("Training over time")
