"""The figures of a training run for people: the table, the headlines, and what they say about post-training."""

from __future__ import annotations

from .robustness import shown_robustness
from .wording import NO_DIFFERENCE, change, spread, with_interval


def summary_rows(metrics: dict) -> list[tuple[str, object, str]]:
    """The table of the terminal and of the report: (name, value, meaning)."""
    t, distance = metrics["tokenizer"], metrics["distance"]
    rows: list[tuple[str, object, str]] = [("PSNR", f"{t['psnr']:.2f} dB", "reconstruction of held-out images")]
    if "codebook_usage" in t:
        rows.append(("codebook usage", f"{t['codebook_usage']:.1%}", "codes used by the training images' tokens"))
    rows.append(("rFD", with_interval(t, "rfd"), f"{distance} of reconstructions"))
    if found := shown_robustness(t):
        key, robustness = found
        rows.append((robustness.name, with_interval(t, key), f"{distance} of {robustness.of}"))
    for name, title in decoders(metrics):
        values = metrics[name]
        rows.append((f"gFD, {title}", with_interval(values, "gfd"), f"{distance} of generated images"))
        agreement = f"{values['class_agreement']:.1%}"
        rows.append((f"class agreement, {title}", agreement, "generated images read as the class asked for"))
    real = f"{distance} of the training images, which the classifier knows"
    rows.append(("training images", metrics["real_fd"], real))
    return rows


def headlines(metrics: dict) -> list[tuple[str, str, str]]:
    """What a reader wants to know first, each with what it means."""
    t, distance = metrics["tokenizer"], metrics["distance"]
    cards = [_card("rFD", t, "rfd", "test images", f"{distance} of clean reconstructions; lower is better")]
    if found := shown_robustness(t):
        key, shown = found
        cards.append(_card(shown.name, t, key, "test images", f"{distance} of {shown.of}; close to rFD is robust"))
    before = metrics["generator"]
    for name, title in decoders(metrics):
        meaning = "of generated images, lower is better"
        if name != "generator" and change(metrics[name], before, "gfd") == NO_DIFFERENCE:
            meaning += f"; {NO_DIFFERENCE} from before post-training"
        cards.append(_card(f"gFD, {title}", metrics[name], "gfd", "samples drawn", meaning))
    cards.append(("PSNR", f"{t['psnr']:.2f} dB", "of held-out images' reconstructions; higher is better"))
    return cards


def verdicts(metrics: dict) -> list[str]:
    """What the figures say about post-training, in sentences: better, worse or neither, by how much.

    Before that, what a reader must know of the figures; nothing else where they mean nothing.
    """
    start, sentences = metrics["generator"], list(metrics["notes"])
    if metrics["classifier"]["skill"] == "none":
        return sentences
    for name, title in decoders(metrics)[1:]:
        found, before, after = metrics[name], start["gfd"], metrics[name]["gfd"]
        if found["best_step"] == 0:
            sentences.append(
                f"{title.capitalize()}: no step beat the start on the validation images: "
                f"the decoder stays as it was, gFD {before:.4g}."
            )
            continue
        verdict = "lowers" if after < before else "raises"
        if change(found, start, "gfd") == NO_DIFFERENCE:
            verdict = f"{NO_DIFFERENCE} in"
        by = f"{(after - before) / before:+.1%}"
        if (interval := found["gfd_change_interval"]) is not None:
            by += "; the change is from {:+.2g} to {:+.2g}, 95 % over the samples".format(*interval)
        sentences.append(f"{title.capitalize()}: {verdict} gFD on this data, {before:.4g} -> {after:.4g} ({by}).")
    return sentences


def decoders(metrics: dict) -> list[tuple[str, str]]:
    """(key in metrics, how the page calls it), the main-trained decoder first."""
    modes = metrics["modes"]
    posts = [("post" if i == 0 else f"post_{mode}", f"post-trained on {mode} pairs") for i, mode in enumerate(modes)]
    return [("generator", "before post-training"), *posts]


def _card(title: str, record: dict, name: str, drawn: str, meaning: str) -> tuple[str, str, str]:
    found = spread(record, name)
    return (title, f"{record[name]:.4g}", f"{found} (95 % over the {drawn}); {meaning}" if found else meaning)
