"""Whether a classifier has learned enough for distances of its features to mean something."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

ENOUGH = 0.75  # share of the errors of chance that a classifier must avoid; four classes: 81 % right, ten: 78 %


class Skill(NamedTuple):
    """How a classifier did on held-out images, beside one who always names the most frequent class."""

    accuracy: float  # share of images put into their class, in [0, 1]
    chance: float  # share of the most frequent class, in [0, 1]
    images: int

    @property
    def verdict(self) -> str:
        """ "none": no better than chance, within two standard errors; "weak": it avoids fewer than `ENOUGH` of the
        errors of chance; else "good".
        """
        error = (self.chance * (1 - self.chance) / self.images) ** 0.5
        if self.accuracy <= self.chance + 2 * error:
            return "none"
        return "weak" if self.accuracy - self.chance < ENOUGH * (1 - self.chance) else "good"

    def warning(self, distance: str) -> str | None:
        """What a reader of `distance`, a name like "FD-digits", must know; None where there is nothing to say."""
        right = (
            f"the classifier of this data, whose features are compared, is right on {self.accuracy:.1%} of"
            f" {self.images} held-out images; always naming the most frequent class is right on {self.chance:.1%}"
        )
        do = (
            "train it longer (classifier.epochs), give it more images, or sort them into classes that can be told apart"
        )
        if self.verdict == "none":
            return f"{distance} means nothing here: {right}. No figure of {distance} says which model is better; {do}"
        if self.verdict == "weak":
            return f"{distance} is rough here: {right}. Small differences may be its blindness; {do}"
        return None

    def describe(self) -> dict:
        """For metrics.json."""
        return {"accuracy": self.accuracy, "chance": self.chance, "skill": self.verdict}


def skill(accuracy: float, labels: Tensor) -> Skill:
    """The skill of a classifier that puts this share of images of the classes `labels` (N,) into their class."""
    return Skill(accuracy, float(np.bincount(labels.numpy()).max()) / len(labels), len(labels))
