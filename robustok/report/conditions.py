"""What figures depend on, for metrics.json: fields under the names of a recipe (docs/recipes.md).

None is not known. What is set to nothing is the text "none", as on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.options import SAMPLING_NAMES
from ..data.transforms import ROUNDING
from ..evaluation.statistics import ImageStatistics
from ..generation.classes import ORDER
from ..models.load import identity

Fields = dict[str, dict[str, Any]]  # value by section and name


def of_models(
    tokenizer: str | Path,
    generator: str | Path,
    sampling: Mapping[str, Any],
    tokenizer_precision: str,
    generator_precision: str,
    compiled: bool,
) -> Fields:
    """Of images that a generator made; precisions: that the tokenizer computes in, and of the generator's weights.

    sampling: the settings that the images were sampled with, and their seed. compiled: whether --compile was asked for.
    """
    settings = {name: sampling[name] for name in (*SAMPLING_NAMES, "seed") if name in sampling}
    return {
        "tokenizer": identity(tokenizer) | {"precision": tokenizer_precision} | _execution(compiled),
        "generator": identity(generator) | {"precision": generator_precision} | _execution(compiled),
        "sampling": {name: "none" if value is None else value for name, value in settings.items()},
        "samples": {"order": ORDER, "rounding": ROUNDING},
    }


def of_comparison(samples: ImageStatistics, reference: ImageStatistics) -> Fields:
    """Of distances between two sets of images."""
    counts = samples.class_counts or []
    about = {"count": samples.count, "transform": samples.transform}
    return {
        "samples": about | {"per_class": counts[0] if len(set(counts)) == 1 else None},
        "reference": {"file": Path(reference.name).name, "sha256": reference.file_hash, "count": reference.count},
        "features": {"protocol": samples.protocol, "weights": samples.weights},
    }


def of_tokenizer(path: str | Path, record: Mapping[str, Any], precision: str, seed: int, compiled: bool) -> Fields:
    """Of a tokenizer's reconstructions, plain and perturbed. record: of its figures, as in metrics.json.

    precision: that it computed in. compiled: whether --compile was asked for.
    """
    cells = record.get("pfid_settings") or record.get("pfd_settings") or []
    settings = {f"{name}s": sorted({cell[name] for cell in cells}) or None for name in ("alpha", "delta")}
    return {
        "tokenizer": identity(path)
        | {"precision": precision, "codebook_size": record["codebook_size"]}
        | _execution(compiled),
        "images": {"count": record["images"], "transform": record.get("transform")},
        "perturbation": settings | {"seed": seed if cells else None},
    }


def _execution(compiled: bool) -> dict[str, str]:
    return {"execution": "compiled" if compiled else "eager"}


def together(*parts: Fields) -> Fields:
    """The fields of all parts, which may have sections in common."""
    sections = dict.fromkeys(section for part in parts for section in part)
    return {section: {k: v for part in parts for k, v in part.get(section, {}).items()} for section in sections}
