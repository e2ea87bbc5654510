"""Decoders of one tokenizer side by side: before post-training and after it, on the same latents or tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..evaluation.compare import notes
from ..evaluation.decoders import DecoderFigures
from ..evaluation.intervals import recorded
from ..evaluation.statistics import ImageStatistics
from .judgement import differs
from .results import Results
from .wording import NO_DIFFERENCE, card, change, with_interval

SAME_IMAGES = (
    "± is half of the 95 % interval over the draw of the images or samples; in brackets is the change from the first "
    "decoder, and that no difference was found where its interval has 0 in it."
)


def side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """Images (N, 3, H, W) of the same N samples from each decoder -> all of them, those of one sample in a row."""
    return torch.stack(tuple(pictures), 1).flatten(0, 1)


def compared_rows(decoders: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[tuple]:
    """Rows of the figures `names` (key -> how it is called): before, then each decoder after with its change."""
    before, *others = decoders
    rows = []
    for key, name in names.items():
        cells: list[object] = [with_interval(before, key)]
        for after in others:
            found = change(after, before, key)
            cells.append(f"{after[key]:.4g} ({found})" if found else after[key])
        rows.append((name, *cells))
    return rows


def report_decoders(
    results: Results, decoders: Sequence[DecoderFigures], reference: ImageStatistics, protocol: str
) -> None:
    """Adds the table, the records, and the pictures: before on the left, after on the right of each pair."""
    before, *others = (decoder.figures for decoder in decoders)
    records = [recorded(before), *(recorded(after, before) for after in others)]
    results.page.headlines(_headlines([decoder.name for decoder in decoders], records))
    rows = compared_rows(records, {key: key for key in before})
    results.table(rows, ("figure", *(decoder.name for decoder in decoders)), f"{protocol}. {SAME_IMAGES}")
    results.notes(notes(decoders[0].samples, reference))
    left_to_right = " | ".join(decoder.name for decoder in decoders)
    groups = side_by_side([decoder.pictures.cpu() for decoder in decoders]).split(len(decoders))
    results.page.tiles(
        [(f"sample {number}", group) for number, group in enumerate(groups, 1)],
        f"The same generated samples through each decoder, left to right: {left_to_right}.",
        columns=len(decoders),
    )
    named = zip(decoders, records, strict=True)
    results.add("decoders", [{"name": decoder.name, "figures": record} for decoder, record in named])
    results.add("reference", reference.describe())


def _headlines(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """The distance of generated images through each decoder, and whether it differs from the first."""
    cards = []
    for name, record in zip(names, records, strict=True):
        for key in record.keys() & {"gfid", "gfd"}:
            meaning = "of generated images, lower is better"
            if record is not records[0] and not differs(record, records[0]):
                meaning += f"; {NO_DIFFERENCE} from {names[0]}"
            cards.append(card(f"g{key[1:].upper()}, {name}", record, key, "samples drawn", meaning))
    return cards
