"""What the figures of two decoders say about their difference, and how small a difference they could have shown.

Decoders are judged by the unbiased distances, extrapolated Fréchet and kernel distance, where they were measured: the
Fréchet distance of few images says in part how few they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .wording import NO_DIFFERENCE, change, half_width, rounded, with_interval

Record = Mapping[str, Any]  # figures of one decoder, as in metrics.json

DISTANCES = ("fd", "fid", "fd_inf", "fid_inf", "kd", "mind")  # of a record, behind a letter: gfd, rkd, ...
UNBIASED = ("fd_inf", "fid_inf", "kd")
FILTERS = "_filters"  # behind those: of the untrained network's features


def distance_names(record: Record, prefixes: str = "rpng") -> dict[str, str]:
    """Every distance of a record -> how it is called: gfd_inf -> gFD_inf. By letter, then in the order of DISTANCES."""
    names = {
        prefix + name + space: prefix + name.upper().replace("_INF", "_inf") + (" (filters)" if space else "")
        for prefix in prefixes
        for space in ("", FILTERS)
        for name in DISTANCES
    }
    return {key: name for key, name in names.items() if key in record}


def judged_by(after: Record, prefix: str = "g") -> dict[str, str]:
    """The same, but only those by which a decoder is compared: the unbiased ones whose change has an interval, else the
    Fréchet distance.
    """
    names = distance_names(after, prefix)
    kinds = {key: key[len(prefix) :].removesuffix(FILTERS) for key in names}
    unbiased = [key for key, kind in kinds.items() if kind in UNBIASED and _noise(after, key) is not None]
    judging = unbiased or [key for key, kind in kinds.items() if kind in ("fd", "fid")]
    return {key: names[key] for key in judging}


def differs(after: Record, before: Record) -> bool:
    """Whether any of those found a difference of the generated images."""
    return any(change(after, before, key) != NO_DIFFERENCE for key in judged_by(after))


def judgement(after: Record, before: Record) -> str:
    """ "lowers gFD_inf, 8.0 ± 0.4 -> 6.0 ± 0.4 (change -2.0 ± 0.5, -25%); no difference found in gKD (+0.01 ± 0.04)".

    A percentage stands only behind a difference that was found, of a figure that is itself above its noise.
    """
    said, none = [], []
    for key, name in judged_by(after).items():
        values = f"{with_interval(before, key)} -> {with_interval(after, key)}"
        if (noise := _noise(after, key)) is None:
            said.append(f"{name} {values}; how much of that is noise is not known")
            continue
        by = after[key] - before[key]
        shown = rounded(by, noise, "+")
        if change(after, before, key) == NO_DIFFERENCE:
            none.append(f"{name} ({shown})")
            continue
        above = before[key] - (half_width(before, key) or 0) > 0
        relative = f", {by / before[key]:+.0%}" if above else ""
        said.append(f"{'lowers' if by < 0 else 'raises'} {name}, {values} (change {shown}{relative})")
    return "; ".join([*said, *([f"{NO_DIFFERENCE} in {', '.join(none)}"] if none else [])])


def signal_and_noise(decoders: Sequence[tuple[str, Record]]) -> list[tuple[str, str, str, str]]:
    """A row for each distance of each decoder but the first, which they are compared with: what it is, the change that
    was found, the smallest that these images could have shown, and which of the two is larger.
    """
    (_, before), *others = decoders
    rows = []
    for title, after in others:
        for key, name in distance_names(after).items():
            if (noise := _noise(after, key)) is None:
                continue
            found, smallest = rounded(after[key] - before[key], noise, "+").split(" ± ")
            verdict = NO_DIFFERENCE if change(after, before, key) == NO_DIFFERENCE else "signal"
            rows.append((f"{name}, {title}", found, smallest, verdict))
    return rows


def _noise(after: Record, key: str) -> float | None:
    return half_width(after, f"{key}_change")
