r"""Sample a generator at any scale: python -m robustok.sample --generator G [--tokenizer T] [options]

    python -m robustok.sample --generator rar_l.bin --tokenizer post-train.pt --preset rar-l \
        --n 50000 --reference VIRTUAL_imagenet256_labeled.npz
    python -m robustok.sample --generator rar_l.bin --tokenizer post-train.pt --preset rar-l \
        --grid 8x8 --classes 207,360
    torchrun --nproc_per_node 8 -m robustok.sample --images 50000 ...  (torchrun takes --n for its own)

By default images go straight from the decoder to features, moments and FID; --save keeps them. The tokens or latents
of every image are kept in OUTPUT/tokens. Work is shared out in shards over any number of processes that run the same
command, on any machines that share the folder; after a kill the same command goes on, and the bytes at the end are the
same. On a GPU the first process measures which attention is fastest and keeps it in OUTPUT/attention.json for all.
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch

from .config import FlowSamplingConfig, SamplingConfig
from .core.cli import run_verb
from .core.device import on_the_host, peak_memory_bytes, resolve_device
from .core.errors import UserError
from .core.files import written_whole
from .core.options import (
    PRECISIONS,
    add_device,
    add_fast,
    add_generator_sizes,
    add_network,
    add_output,
    add_sampling,
    add_seed,
    add_tokenizer_sizes,
    choose_speed,
    generator_sizes,
    positive,
    sampling_of,
    sampling_settings,
    tokenizer_sizes,
    verb_parser,
    whole_number,
)
from .core.paths import FILE, FOLDER, check_output
from .core.shards import add_shard, my_shard, refuse_partial
from .core.text import say
from .generation.image_writer import KINDS

SHARD, MOST_SHARD = 1000, 50_000  # images a shard, about; of more the features would be no file that is read again
MOST_TILES = 10_000  # images of a grid
BATCH_SIZE = {"cuda": 256, "cpu": 50}
PRECISION = {"cuda": "bfloat16", "cpu": "float32"}


def main(argv: list[str]) -> None:
    """Parses the options, then draws a picture or runs a large sample."""
    options = _parser().parse_args(argv)
    device = options.device = resolve_device(options.device)
    options.batch_size = BATCH_SIZE[device.type] if options.batch_size is None else options.batch_size
    options.precision = options.precision or PRECISION[device.type]
    speed = choose_speed(options, device.type, measured=bool(options.reference))
    _check(options)
    from .models.computing import compute_in
    from .models.load import check_fits, load_generator, load_tokenizer, take_statistics
    from .models.registry import family_of
    from .presets import sampling_defaults

    generator = load_generator(options.generator, **generator_sizes(options))
    generator = generator.to(device, getattr(torch, options.precision))
    defaults = sampling_defaults(options.generator, family_of(generator).sampling, options.preset)
    settings = sampling_settings(options, defaults)
    tokenizer = None
    if options.tokenizer:
        tokenizer = load_tokenizer(options.tokenizer, **tokenizer_sizes(options)).to(device)
        check_fits(tokenizer, generator)
        take_statistics(generator, tokenizer)
        compute_in(tokenizer, options.tokenizer_precision, options.compile)
        say(f"computing: {speed}")
    elif options.fast:
        say(f"computing: {'compiled steps' if options.compile else 'as without --fast'}")
    if options.grid:
        _draw_grid(generator, tokenizer, settings, options)
    else:
        _run(generator, tokenizer, settings, options)


def _check(options: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded."""
    drawn = options.grid and Path(options.output).suffix == ".png"
    check_output("--output", options.output, {"--reference": options.reference}, kind=FILE if drawn else FOLDER)
    needs = [name for name in ("reference", "save", "grid") if getattr(options, name)]
    if needs and not options.tokenizer:
        raise UserError(f"--{needs[0]} needs images: give the --tokenizer that decodes the generator's tokens")
    if options.reference and options.n < 2:
        raise UserError(f"--n: found {options.n}, expected at least two images to compare with --reference")
    folder = Path(options.output)
    if not options.grid and folder.exists() and any(folder.iterdir()) and not (folder / "tokens").is_dir():
        raise UserError(f"{folder}: holds files that are no sample of ours; choose another --output or empty it")


def _run(generator, tokenizer, settings: dict, options: argparse.Namespace) -> None:
    """A large sample in shards, then its figures."""
    from .core.progress import Progress
    from .evaluation.reference import open_reference
    from .generation.classes import about_run, class_list
    from .generation.shards import ShardedRun
    from .report.comparison import report_comparison
    from .report.conditions import of_models

    network = _network(options) if options.reference else None
    load_reference = None
    if network is not None:  # images of other sizes are cropped as those that the tokenizer was trained on
        load_reference = open_reference(options.reference, network, tokenizer.image_size)
    classes = class_list(options.n, generator.num_classes, options.classes, options.class_weights)
    run_settings = {
        "seed": options.seed,
        "batch_size": options.batch_size,
        "precision": options.precision,
        "images": list(options.save),
        "features": None if network is None else network.protocol,
    }
    # what is exact is not said: runs that were begun before there was a choice go on
    if options.tokenizer and options.tokenizer_precision != "float32":
        run_settings["tokenizer_precision"] = options.tokenizer_precision
    if options.compile:
        run_settings["compile"] = True
    folder = Path(options.output)
    sharded = ShardedRun(
        folder,
        classes,
        lambda: generator.sampler(**settings, compile=options.compile, choices=folder / "attention.json"),
        about=about_run(generator, tokenizer, classes, settings | run_settings),
        seed=options.seed,
        batch_size=min(options.batch_size, len(classes)),
        shard_rows=-(-options.shard_images // options.batch_size) * options.batch_size,
        tokenizer=tokenizer,
        network=network,
        image_kinds=tuple(options.save),
    )
    shard, begin = my_shard(options), time.perf_counter()
    with Progress("sampling", len(classes), shown=os.environ.get("RANK", "0") == "0") as progress:
        made = sharded.work(progress.show, shard)
    _print_speed(made, time.perf_counter() - begin, generator, sharded.sampler)
    if refuse_partial(shard, sharded.missing(), str(folder)):
        return
    rows = sharded.finish()
    if rows is None:
        say("every shard is there; another process puts them together")
        return
    say(f"written: {rows.folder} ({len(rows)} images)")
    if network is not None:
        name, size = Path(options.generator).name, tokenizer.image_size
        found = sharded.features.collect(sharded.shards, network, rows.rows, classes, name, size)
        settings |= {"seed": options.seed}
        precisions = options.tokenizer_precision, options.precision
        made = of_models(options.tokenizer, options.generator, settings, *precisions, options.compile)
        report_comparison(found, load_reference(), options.output, sampling=settings, made=made)


def _print_speed(made: int, seconds: float, generator, sampler) -> None:
    """images/s of this process, its peak memory, and how fast it read its caches."""
    if made == 0:
        say("nothing was left to sample")
        return
    peak = f"peak memory {peak_memory_bytes(sampler.device) / 2**30:.2f} GiB"
    figures = [f"{made} images in {seconds:.1f} s: {made / seconds:.2f} images/s", peak]
    if hasattr(generator, "cache_bytes"):
        traffic = generator.cache_bytes(sampler.streams) * made / seconds
        figures.append(f"key/value caches read at {traffic / 1e9:.1f} GB/s")
    say(", ".join(figures))


def _draw_grid(generator, tokenizer, settings: dict, options: argparse.Namespace) -> None:
    """One picture of rows x columns images, sorted by class."""
    from PIL import Image

    from .generation.batches import decode_generated, generate_batches
    from .generation.classes import class_list
    from .report.page import image_grid

    rows, columns = options.grid
    classes = class_list(rows * columns, generator.num_classes, options.classes, options.class_weights)
    sampler = generator.sampler(**settings, compile=options.compile)
    size = min(options.batch_size, len(classes))
    batches = generate_batches(sampler, classes, seed=options.seed, batch_size=size)
    images = torch.cat([*on_the_host(decode_generated(tokenizer, batch) for batch in batches)])
    path = Path(options.output)
    path = path if path.suffix == ".png" else path / "grid.png"
    with written_whole(path) as temporary:
        Image.fromarray(image_grid(images, columns).permute(1, 2, 0).numpy()).save(temporary, "PNG")
    say(f"written: {path}")


def _network(options: argparse.Namespace):
    from .evaluation.features.registry import open_network

    return open_network(options.network, options.weights, options.mode, options.device)


def _grid(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    sides = [int(part) if part.isdecimal() and len(part) < 5 else 0 for part in (rows, columns)]
    if not 0 < sides[0] * sides[1] <= MOST_TILES:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected ROWSxCOLUMNS, for example 8x8; {MOST_TILES} at most"
        )
    return sides[0], sides[1]


def _numbers(kind: type):
    def parse(text: str) -> list:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"list of {kind.__name__}"  # argparse names it in its message
    return parse


def _parser() -> argparse.ArgumentParser:
    from .evaluation.features.registry import INCEPTION_WEIGHTS, NETWORKS

    parser = verb_parser("sample", __doc__)
    add = parser.add_argument
    add("--generator", required=True, help="the generator: a checkpoint of this package or a released file")
    add(
        "--tokenizer",
        help="the tokenizer that decodes what it makes: a checkpoint or a released file (default: no images)",
    )
    add_generator_sizes(parser)
    add_tokenizer_sizes(parser, heads="tokenizer_heads")
    add(
        "--preset",
        help="whose sampling settings to take: rar-b, llamagen-l, ... (default: those of the generator's run)",
    )
    add("--n", "--images", type=positive, default=50_000, help="how many images, in all (default 50000)")
    add("--classes", type=_numbers(int), help="numbers of the classes to make, with commas (default: all)")
    add("--class_weights", type=_numbers(float), help="share of each class, with commas (default: equal shares)")
    kinds = {"tokens": sampling_of(SamplingConfig()), "latents": sampling_of(FlowSamplingConfig())}
    add_sampling(parser, kinds, first="that of --preset, else of the run that made the generator, else ")
    add_seed(parser, "the images, each of which depends on the seed and its number alone")
    add("--batch_size", type=positive, help="images sampled at once (default 256 on a GPU, 50 on a CPU)")
    per_shard = f"images a shard, rounded up to whole batches (default {SHARD})"
    add("--shard_images", type=partial(whole_number, least=1, most=MOST_SHARD), default=SHARD, help=per_shard)
    add_shard(parser, "shards of images")
    precision = "of weights and caches; logits are always float32 (default bfloat16 on a GPU, float32 on a CPU)"
    add("--precision", choices=PRECISIONS, help=precision)
    add_fast(parser, compiles="the step of sampling that a GPU replays, and the tokenizer")
    add_device(parser)
    add_output(parser, "samples", "the tokens, the images that are kept, and what is found")
    add("--save", nargs="+", choices=KINDS, default=[], help="keep the images, in these forms (default: none)")
    add("--reference", help="images or saved statistics to compare with; without it there are no figures")
    add_network(parser, NETWORKS, INCEPTION_WEIGHTS)
    add("--grid", type=_grid, help="only a picture of ROWSxCOLUMNS images, OUTPUT/grid.png or OUTPUT if that is a .png")
    return parser


if __name__ == "__main__":
    sys.exit(run_verb(main))
