"""Images to shards of tokens or latents, and shards to lines of JSON and back: python -m robustok.pretokenize SRC DST

    python -m robustok.pretokenize PHOTOS tokens/ --tokenizer runs/demo/tokenizer --augment tencrop
    torchrun --nproc_per_node 8 -m robustok.pretokenize PHOTOS tokens/ --tokenizer main-train.pt
    python -m robustok.pretokenize train.jsonl tokens/ --codebook_size 4096 --num_classes 1000
    python -m robustok.pretokenize tokens/ train.jsonl
    python -m robustok.pretokenize latents/ statistics.json

SRC: images, tar shards, Parquet files, "digits", a .jsonl file, or a folder of shards. Every image of SRC is taken, at
the tokenizer's size. A continuous tokenizer gives latents; their mean and standard deviation a channel are stored with
them, and a DST that ends in .json gets these alone. The same command again resumes with the first shard that is
missing.
"""

import argparse
import sys
from pathlib import Path

from .core.cli import run_verb
from .core.device import check_device_name
from .core.errors import UserError
from .core.options import add_device, add_tokenizer_sizes, positive, tokenizer_sizes, verb_parser
from .core.paths import FILE, FOLDER, check_output
from .core.shards import add_shard, my_shard, refuse_partial
from .core.text import say


def main(argv: list[str]) -> int:
    """Parses the options and does the conversion that SRC and DST ask for; returns the exit code."""
    parser = verb_parser("pretokenize", __doc__)
    parser.add_argument("source", metavar="SRC", help='images, "digits", a .jsonl file or shards')
    parser.add_argument(
        "target",
        metavar="DST",
        type=Path,
        help="folder for the shards, or a .jsonl file; .json for the statistics of latents",
    )
    parser.add_argument("--tokenizer", help="our checkpoint folder or a published file; needed for images")
    parser.add_argument(
        "--weights",
        choices=("ema", "model"),
        default="ema",
        help="which of its weights: their moving average, or the last (default ema)",
    )
    add_tokenizer_sizes(parser)
    parser.add_argument(
        "--augment",
        choices=("none", "flip", "tencrop"),
        default="none",
        help="views of an image: itself, mirrored too, or ten crops (default none)",
    )
    parser.add_argument("--batch_size", type=positive, default=64, help="images at a time (default 64)")
    add_device(parser)
    parser.add_argument("--codebook_size", type=positive, help="number of codes; needed for .jsonl")
    parser.add_argument("--num_classes", type=positive, help="number of classes; needed for .jsonl")
    add_shard(parser, "shards of images")
    options = parser.parse_args(argv)
    check_device_name(options.device)
    imported = options.source.endswith(".jsonl")
    one_file = options.target.suffix in (".jsonl", ".json") and not imported
    check_output(
        "DST",
        options.target,
        {"SRC": options.source, "--tokenizer": options.tokenizer},
        kind=FILE if one_file else FOLDER,
    )
    if imported:
        return _import(options)
    if options.target.suffix == ".jsonl":
        return _export(options)
    if options.target.suffix == ".json":
        return _statistics(options)
    return _tokenize(options)


def _size(rows) -> str:
    """Shards in words: 1000 sequences of 256 tokens (of 64 x 2 where there are two codebooks), of 128 x 32 latents."""
    return f"{len(rows)} sequences of {' x '.join(map(str, rows.rows.shape[1:]))} {rows.array}"


def _import(options: argparse.Namespace) -> int:
    from .data.jsonl import import_jsonl

    if options.codebook_size is None or options.num_classes is None:
        raise UserError(
            f"{options.source}: a .jsonl file does not say its sizes; add --codebook_size and --num_classes"
        )
    tokens, problems = import_jsonl(
        options.source, options.target, codebook_size=options.codebook_size, num_classes=options.num_classes
    )
    for problem in problems[:10]:
        say(f"{options.source}: left out {problem}", sys.stderr)
    more = f"; {len(problems)} lines left out" if problems else ""
    say(f"{options.target}: {_size(tokens)}{more}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from .data.jsonl import export_jsonl
    from .data.tokens import open_tokens

    tokens = open_tokens(options.source)
    export_jsonl(tokens, options.target)
    say(f"{options.target}: {len(tokens)} lines")
    return 0


def _statistics(options: argparse.Namespace) -> int:
    from .core.files import write_json
    from .data.latents import open_latents

    latents = open_latents(options.source)
    write_json(options.target, latents.statistics())
    say(f"{options.target}: mean and standard deviation of {len(latents.mean)} channels over {_size(latents)}")
    return 0


def _tokenize(options: argparse.Namespace) -> int:
    from .config import DataConfig
    from .core import distributed
    from .core.device import resolve_device
    from .data.digits import means_digits
    from .data.images import open_images
    from .data.rows import is_row_folder
    from .data.tokenization import EncodedImages
    from .models.load import load_tokenizer

    if is_row_folder(options.source):
        raise UserError(
            f"{options.source} holds shards already; name a DST that ends in .jsonl to write out tokens, or in "
            ".json to write out the statistics of latents"
        )
    if options.tokenizer is None:
        raise UserError("--tokenizer is missing: images need one, a checkpoint folder of ours or a published file")
    device = resolve_device(options.device)
    distributed.start(device)
    tokenizer = load_tokenizer(options.tokenizer, options.weights, **tokenizer_sizes(options))
    root = None if means_digits(options.source) else options.source
    images = open_images(DataConfig(root=root, val=0, test=0), tokenizer.image_size)
    work = EncodedImages(tokenizer.eval().to(device), images.all, options.target, augment=options.augment)
    shard = my_shard(options)
    opened = work.run_on_all_processes(options.batch_size, shard)
    if opened is not None:
        say(f"{options.target}: {_size(opened)}")
    elif distributed.is_main():
        refuse_partial(shard, work.missing(), str(options.target))
    return 0


if __name__ == "__main__":
    sys.exit(run_verb(main))
