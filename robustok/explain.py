r"""Why a tokenizer scores as it does: python -m robustok.explain WHAT ... [options]

    python -m robustok.explain codebook main-train.pt --images photos/
    python -m robustok.explain strips main-train.pt --images photos/
    python -m robustok.explain lipschitz main-train.pt other.pt --images photos/
    python -m robustok.explain mmd main-train.pt --images photos/ --generator rar_b.bin
    python -m robustok.explain elbow --images photos/ --size 224 --network dinov2 --weights dinov2.pth
    python -m robustok.explain correlation benchmark.json

Each command prints a table, saves its pictures as PNG, and writes metrics.json and report.html to the folder --output.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .core.cli import run_verb
from .core.device import resolve_device
from .core.errors import UserError
from .core.files import read_json
from .core.options import (
    add_device,
    add_generator_sizes,
    add_network,
    add_output,
    add_sampling,
    add_seed,
    add_size,
    add_tokenizer_sizes,
    choose_speed,
    generator_sizes,
    positive,
    sampling_settings,
    tokenizer_sizes,
    verb_parser,
)
from .core.paths import check_output

NO_GUIDANCE = {"guidance_scale": 1.0}
MOST = 1e30  # that a figure of a benchmark may be; NaN is not below it


def main(argv: list[str]) -> None:
    """Parses the options and runs one command."""
    from .report.results import Results

    options = _parser().parse_args(argv)
    options.device = resolve_device(options.device)
    choose_speed(options, options.device.type)
    check_output("--output", options.output, {"--images": getattr(options, "images", None)})
    results = Results(options.output, f"{options.command.__doc__.split('.')[0]}")
    options.command(options, results)
    results.save()


def codebook(options: argparse.Namespace, results) -> None:
    """How a codebook is used and laid out. Usage, perplexity and a t-SNE map by usage (figures 7, 9 and 13)."""
    from .evaluation.explaining import codebook_map, codebook_usage
    from .report.explained import report_codebook

    tokenizer = _tokenizer(options, options.tokenizer)
    stream = _stream(options, tokenizer.image_size)
    usage = codebook_usage(tokenizer, stream)
    report_codebook(results, usage, codebook_map(tokenizer, seed=options.seed), len(stream))


def strips(options: argparse.Namespace, results) -> None:
    """Reconstructions under rising alpha and delta (figure 3)."""
    from .evaluation.explaining import perturbed_reconstructions
    from .evaluation.perturbing import CLEAN
    from .evaluation.pfid import ALPHAS, delta_set
    from .report.explained import report_strips

    tokenizer = _tokenizer(options, options.tokenizer)
    images = next(iter(_stream(options, tokenizer.image_size)))[: options.count]
    settings = [CLEAN, *((alpha, delta) for alpha in ALPHAS for delta in delta_set(tokenizer.codebook.shape[-2]))]
    pictures = perturbed_reconstructions(tokenizer, images, settings, options.seed)
    report_strips(results, images.cpu(), {setting: shown.cpu() for setting, shown in pictures.items()})


def lipschitz(options: argparse.Namespace, results) -> None:
    """How far a decoder's pixels move for each unit of latent (section 3)."""
    from .evaluation import explaining
    from .evaluation.pfid import delta_set
    from .report.explained import report_lipschitz

    found = {}
    for path in options.tokenizers:
        tokenizer = _tokenizer(options, path)
        setting = (0.7, max(2, delta_set(tokenizer.codebook.shape[-2])[1]))  # one neighbour is the nearest code itself
        found[path] = explaining.lipschitz(tokenizer, _first(options, tokenizer.image_size), setting, options.seed)
    report_lipschitz(results, found)


def mmd(options: argparse.Namespace, results) -> None:
    """Which perturbation resembles a generator's latents. MMD over alpha and delta (figure 6)."""
    from .evaluation.explaining import latent_discrepancy
    from .evaluation.pfid import ALPHAS, delta_set
    from .generation.batches import GeneratedImages
    from .models.load import check_fits, load_generator
    from .report.explained import report_mmd

    tokenizer = _tokenizer(options, options.tokenizer)
    generator = load_generator(options.generator, **generator_sizes(options)).to(options.device)
    check_fits(tokenizer, generator)
    generated = GeneratedImages(
        generator,
        tokenizer,
        per_class=options.per_class,
        seed=options.seed,
        name=options.generator,
        **sampling_settings(options, NO_GUIDANCE),
    )
    middle = delta_set(tokenizer.codebook.shape[-2])
    deltas = sorted({1, max(1, middle[0] // 4), *middle, min(len(tokenizer.codebook), 2 * middle[-1])})
    settings = [(alpha, delta) for alpha in (0.1, 0.3, *sorted(ALPHAS), 1.0) for delta in deltas]
    table = latent_discrepancy(
        tokenizer, _first(options, tokenizer.image_size), torch.cat([*generated.generated()]), settings, options.seed
    )
    report_mmd(results, table)


def elbow(options: argparse.Namespace, results) -> None:
    """How many codes pay. K-means of image features over numbers of clusters (table 6)."""
    from .evaluation import explaining
    from .evaluation.features.registry import open_network
    from .evaluation.statistics import collect
    from .report.explained import report_elbow

    network = open_network(options.network, options.weights, options.mode, options.device)
    features = collect(_stream(options, options.size), network).features
    report_elbow(results, explaining.elbow(features, options.clusters, options.seed), len(features))


def correlation(options: argparse.Namespace, results) -> None:
    """Whether rFID or pFID ranks tokenizers as gFID does, within one codebook size (figure 5)."""
    from .evaluation.metrics.ranking import rank_correlation
    from .report.explained import report_correlation

    rows = read_benchmark(options.benchmark)
    sizes, gfid = [row["codebook_size"] for row in rows], [row["gfid"] for row in rows]
    found = {
        name: rank_correlation([row[name] for row in rows], gfid, sizes, seed=options.seed) for name in ("rfid", "pfid")
    }
    report_correlation(results, rows, found)


def read_benchmark(path: Path) -> list[dict]:
    """Rows of a benchmark: a JSON list of {"name", "codebook_size", "rfid", "pfid", "gfid"}. Raises UserError."""
    rows = read_json(path)
    needed = {"name": str, "codebook_size": int, "rfid": int | float, "pfid": int | float, "gfid": int | float}
    for number, row in enumerate(rows if isinstance(rows, list) else [{}]):
        if missing := sorted(needed.keys() - (row.keys() if isinstance(row, dict) else ())):
            raise UserError(f"{path}: entry {number} lacks {', '.join(missing)}; expected {sorted(needed)} in each")
        for name, kind in needed.items():
            value = row[name]
            if not isinstance(value, kind) or isinstance(value, bool) or (kind is not str and not abs(value) < MOST):
                expected = "text" if kind is str else "a finite number"
                raise UserError(f"{path}: entry {number}: {name} is {value!r:.60}, expected {expected}")
    return rows


def _tokenizer(options: argparse.Namespace, path: str):
    from .models.load import load_tokenizer

    return load_tokenizer(path, **tokenizer_sizes(options)).to(options.device)


def _stream(options: argparse.Namespace, size: int | None):
    from .evaluation.streams import open_stream

    return open_stream(options.images, size)


def _first(options: argparse.Namespace, size: int):
    """Batches of the first --limit images."""
    from .evaluation.passes import first_images

    return first_images(_stream(options, size), options.limit)


def _parser() -> argparse.ArgumentParser:
    from .evaluation.features.registry import INCEPTION_WEIGHTS, NETWORKS

    parser = verb_parser("explain", __doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")

    def command(function: Callable, subject: str, images: bool = True, **form) -> argparse.ArgumentParser:
        found = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        found.set_defaults(command=function)
        if subject:
            found.add_argument(subject, **form)
        if images:
            found.add_argument("--images", required=True, help='folder, tar shards, Parquet files, .npz or "digits"')
        add_device(found)
        add_output(found, "evaluation", "metrics.json, report.html and pictures")
        add_seed(found, "perturbation or sampling")
        return found

    usage, strip = command(codebook, "tokenizer"), command(strips, "tokenizer")
    strip.add_argument("--count", type=positive, default=6, help="images a strip (default 6)")
    several = command(lipschitz, "tokenizers", nargs="+")
    against = command(mmd, "tokenizer")
    for found in (usage, strip, several):
        add_tokenizer_sizes(found)
    add_tokenizer_sizes(against, heads="tokenizer_heads")
    add_generator_sizes(against)
    for found in (several, against):
        found.add_argument("--limit", type=positive, default=1000, help="images at most, about (default 1000)")
    against.add_argument("--generator", required=True, help="whose latents are compared")
    against.add_argument("--per_class", type=positive, default=1, help="generated images of each class (default 1)")
    add_sampling(against, {"tokens": NO_GUIDANCE})
    clusters = command(elbow, "")
    add_network(clusters, NETWORKS, INCEPTION_WEIGHTS)
    add_size(clusters, "the images")
    sizes = [512, 1024, 2048, 4096, 8192, 16384]
    clusters.add_argument(
        "--clusters", type=positive, nargs="+", default=sizes, help="numbers of clusters (default 512 ... 16384)"
    )
    command(correlation, "benchmark", images=False, type=Path, help="JSON list of tokenizers with rfid, pfid, gfid")
    return parser


if __name__ == "__main__":
    sys.exit(run_verb(main))
