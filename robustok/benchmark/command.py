"""`python -m robustok.evaluate benchmark`: measures the tokenizers of a list, or one shard of that, and reports."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..core.errors import UserError
from ..core.text import say
from ..report.results import Results
from .entries import read_list
from .inputs import Inputs
from .page import report_benchmark
from .tasks import Measuring, Task
from .work import Work


def run_benchmark(options: argparse.Namespace, open_network: Callable[[], Callable]) -> None:
    """Runs the command with its parsed options (see evaluate.py); the network is opened where there is work for it."""
    listing, folder, output = read_list(options.list), Path(options.files), Path(options.output)
    present = [entry for entry in listing.tokenizers if entry.file not in entry.missing(folder)]
    tasks: dict[str, list[Task]] = {}
    distance, about = "fid", {}
    if present:
        if options.images is None:
            raise UserError("--images: the images to give back are needed, as there are tokenizers to measure")
        network = open_network()
        given = {"reference": options.reference, "per_class": options.per_class, "seed": options.seed}
        measuring = Measuring(Inputs(folder, options.images, network, device=options.device, **given))
        tasks = {entry.name: measuring.tasks(entry) for entry in present}
        distance = measuring.distance
        about = {"features": network.protocol, "weights": getattr(network, "sha256", None), "images": options.images}
    work = Work(output, [task for found in tasks.values() for task in found])
    left = work.run(*options.shard)
    if left:
        names = ", ".join(f"{task.entry} ({task.kind})" for task in left)
        say(f"not finished: {names}; the last shard, or a run without --shard, measures what is left and reports")
        return
    figures = {
        name: {key: value for task in found for key, value in (work.figures(task) or {}).items()}
        for name, found in tasks.items()
    }
    results = Results(output, f"Benchmark of tokenizers: {options.list}")
    report_benchmark(results, listing, figures, distance, folder)
    results.add("protocol", about | {"seed": options.seed, "reference": options.reference})
    results.save()


def shard_of(text: str) -> tuple[int, int]:
    """ "i/N" -> (i, N), with i from 1 to N; the type of --shard."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected i/N with i from 1 to N, as 2/8")
    return int(number), int(count)
