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


def distance_names(record: Record, prefixes: str = "rpng") -> dict[str, str]:
    """Every distance of a record -> how it is called: gfd_inf -> gFD_inf. By letter, then in the order of DISTANCES."""
    keys = [prefix + name for prefix in prefixes for name in DISTANCES if prefix + name in record]
    return {key: key[0] + key[1:].upper().replace("_INF", "_inf") for key in keys}


def judged_by(after: Record, prefix: str = "g") -> dict[str, str]:
    """The same, but only those by which a decoder is compared: the unbiased ones whose change has an interval, else the
    Fréchet distance.
    """
    names = distance_names(after, prefix)
    unbiased = {key: name for key, name in names.items() if key[1:] in UNBIASED and _noise(after, key) is not None}
    return unbiased or {key: name for key, name in names.items() if key[1:] in ("fd", "fid")}


def differs(after: Record, before: Record) -> bool:
    """Whether any of those found a difference of the generated images."""
    return any(change(after, before, key) != NO_DIFFERENCE for key in judged_by(after))


def judgement(after: Record, before: Record) -> str:
    """ "lowers gFD_inf, 8.0 -> 6.0 (-2.0 ± 0.5, -25%); no difference found in gKD, 0.10 -> 0.11 (+0.01 ± 0.04)".

    A percentage stands only behind a difference that was found, of a figure that is itself above its noise.
    """
    return "; ".join(_one(after, before, key, name) for key, name in judged_by(after).items())


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


def _one(after: Record, before: Record, key: str, name: str) -> str:
    values = f"{with_interval(before, key)} -> {with_interval(after, key)}"
    if (noise := _noise(after, key)) is None:
        return f"{name} {values}; how much of that is noise is not known"
    by = after[key] - before[key]
    shown = rounded(by, noise, "+")
    if change(after, before, key) == NO_DIFFERENCE:
        return f"{NO_DIFFERENCE} in {name}, {values} (change {shown})"
    low = before[key] - (half_width(before, key) or 0)
    relative = f", {by / before[key]:+.0%}" if low > 0 else ""
    return f"{'lowers' if by < 0 else 'raises'} {name}, {values} (change {shown}{relative})"
