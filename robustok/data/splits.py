"""Which images validate, which test and which train: an order of all images, of which each split is a part."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.random import SHUFFLE, derive_seed, keyed_words
from .listing import name_some

LEAST, MOST_VAL, MOST_TEST = 2, 2000, 10_000  # images of a split whose size is not given


def permutation(n: int, seed: int) -> Tensor:
    """0..n-1 (int64) in an order that depends on (n, seed) alone, the same in every version of every library."""
    high, low, _, _ = keyed_words(seed, SHUFFLE, torch.arange(n), 0)
    return torch.argsort((high << 31) | (low >> 1), stable=True)


class Blocks(NamedTuple):
    """Images that are read together: which block each is in, and how many blocks are to be shuffled together."""

    numbers: np.ndarray  # (N,) int64
    at_once: int

    def of(self, rows: np.ndarray) -> "Blocks":
        """Those of some of the images."""
        return Blocks(self.numbers[rows], self.at_once)


def blockwise_permutation(blocks: Blocks, seed: int) -> Tensor:
    """0..N-1 (int64) in an order that depends on blocks and seed alone, and takes `at_once` blocks at a time.

    The blocks are shuffled and dealt into windows; the images of a window are shuffled. Reading in this order, each
    block is needed for one window only.
    """
    there, number = np.unique(blocks.numbers, return_inverse=True)
    place = np.empty(len(there), np.int64)
    place[permutation(len(there), derive_seed(seed, "blocks")).numpy()] = np.arange(len(there))
    plain = permutation(len(number), seed)
    window = place[number[plain.numpy()]] // blocks.at_once
    return plain[torch.from_numpy(np.argsort(window, kind="stable"))]


def split_sizes(labels: np.ndarray, val: int | None, test: int | None) -> tuple[int, int]:
    """How many images validate and test. None: a tenth of them to validate, 2000 at the most, and three twentieths to
    test, 10,000 at the most; at least 2 of either, and together no more than leave every class an image to train on.

    labels: (N,) classes. The bounds are those of the published recipe's split of ImageNet (configs/robustok-b.yaml).
    """
    count, spare = len(labels), len(labels) - len(np.unique(labels))
    if val is None:
        val = max(LEAST, min(count // 10, MOST_VAL, spare * 2 // 5))
    if test is None:
        test = max(LEAST, min(count * 3 // 20, MOST_TEST, spare - val))
    return val, test


def split(
    labels: np.ndarray, class_names: list[str], val: int, test: int, seed: int, groups: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers, int64, of the images to validate, to test and to train, by `split_order`.

    groups: (N,) int64. Then whole groups are dealt out, to each split its share of them, at least two, so that splits
    may hold more or fewer images than asked for; a group is of the class of its first image.

    Raises: UserError where more is held out than leaves every class an image to train on.
    """
    if groups is None:
        order = split_order(labels, class_names, val, test, seed)
        return order[:val], order[val : val + test], order[val + test :]
    _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
    held_out = [min(count, max(LEAST, round(count * len(first) / len(labels)))) for count in (val, test)]
    try:
        parts = split(labels[first], class_names, *held_out, seed)
    except UserError as error:
        raise UserError(
            f"{error} (each of the {len(first)} groups of groups.csv counts as one image here: data.val = {val} and "
            f"data.test = {test} of all {len(labels)} images are {held_out[0]} and {held_out[1]} groups)"
        ) from None
    place = torch.empty(len(first), dtype=torch.int64)
    place[torch.cat(parts)] = torch.arange(len(first))
    order = torch.argsort(place[torch.from_numpy(unit)], stable=True)
    counts = torch.from_numpy(np.bincount(unit))
    val_ids, test_ids, train_ids = order.split([int(counts[part].sum()) for part in parts])
    if without := sorted(set(labels.tolist()) - set(labels[train_ids.numpy()].tolist())):
        raise UserError(
            f"classes without an image to train on: {name_some([class_names[label] for label in without])}, whose "
            f"images are all in groups of groups.csv with images of other classes, and held out with them; give "
            f"another data.split_seed, or a smaller data.val and data.test"
        )
    return val_ids, test_ids, train_ids


def split_order(labels: np.ndarray, class_names: list[str], val: int, test: int, seed: int) -> Tensor:
    """The images' numbers (N,) int64: first `val` to validate, then `test` to test, then those to train.

    A plain permutation, where it does every class justice: each class has an image to train on, and in either held-out
    split at least half of its share, shares below one image aside. Else the images are drawn class by class: each
    held-out split has a class's share of it, rounded up or down, and each class keeps an image to train on.

    labels: (N,) classes. Raises UserError where more images are held out than leave every class one to train on.
    """
    plain = permutation(len(labels), derive_seed(seed, "split"))
    if _does_justice(labels, plain.numpy(), val, test):
        return plain
    spare = len(labels) - len(np.unique(labels))
    if val + test > spare:
        without = sorted(set(labels.tolist()) - set(labels[plain.numpy()[val + test :]].tolist()))
        raise UserError(
            f"data.val = {val} and data.test = {test} of {len(labels)} images leave classes without an image to train "
            f"on: {name_some([class_names[label] for label in without])}; hold out at most {spare} images, so that "
            f"each of the {len(labels) - spare} classes keeps one, or add images to small classes"
        )
    return _by_class(labels, plain, seed)


def _does_justice(labels: np.ndarray, order: np.ndarray, val: int, test: int) -> bool:
    counts = np.bincount(labels)
    held_out = np.zeros_like(counts)
    for first, last in ((0, val), (val, val + test)):
        here = np.bincount(labels[order[first:last]], minlength=len(counts))
        shares = counts * (last - first) // max(len(labels), 1)
        if (2 * here < shares).any():
            return False
        held_out += here
    return bool((held_out < counts)[counts > 0].all())


def _by_class(labels: np.ndarray, plain: Tensor, seed: int) -> Tensor:
    """All images, so that any part of the order holds its share of each class, and the last of each class comes last.

    Systematic sampling: image k of the n of a class, in the plain order, stands at (k + u) / n of the way, with one u
    in (0, 1) for each class, so that small classes do not all come first or last.
    """
    numbers = plain.numpy()
    within = np.argsort(labels[numbers], kind="stable")  # class by class, each in the plain order
    counts = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[within] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = (permutation(len(counts), derive_seed(seed, "split classes")).numpy() + 0.5) / len(counts)
    label = labels[numbers]
    place = (rank + start[label]) / counts[label]
    place[rank == counts[label] - 1] += 1
    return plain[torch.from_numpy(np.argsort(place, kind="stable"))]
