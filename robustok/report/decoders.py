"""Decoders of one tokenizer side by side: before post-training and after it, on the same latents or tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..evaluation.compare import notes
from ..evaluation.decoders import DecoderFigures
from ..evaluation.statistics import ImageStatistics
from .results import Results


def side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """Images (N, 3, H, W) of the same N samples from each decoder -> all of them, those of one sample in a row."""
    return torch.stack(tuple(pictures), 1).flatten(0, 1)


def compared_rows(decoders: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> list[tuple]:
    """Rows of the figures `names` (key -> how it is called): before, then each decoder after with its change."""
    before, *others = decoders
    rows = []
    for key, name in names.items():
        cells: list[object] = [before[key]]
        for after in others:
            change = f" ({after[key] / before[key] - 1:+.1%})" if before[key] else ""
            cells.append(f"{after[key]:.4g}{change}")
        rows.append((name, *cells))
    return rows


def report_decoders(
    results: Results, decoders: Sequence[DecoderFigures], reference: ImageStatistics, protocol: str
) -> None:
    """Adds the table, the records, and the pictures: before on the left, after on the right of each pair."""
    figures = [decoder.figures for decoder in decoders]
    rows = compared_rows(figures, {key: key for key in figures[0]})
    results.table(rows, ("figure", *(decoder.name for decoder in decoders)), protocol)
    results.notes(notes(decoders[0].samples, reference))
    left_to_right = " | ".join(decoder.name for decoder in decoders)
    groups = side_by_side([decoder.pictures.cpu() for decoder in decoders]).split(len(decoders))
    results.page.tiles(
        [(f"sample {number}", group) for number, group in enumerate(groups, 1)],
        f"The same generated samples through each decoder, left to right: {left_to_right}.",
        columns=len(decoders),
    )
    results.add("decoders", [{"name": decoder.name, "figures": decoder.figures} for decoder in decoders])
    results.add("reference", reference.describe())
