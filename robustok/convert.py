"""Converts checkpoints: python -m robustok.convert SRC DST [--to upstream] [--num_heads N] [--teacher FILE]

    python -m robustok.convert main-train.pt robustok-b           a released tokenizer as a folder of safetensors
    python -m robustok.convert rar_b.bin rar-b                    a released generator
    python -m robustok.convert robustok-b out.pt --to upstream    a checkpoint that the authors' code loads

The layout of SRC is recognised by what it holds. A converted folder opens faster, is safe to pass on, and keeps the
frozen teacher and the discriminator of a released tokenizer.
"""

import io
import sys
from pathlib import Path

import torch

from .checkpoints.checkpoint import Checkpoint, write_checkpoint
from .core.cli import run_verb
from .core.errors import RunError, UserError
from .core.files import written_whole
from .core.options import add_tokenizer_sizes, positive, tokenizer_sizes, verb_parser
from .core.paths import NOTHING, check_output, found_at
from .core.text import say
from .formats.layout import HubFolder
from .model_configs import TokenizerConfig
from .models.frozen.dino import load_teacher
from .models.load import check_weights, locate, open_checkpoint
from .models.registry import Family, family_of

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")  # of files of weights


def main(argv: list[str]) -> int:
    """Parses the options and converts; returns the exit code."""
    parser = verb_parser("convert", __doc__)
    parser.add_argument("source", type=Path, metavar="SRC", help="checkpoint of any known layout, or hub id")
    parser.add_argument(
        "target",
        type=Path,
        metavar="DST",
        help="folder (ours), or what upstream opens: a file or a hub's folder",
    )
    parser.add_argument("--to", choices=("ours", "upstream"), default="ours", help="layout to write (default ours)")
    add_tokenizer_sizes(parser)
    parser.add_argument("--num_tokens", type=positive, help="tokens an image of a published generator, if SRC has none")
    parser.add_argument("--teacher", type=Path, help="DINOv2 weights for --to upstream, where SRC holds none")
    options = parser.parse_args(argv)
    if (found := found_at(options.target)) != NOTHING:
        raise UserError(f"DST: {options.target} {found} already; choose another name or remove it")
    check_output("DST", options.target, {"SRC": options.source})
    if options.to == "ours" and options.target.suffix in SUFFIXES:
        raise UserError(
            f"DST: found {options.target}, the name of a file, but our checkpoints are folders; give the name of one, "
            "or --to upstream, which writes a file"
        )
    given = tokenizer_sizes(options) | {"num_tokens": options.num_tokens}
    checkpoint = open_checkpoint(locate(options.source), **given)
    check_weights(checkpoint)
    family = family_of(checkpoint.config)
    if options.to == "ours":
        write_checkpoint(checkpoint, family.kind, options.target)
    else:
        if options.teacher is not None:
            if not isinstance(checkpoint.config, TokenizerConfig):
                raise UserError(f"--teacher: {checkpoint.path} is a {family.kind}, whose published layout holds none")
            checkpoint.teacher = load_teacher(options.teacher, checkpoint.config).vit.state_dict()
        _write_upstream(checkpoint, family, options.target)
    say(f"{checkpoint.path}: {checkpoint.layout}\nwritten: {options.target}")
    return 0


def _write_upstream(checkpoint: Checkpoint, family: Family, path: Path) -> None:
    """Writes a file or a folder in the first published layout of the family that holds such a model."""
    layout = next((layout for layout in family.layouts if layout.holds(checkpoint.config)), None)
    if layout is None:
        raise UserError(f"{checkpoint.path} is a {family.kind}, of which no published layout is known that holds it")
    content = layout.write(checkpoint)
    try:
        with written_whole(path) as temporary:
            if isinstance(content, HubFolder):
                content.save(temporary)
            else:
                torch.save(content, buffer := io.BytesIO())  # torch's own writing does not say that a disk is full
                temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise RunError(f"could not write {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(run_verb(main))
