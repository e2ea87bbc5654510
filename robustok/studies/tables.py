"""The tables of a study's page: (rows, header, caption) each."""

from __future__ import annotations

from collections.abc import Iterable

from ..report.wording import NO_DIFFERENCE, change
from .claims import NONE, difference
from .measured import Findings, Measured

Rows = tuple[list[tuple], tuple[str, ...], str]

FIGURES = {
    "tokenizer.psnr": "PSNR",
    "tokenizer.rfd": "rFD",
    "tokenizer.pfd": "pFD",
    "generator.gfd": "gFD",
    "post.gfd": "gFD, post-trained",
    "generator.gfd_filters": "gFD in random filters",
    "post.gfd_filters": "the same, post-trained",
}
LOSSES = ("reconstruction", "perceptual", "adversarial", "vq", "commit", "semantic")  # terms with a weight


def tokenizer_rows(found: Findings) -> Rows:
    """Every row that trains a tokenizer: means over its seeds, and whether gFD differs from that of NONE."""
    values = {path: found.values(path) for path in FIGURES}
    noise = {path: found.noise(path) for path in FIGURES}
    rows = []
    for name, row in found.study.rows.items():
        if name not in values["tokenizer.rfd"]:
            continue
        cells = [str(noise[path].of_mean(values[path][name])) for path in FIGURES]
        less = None if name == NONE else difference(found, "generator.gfd", name, NONE)
        said = "-" if less is None else f"{NO_DIFFERENCE} ({less})" if less.has_zero else str(less)
        rows.append((name, row.says, len(values["tokenizer.rfd"][name]), *cells, said))
    header = ("row", "what it is", "seeds", *FIGURES.values(), f"gFD against {NONE}")
    return rows, header, "Means over seeds ± half of the 95 % interval. Lower is better but for PSNR (dB)."


def post_rows(found: Findings) -> Rows:
    """Every post-trained decoder of the part on post-training."""
    rows = []
    for run in found.of(("post-training",)):
        modes = run.metrics["modes"]
        for number, mode in enumerate(modes):
            after = run.metrics["post" if number == 0 else f"post_{mode}"]
            before = run.metrics["generator"]
            by = change(after, before, "gfd")
            figures = (float(before["gfd"]), float(after["gfd"]), by, after["best_step"])
            rows.append((run.row.name, run.row.says, mode, *figures))
    header = ("row", "what it is", "pairs", "gFD before", "after", "change", "step kept")
    return (
        rows,
        header,
        (
            "Step 0: no step was better than the start on the validation images. sigma 1 keeps all real tokens: the "
            "control, in which the decoder goes on learning without seeing generated ones."
        ),
    )


def loss_rows(run: Measured) -> Rows:
    """Weighted terms of main training's loss at its last logged step, and the share of each."""
    logged = [record for record in run.log if record["stage"] == "tokenizer" and "reconstruction" in record][-1]
    weights = run.weights
    terms = {name: weights[name] * abs(logged[name]) for name in LOSSES if name in logged}
    if "adaptive_weight" in logged:
        terms["adversarial"] *= logged["adaptive_weight"]
    total = sum(terms.values())
    rows = [(name, float(logged[name]), weights[name], f"{term / total:.1%}") for name, term in terms.items()]
    return rows, ("term", "value", "weight", "share of the sum"), f"Main training of {run.name}, step {logged['step']}."


def cost_rows(found: Findings, parts: Iterable[str]) -> Rows:
    """Seconds of each stage of each run."""
    runs = found.of((*parts, "post-training"))
    stages = list(dict.fromkeys(stage for run in runs for stage in run.metrics["seconds"]))
    used = [stage for stage in stages if any(run.metrics["seconds"].get(stage) for run in runs)]
    rows = [(run.name, *(round(run.metrics["seconds"].get(s, 0)) for s in used), round(run.seconds)) for run in runs]
    return rows, ("run", *used, "sum"), "Seconds on one thread; two runs at a time. 0: taken from another row."
