"""`python -m robustok.evaluate benchmark`: measures the tokenizers of a list, or one shard of that, and reports."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.options import positive
from ..core.paths import readable_folder
from ..core.shards import add_shard, my_shard, refuse_partial
from ..report.conditions import Fields, of_models, of_tokenizer, together
from ..report.results import Results
from .entries import Entry, read_list
from .inputs import Inputs
from .page import report_benchmark
from .tasks import Measuring, Task
from .work import Work


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes beside the network of features, the device, the speed, the seed and --output."""
    add = parser.add_argument
    add("list", help="YAML file with the list (docs/benchmark.md), or a shipped one: published, digits")
    add("--files", default=".", help="folder with the files that the list names (default: this one)")
    add("--images", help="images to give back, cut to each tokenizer's size")
    add("--reference", help="images or saved statistics that generated images are compared with")
    add("--per_class", type=positive, default=50, help="generated images of each class (default 50)")
    add_shard(parser, "parts of 5,000 images")


def run_benchmark(options: argparse.Namespace, open_network: Callable[[], Callable]) -> None:
    """Runs the command with its parsed options (see evaluate.py); the network is opened where there is work for it."""
    listing, output = read_list(options.list), Path(options.output)
    folder = readable_folder(options.files, "the folder with the files that the list names (--files)")
    present = [entry for entry in listing.tokenizers if entry.file not in entry.missing(folder)]
    tasks: dict[str, list[Task]] = {}
    distance, about = "fid", {}
    if present:
        if options.images is None:
            raise UserError("--images: the images to give back are needed, as there are tokenizers to measure")
        network = open_network()
        given = {"reference": options.reference, "per_class": options.per_class, "seed": options.seed}
        given |= {"precision": options.tokenizer_precision, "compiled": options.compile}
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
    for entry in present:
        row = next(row for row in results.record["tokenizers"] if row["name"] == entry.name)
        row["conditions"] = _conditions(entry, row, folder, options)
    results.add("conditions", {"features": {"protocol": about.get("features"), "weights": about.get("weights")}})
    results.add("protocol", about | {"seed": options.seed, "reference": options.reference})
    results.save()


def _conditions(entry: Entry, row: Mapping[str, Any], folder: Path, options: argparse.Namespace) -> Fields:
    """What the figures of a row depend on."""
    precision, seed, compiled = options.tokenizer_precision, options.seed, options.compile
    plain = of_tokenizer(folder / entry.file, row, precision, seed, compiled)
    if entry.generator is None or "samples" not in row:
        return plain
    made, generator = row["generator"], folder / entry.generator.file
    sampling = made["sampling"] | {"seed": seed}
    sampled = of_models(folder / entry.file, generator, sampling, precision, "float32", compiled)
    return together(plain, sampled, {"samples": {"count": row["samples"], "per_class": made["per_class"]}})
