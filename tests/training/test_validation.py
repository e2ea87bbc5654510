"""When a stage is validated, which step it keeps by that and when it stops."""

import json
import math

import pytest

from robustok.training.loop import Fit
from robustok.training.run import read_log
from robustok.training.stages.base import Validation


def validated(stage, values, **settings):
    """The stage (9 steps an epoch) with these figures, one validation every third step."""
    stage.validation = Validation(every_epochs=1 / 3, **settings)
    figures = iter(values)
    stage.validate = lambda: next(figures)
    return stage


def records(stage) -> list[tuple[int, dict]]:
    log = read_log(stage.run.folder / "log.jsonl")
    named = [(r["step"], {k: v for k, v in r.items() if k.startswith("validation_")}) for r in log]
    return [(step, figures) for step, figures in named if figures]


def ended(stage) -> tuple[str, list[int]]:
    """The checkpoint to use, and the steps of the validations."""
    Fit(stage, stage.run).run_to_end()
    best = json.loads((stage.run.folder / "tokenizer" / "stage.json").read_text())["best"]
    return best, [step for step, _ in records(stage)]


@pytest.mark.parametrize(
    ("settings", "best", "steps"),
    [
        ({}, "step-9", [0, 3, 6, 9]),
        ({"keep_best_by": "rfd"}, "step-3", [0, 3, 6, 9]),
        ({"keep_best_by": "psnr"}, "step-6", [0, 3, 6, 9]),
        ({"keep_best_by": "rfd", "patience": 1}, "step-3", [0, 3, 6]),
    ],
)
def test_the_best_step_is_kept_and_the_last_where_nothing_chooses(tokenizer_stage, settings, best, steps):
    values = zip([9.0, 2.0, 4.0, 3.0], [10.0, 11.0, 13.0, 12.0], strict=True)
    stage = validated(tokenizer_stage(), [{"rfd": rfd, "psnr": psnr} for rfd, psnr in values], **settings)
    assert ended(stage) == (best, steps)
    assert (stage.run.folder / "tokenizer" / best).is_dir()


@pytest.mark.parametrize(("patience", "best"), [(9, "step-6"), (0, "step-0")])
def test_scores_of_another_figure_are_not_compared(tokenizer_stage, monkeypatch, patience, best):
    """Of a run that an older version began: the best is chosen from the resumed step on, unless it had stopped."""
    first = validated(tokenizer_stage(), [{"rfd": 0.1}], keep_best_by="rfd", patience=patience)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Fit, "_batches", lambda *_: (_ for _ in ()).throw(InterruptedError))
        Fit(first, first.run).run_to_end()
    first.run.close()
    values = [{"score": score} for score in (0.9, 0.8, 0.85)]
    again = validated(tokenizer_stage(), values, keep_best_by="score", patience=patience)
    assert ended(again)[0] == best


def test_a_figure_that_is_not_finite_is_never_the_best_and_not_in_the_log(tokenizer_stage):
    values = [{"psnr": math.inf}, {"psnr": math.nan}, {"psnr": 11.0}, {"psnr": 10.0}]
    stage = validated(tokenizer_stage(), values, keep_best_by="psnr", patience=2)
    assert ended(stage) == ("step-6", [6, 9])


def test_the_start_is_validated_once_whenever_it_is_interrupted(tokenizer_stage, monkeypatch):
    """Before the first checkpoint, and after the one that the start itself was kept as."""
    for settings in ({}, {"keep_best_by": "rfd"}):
        name = f"run-{len(settings)}"
        first = validated(tokenizer_stage(name=name), [{"rfd": 1.0}], **settings)
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(Fit, "_take_step", lambda *_: (_ for _ in ()).throw(InterruptedError))
            Fit(first, first.run).run_to_end()
        first.run.close()
        again = validated(tokenizer_stage(name=name), [{"rfd": 1.0}] * 4, **settings)
        assert ended(again)[1] == [0, 3, 6, 9]
