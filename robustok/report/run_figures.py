"""The figures of a training run for people: the table, the headlines, and what they say about post-training."""

from __future__ import annotations

from .judgement import differs, distance_names, judgement
from .robustness import shown_robustness
from .wording import NO_DIFFERENCE, card, rounded, with_interval

UNBIASED = {
    "gfd_inf": "the same of infinitely many images, extrapolated",
    "gkd": "kernel distance of generated images, unbiased",
    "gfd_inf_filters": "extrapolated, through random filters that nothing learned by",
    "gkd_filters": "kernel distance through these",
}


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
        same = "" if name == "generator" or differs(values, metrics["generator"]) else f"; {NO_DIFFERENCE}"
        rows.append((f"gFD, {title}", with_interval(values, "gfd"), f"{distance} of generated images{same}"))
        called = distance_names(values, "g")
        rows += [
            (f"{called[key]}, {title}", with_interval(values, key), of) for key, of in UNBIASED.items() if key in called
        ]
        agreement = f"{values['class_agreement']:.1%}"
        rows.append((f"class agreement, {title}", agreement, "generated images read as the class asked for"))
    real = f"{distance} of the training images, which the classifier knows"
    rows.append(("training images", rounded(metrics["real_fd"], None), real))
    if "real_fd_inf" in metrics:
        rows.append(("training images, FD_inf", with_interval(metrics, "real_fd_inf"), UNBIASED["gfd_inf"]))
    return rows


def headlines(metrics: dict) -> list[tuple[str, str, str]]:
    """What a reader wants to know first, each with what it means."""
    t, distance = metrics["tokenizer"], metrics["distance"]
    cards = [card("rFD", t, "rfd", "test images", f"{distance} of clean reconstructions; lower is better")]
    if found := shown_robustness(t):
        key, shown = found
        cards.append(card(shown.name, t, key, "test images", f"{distance} of {shown.of}; close to rFD is robust"))
    before = metrics["generator"]
    for name, title in decoders(metrics):
        meaning = "of generated images, lower is better"
        if name != "generator" and not differs(metrics[name], before):
            meaning += f"; {NO_DIFFERENCE} from before post-training"
        cards.append(card(f"gFD, {title}", metrics[name], "gfd", "samples drawn", meaning))
    cards.append(("PSNR", f"{t['psnr']:.2f} dB", "of held-out images' reconstructions; higher is better"))
    return cards


def verdicts(metrics: dict) -> list[str]:
    """What the figures say about post-training, in sentences: better, worse or neither, by how much (± is 95 %).

    Before that, what a reader must know of the figures; nothing else where they mean nothing.
    """
    start, sentences = metrics["generator"], list(metrics["notes"])
    if metrics["classifier"]["skill"] == "none":
        return sentences
    for name, title in decoders(metrics)[1:]:
        found, before = metrics[name], start["gfd"]
        if found["best_step"] == 0:
            sentences.append(
                f"{title.capitalize()}: no step beat the start on the validation images: "
                f"the decoder stays as it was, gFD {before:.4g}."
            )
            continue
        sentences.append(f"{title.capitalize()}: {judgement(found, start)}.")
    return sentences


def decoders(metrics: dict) -> list[tuple[str, str]]:
    """(key in metrics, how the page calls it), the main-trained decoder first."""
    modes = metrics["modes"]
    posts = [("post" if i == 0 else f"post_{mode}", f"post-trained on {mode} pairs") for i, mode in enumerate(modes)]
    return [("generator", "before post-training"), *posts]
