"""A run that takes the classifier of another one, and the classes' shares of what is generated."""

import json
import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from robustok.core.cli import run_verb
from robustok.core.errors import UserError
from robustok.job import pipeline
from robustok.job.final_evaluation import _pictured_samples
from robustok.train import main


def figures(run) -> dict:
    """Metrics of a run but what they cost."""
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name not in ("seconds", "peak_memory_bytes")}


def test_figures_are_those_of_the_run_that_trained_the_classifier(job, capsys):
    settings = {"pairs.modes": "[direct]", "validation.every_epochs": 0.35}
    own = job(**settings)
    given = job(name="given", **settings, **{"start.classifier": own / "classifier"})
    assert (own / "classifier").is_dir() and not (given / "classifier").exists()
    assert figures(given) == figures(own)
    capsys.readouterr()
    job(name="given", **settings, **{"start.classifier": own / "classifier"})
    assert "Everything was done before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"start\.classifier: stored '.*/x/classifier', now None"):
        job("tokenizer", name="given", **settings)


@pytest.mark.parametrize("stage", ["tokenizer", "post", "all"])
def test_a_classifier_of_other_classes_is_refused_before_anything_is_done(tmp_path, save_models, stage, capsys):
    save_models(tmp_path)
    argv = ["--runs", str(tmp_path / "runs"), "--start.classifier", str(tmp_path / "classifier"), "--stage", stage]
    said = "start.classifier: found a classifier of 3 classes, expected one of the 10 classes of the data"
    for dry_run in ([], ["--dry_run"]):
        assert run_verb(main, [*argv, *dry_run]) == 2
        assert [line for line in capsys.readouterr().err.splitlines() if "robustok: " in line] == [f"robustok: {said}"]
        assert not (tmp_path / "runs").exists()


def test_what_is_given_is_not_trained(tmp_path, save_models):
    save_models(tmp_path)
    given = tmp_path / "classifier"
    with pytest.raises(UserError) as error:
        main(["--runs", str(tmp_path / "runs"), "--start.classifier", str(given), "--stage", "classifier"])
    stages = "tokenizer, tokens, generator, pairs, discriminator, post, evaluate"
    expected = (
        f"--stage: found 'classifier', expected all or one of {stages}; start.classifier = {given} is taken as it is"
    )
    assert str(error.value) == expected and not (tmp_path / "runs").exists()


def sampled(labels: torch.Tensor, per_class: int, num_classes: int, monkeypatch) -> torch.Tensor:
    """The classes (N,) that a run on images of these labels generates."""
    monkeypatch.setattr(pipeline, "generate_batches", lambda sampler, classes, **_: [classes])
    job = SimpleNamespace(
        config=SimpleNamespace(evaluation=SimpleNamespace(samples_per_class=per_class), seed=0),
        images=SimpleNamespace(num_classes=num_classes, all=SimpleNamespace(labels=labels)),
        sampling=SimpleNamespace(batch_size=7),
        sampler=lambda: None,
    )
    rows, classes = pipeline.Pipeline.sample(job, "judge")
    assert torch.equal(rows, classes)
    return classes


@pytest.mark.parametrize("counts", [[7, 1, 0, 12], [85, 159, 5, 270, 131, 264, 2261, 169, 224, 218], [3, 3, 3], [1]])
@pytest.mark.parametrize("per_class", [1, 2, 5, 50, 333])
def test_classes_are_generated_in_their_shares_of_the_images(counts, per_class, monkeypatch):
    """Each class has its exact share, rounded down or up; those with the largest remainders are rounded up."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    classes = sampled(labels, per_class, len(counts), monkeypatch)
    found = torch.bincount(classes, minlength=len(counts)).tolist()
    total = per_class * len(counts)
    exact = [Fraction(count * total, sum(counts)) for count in counts]
    rest = [share - math.floor(share) for share in exact]
    raised = [n - math.floor(share) for n, share in zip(found, exact, strict=True)]
    assert set(raised) <= {0, 1} and sum(found) == total
    assert min((r for r, up in zip(rest, raised, strict=True) if up), default=1) >= max(
        (r for r, up in zip(rest, raised, strict=True) if not up), default=0
    )
    assert torch.equal(classes, classes.sort().values)


def test_of_classes_of_one_size_each_is_generated_as_often(monkeypatch):
    assert torch.bincount(sampled(torch.arange(40) % 8, 5, 8, monkeypatch)).tolist() == [5] * 8


def test_the_report_shows_the_first_of_each_class():
    classes = torch.tensor([0] * 30 + [2] * 3 + [3] * 12 + [11] * 5)
    assert _pictured_samples(classes).tolist() == [*range(12), *range(30, 45)]  # the first ten classes alone
