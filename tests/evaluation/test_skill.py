"""When a classifier of the data has learned enough for its distances to mean something, and when it is refused."""

import numpy as np
import pytest
import torch

from robustok.checkpoints import writing
from robustok.core.errors import UserError
from robustok.evaluation.features.classifier import open_classifier
from robustok.evaluation.skill import Skill, skill
from robustok.models.frozen.classifier import Classifier


@pytest.mark.parametrize(
    "accuracy, labels, verdict",
    [
        (1.0, [0] * 50, "none"),  # one class: nobody can be wrong
        (0.25, [0, 1, 2, 3] * 25, "none"),
        (0.33, [0, 1, 2, 3] * 25, "none"),  # 8 more of 100 than chance: 1.8 standard errors of 4.3
        (0.35, [0, 1, 2, 3] * 25, "weak"),
        (0.9, [0] * 90 + [1] * 10, "none"),  # always the same
        (0.78, [0, 1, 2, 3] * 25, "weak"),  # four easy classes
        (0.82, [0, 1, 2, 3] * 25, "good"),
        (0.99, list(range(10)) * 30, "good"),
    ],
)
def test_skill_is_what_goes_beyond_the_most_frequent_class(accuracy, labels, verdict):
    found = skill(accuracy, torch.tensor(labels))
    assert found.chance == np.bincount(labels).max() / len(labels)
    assert found.verdict == verdict
    assert (found.warning("FD-x") is None) == (verdict == "good")
    assert found.describe() == {"accuracy": accuracy, "chance": found.chance, "skill": verdict}


def test_guessing_is_hardly_ever_taken_for_skill():
    draw = np.random.default_rng(0)
    hits = draw.binomial(200, 0.25, 2000) / 200
    assert np.mean([Skill(hit, 0.25, 200).verdict == "none" for hit in hits]) > 0.95


def test_a_classifier_of_one_class_measures_nothing(tmp_path):
    for classes in (1, 2):
        looks = {"num_classes": classes, "image_size": 8}
        weights = Classifier(**looks).state_dict()
        folder = tmp_path / str(classes) / "step-1"
        writing.save(folder, {"model": weights, "ema": weights}, {"config": {"kind": "classifier", "config": looks}})
    with pytest.raises(UserError, match="a classifier of one class"):
        open_classifier(tmp_path / "1", torch.device("cpu"))
    assert open_classifier(tmp_path / "2", torch.device("cpu")) is not None
