"""Says what is in a data set and what is wrong with it, without changing anything."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .decode import BadImage
from .images import ImageSource, bad_budget
from .latents import LatentSet
from .listing import by_suffix
from .loader import prefetch
from .readers import reading
from .rows import RowSet
from .tokens import TokenSet
from .transforms import center_crop

SHEET_SIDE, THUMBNAIL, CAPTION = 4, 128, 14  # images a row and column, pixels of one, pixels below it


def survey_images(source: ImageSource, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Reads every image of `source`; returns plain values (fit for JSON), `usable` among them.

    `duplicates` are groups of names with the same bytes (SHA-256), `conflicts` those of them with several classes.
    Not usable: more bad images than training would skip, or a class none of whose images can be read.
    """
    count = len(source.labels)
    bad, sizes, same = [], [], defaultdict(list)
    readable = np.zeros(len(source.class_names), np.int64)
    for index, found in enumerate(prefetch(lambda index: _look(source, index), range(count))):
        if isinstance(found, BadImage):
            bad.append(str(found))
        else:
            size, digest = found
            sizes.append(size)
            same[digest].append(index)
            readable[source.labels[index]] += 1
        if progress is not None:
            progress(index + 1, count)
    groups = [group for group in same.values() if len(group) > 1]
    conflicts = [group for group in groups if len({int(source.labels[i]) for i in group}) > 1]
    per_class = np.bincount(source.labels, minlength=len(readable))
    together = getattr(source, "groups", None)
    unreadable = [
        name for name, all_bad in zip(source.class_names, (readable == 0) & (per_class > 0), strict=True) if all_bad
    ]
    budget = bad_budget(count)
    notes = list(source.notes)
    if len(source.class_names) == 1:
        notes.append(
            "one class: `train` asks for all networks of `frozen`, since a classifier of one class would learn nothing"
        )
    return {
        "format": source.kind,
        "images": count,
        **({} if together is None else {"image_groups": len(np.unique(together))}),
        "classes": dict(zip(source.class_names, per_class.tolist(), strict=True)),
        "sizes": _size_range(sizes),
        "bad": bad,
        "left_out": list(source.problems),
        "budget": budget,
        "unreadable_classes": unreadable,
        "ignored_files": len(source.ignored),
        "ignored_by_suffix": by_suffix(source.ignored),
        "notes": notes,
        "duplicates": [[source.names[i] for i in group] for group in groups],
        "conflicts": [[source.names[i] for i in group] for group in conflicts],
        "usable": len(bad) + len(source.problems) <= budget and not unreadable,
    }


def survey_tokens(tokens: TokenSet) -> dict[str, Any]:
    """What a folder of token shards holds, as plain values; `usable` is False if an index is outside the codebook."""
    size = tokens.manifest["codebook_size"]
    used = tokens.code_counts() > 0
    return {
        "format": "token shards",
        "sequences": len(tokens),
        "tokens": list(tokens.tokens.shape[1:]),
        "tokenizer": tokens.manifest["tokenizer"],
        "codebook_size": size,
        "codes_used": int(used[:size].sum()),
        "classes": _class_counts(tokens),
        "usable": not used[size:].any(),
    }


def survey_latents(latents: LatentSet) -> dict[str, Any]:
    """What a folder of latent shards holds, as plain values; its writer has refused what is not usable."""
    return {
        "format": "latent shards",
        "sequences": len(latents),
        "latents": list(latents.latents.shape[1:]),
        "tokenizer": latents.manifest["tokenizer"],
        "smallest_std": float(latents.std.min()),  # over the channels
        "largest_std": float(latents.std.max()),
        "classes": _class_counts(latents),
        "usable": True,
    }


def _class_counts(rows: RowSet) -> dict[str, int]:
    names = rows.manifest["class_names"]
    return dict(zip(names, np.bincount(rows.labels.numpy(), minlength=len(names)).tolist(), strict=True))


def thumbnail_sheet(source: ImageSource) -> Image.Image:
    """16 readable images with their class names, spread over the classes, in one RGB picture."""
    sheet = Image.new("RGB", (SHEET_SIDE * THUMBNAIL, SHEET_SIDE * (THUMBNAIL + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (index, image) in enumerate(_examples(source)):
        left, top = place % SHEET_SIDE * THUMBNAIL, place // SHEET_SIDE * (THUMBNAIL + CAPTION)
        sheet.paste(center_crop(image, THUMBNAIL), (left, top))
        name = source.class_names[source.labels[index]].encode("ascii", "replace").decode()  # the font has no others
        draw.text((left + 2, top + THUMBNAIL + 1), name[:20], fill="black")
    return sheet


def _examples(source: ImageSource) -> list[tuple[int, Image.Image]]:
    """Up to 16 readable (index, image), by class: the first of each class, the second, ...; of many classes 16."""
    wanted = SHEET_SIDE**2
    classes = np.unique(np.linspace(0, len(source.class_names) - 1, wanted).round())
    groups = [np.flatnonzero(source.labels == label) for label in classes]
    in_turn = (int(index) for row in zip_longest(*groups) for index in row if index is not None)
    readable = ((index, image) for index in in_turn if (image := _try_read(source, index)) is not None)
    return sorted(islice(readable, wanted), key=lambda pair: int(source.labels[pair[0]]))


def _try_read(source: ImageSource, index: int) -> Image.Image | None:
    try:
        return source.read(index)
    except BadImage:
        return None


def _look(source: ImageSource, index: int) -> tuple[tuple[int, int], bytes] | BadImage:
    """((width, height), SHA-256 of the bytes) of an image, or what is wrong with it."""
    try:
        with reading(source.names[index]):
            digest = hashlib.sha256(source.read_bytes(index)).digest()
            return source.read(index).size, digest
    except BadImage as error:
        return error


def _size_range(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    """Smallest, median and largest (width, height), by shorter side."""
    if not sizes:
        return {}
    ordered = sorted(sizes, key=lambda size: (min(size), max(size)))
    return {
        "smallest": list(ordered[0]),
        "median": list(ordered[len(ordered) // 2]),
        "largest": list(ordered[-1]),
    }
