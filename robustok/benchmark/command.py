"""`python -m robustok.evaluate benchmark`: measures the tokenizers of a list, or one shard of that, and reports."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..core.errors import UserError
from ..core.shards import my_shard, refuse_partial
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
    shard = my_shard(options)
    left = [f"{task.entry} ({task.kind})" for task in work.run(shard)]
    if refuse_partial(shard, left, options.list):
        return
    figures = {
        name: {key: value for task in found for key, value in (work.figures(task) or {}).items()}
        for name, found in tasks.items()
    }
    results = Results(output, f"Benchmark of tokenizers: {options.list}")
    report_benchmark(results, listing, figures, distance, folder)
    results.add("protocol", about | {"seed": options.seed, "reference": options.reference})
    results.save()
