"""Command-line options that several verbs share, declared once.

What belongs to the rooms above (settings of a preset, the list of networks) is passed in.
"""

from argparse import (
    SUPPRESS,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import completion
from .errors import UserError
from .random import MAX_SEED
from .sizes import Size, as_size
from .text import printable

MOST = (1 << 31) - 1  # of anything that is counted: what is beyond it was never meant
MOST_SIDE = 10_000  # pixels: 100 megapixels, as large as images may be that are read


class VerbParser(ArgumentParser):
    """A parser that says in one line what was wrong, without all options before it, and exits with 2."""

    def parse_args(self, args=None, namespace=None):
        completion.answer(self)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"robustok: {message} ({self.prog} --help describes the options)\n"))


def whole_number(text: str, least: int = 0, most: int | None = None) -> int:
    """A whole number of the command line. Raises ArgumentTypeError for anything else, and outside least..most."""
    expected = f"a whole number from {least}" + ("" if most is None else f" to {most}")
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}, expected {expected}") from None
    if number < least or (most is not None and number > most):
        raise ArgumentTypeError(f"found {text}, expected {expected}")
    return number


def positive(text: str) -> int:
    """A whole number from 1 to MOST."""
    return whole_number(text, 1, MOST)


def npz_name(text: str) -> Path:
    """A path that ends in .npz, by which a file of statistics is known when it is read."""
    if not text.endswith(".npz"):
        raise ArgumentTypeError(f"found {text!r}, expected a name that ends in .npz")
    return Path(text)


def image_size(text: str) -> Size:
    """Pixels of both sides of an image, "512", or "[384,256]" (height, width), as settings of a run are written."""
    if not text.startswith("["):
        return whole_number(text, 1, MOST_SIDE)
    parts = text[1:].removesuffix("]").split(",")
    if len(parts) != 2 or not text.endswith("]"):
        raise ArgumentTypeError(f"found {text!r}, expected pixels as 512, or as [384,256] (height, width)")
    return as_size(*(whole_number(part.strip(), 1, MOST_SIDE) for part in parts))


def seed_number(text: str) -> int:
    """A seed, from 0 to MAX_SEED."""
    return whole_number(text, 0, MAX_SEED)


def verb_parser(name: str, description: str | None) -> ArgumentParser:
    """The parser of `python -m robustok.NAME`; its help begins with `description`, laid out as it is written."""
    return VerbParser(
        f"robustok.{name}",
        description=description,
        epilog="--debug shows where in the code a failure came from.",
        formatter_class=RawDescriptionHelpFormatter,
    )


def add_device(parser: ArgumentParser) -> None:
    """--device, for `core.device.resolve_device`."""
    parser.add_argument(
        "--device",
        default="auto",
        help="where to compute: cpu, cuda (a GPU; under torchrun each process its own), cuda:N (the GPU of number N,"
        " from 0), or auto: a GPU where there is one (default auto)",
    )


def add_seed(parser: ArgumentParser, of: str) -> None:
    """--seed, a whole number; `of` says what is drawn with it."""
    again = "a whole number from 0, below 2**63; the same again gives the same (default 0)"
    parser.add_argument("--seed", type=seed_number, default=0, help=f"seed of {of}, {again}")


def add_output(parser: ArgumentParser, default: str, holds: str) -> None:
    """--output, a folder; `holds` says what is written there."""
    parser.add_argument("--output", default=default, help=f"folder for {holds} (default {default})")


def add_generator_sizes(parser: ArgumentParser) -> None:
    """--num_heads and --num_tokens, for `generator_sizes`."""
    of = "of the generator, needed where a published file does not hold it (default: what the file says)"
    parser.add_argument("--num_heads", type=positive, help=f"number of attention heads {of}")
    parser.add_argument("--num_tokens", type=positive, help=f"number of tokens an image {of}")


def generator_sizes(options: Namespace) -> dict[str, int | None]:
    """Those two as `load_generator` takes them."""
    return {"num_heads": options.num_heads, "num_tokens": options.num_tokens}


def add_tokenizer_sizes(parser: ArgumentParser, heads: str = "num_heads") -> None:
    """What a published file may not say of a tokenizer, for `tokenizer_sizes`: --image_size, --similarity and its
    heads, whose option a verb that opens a generator too gives another name.
    """
    of = "needed where a published file does not hold it (default: what the file says)"
    count = f"number of attention heads of the tokenizer, {of}"
    parser.add_argument(f"--{heads}", dest="tokenizer_heads", metavar="N", type=positive, help=count)
    at = "pixels of the tokenizer's images, as 512 or [384,256] (height, width) (default: what the file says)"
    parser.add_argument("--image_size", type=image_size, metavar="SIZE", help=at)
    parser.add_argument(
        "--similarity", choices=("l2", "cosine", "dot"), help=f"how latents and codes are compared, {of}"
    )


def tokenizer_sizes(options: Namespace) -> dict[str, Any]:
    """Those three as `load_tokenizer` takes them."""
    return {
        "num_heads": options.tokenizer_heads,
        "image_size": options.image_size,
        "similarity": options.similarity,
    }


def add_size(parser: ArgumentParser, of: str) -> None:
    """--size, what images are cut to; `of` says which."""
    about = f"resize and crop {of} to SIZE, as 256 or [384,256] (height, width) (default: as stored)"
    parser.add_argument("--size", type=image_size, metavar="SIZE", help=about)


def add_network(parser: ArgumentParser, networks: Collection[str], weights: str) -> None:
    """--network (one of `networks`), --weights (None where it is not given: `weights` for inception, said in the help)
    and --mode, which `choose_speed` sets where it is not given.
    """
    parser.add_argument(
        "--network",
        choices=networks,
        default="inception",
        help="the network whose features are compared; distances of inception's are called FID (default inception)",
    )
    parser.add_argument("--weights", help=f"file or folder of its weights (default, of inception alone: {weights})")
    parser.add_argument(
        "--mode",
        choices=("exact", "fast"),
        help="how inception is computed: exact, for published figures, or fast, to be compared with fast figures only"
        " (default exact)",
    )


PRECISIONS = ("float32", "bfloat16")
FAST_NETWORK = "inception"  # the network of features that has a fast mode


def add_fast(parser: ArgumentParser, tokenizer: bool = True, compiles: str = "the tokenizer") -> None:
    """--fast and, where there is a tokenizer, --tokenizer_precision and --compile, for `choose_speed`.

    compiles: what --compile compiles.
    """
    stands = "--mode fast"
    if tokenizer:
        stands += "; on a GPU also --compile, and bfloat16 for the tokenizer and a generator"
        parser.add_argument(
            "--tokenizer_precision",
            choices=PRECISIONS,
            help="in which the tokenizer computes; in bfloat16 it ends with an error where a decoded image is less than"
            " 40 dB (PSNR) from the one that float32 makes of the same latents (default float32)",
        )
        parser.add_argument(
            "--compile",
            action=BooleanOptionalAction,
            help=f"compile {compiles}: a minute or two first, then faster (default: not)",
        )
    about = f"faster, to be compared with fast figures only: {stands}; each but where it is given otherwise"
    parser.add_argument("--fast", action="store_true", help=about)


def choose_speed(options: Namespace, device: str, measured: bool = True) -> str:
    """Sets what --fast stands for, each option that a verb has and that was not given: to fast, or without --fast to
    exact. Returns how is computed, in words.

    device: the kind, "cuda" or "cpu". A CPU gets Inception's fast features alone: bfloat16 is slow on most, and
    compiling takes longer than it saves. --precision is that of a generator. measured: whether features are taken.
    Raises UserError for --mode fast of a network that has one mode.
    """
    fast, network = getattr(options, "fast", False), getattr(options, "network", None)
    if network not in (None, FAST_NETWORK) and options.mode == "fast":
        raise UserError(f"--mode fast: found --network {network}, which has one mode; expected {FAST_NETWORK}")
    on_gpu = fast and device == "cuda"
    precision = "bfloat16" if on_gpu else "float32"
    chosen = {"mode": "fast" if fast else "exact", "compile": on_gpu}
    chosen |= {"tokenizer_precision": precision, "precision": precision}
    for name, value in chosen.items():
        if getattr(options, name, value) is None:
            setattr(options, name, value)
    said = []
    if hasattr(options, "tokenizer_precision"):
        said += [f"tokenizer in {options.tokenizer_precision}" + (", compiled" if options.compile else "")]
    if measured and network == FAST_NETWORK:
        said += [f"{options.mode} features"]
    elif measured and network and fast:
        said += [f"features of {network}, which have no fast mode"]
    return "; ".join(said)


def _number_or_none(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}, expected a number, or none") from None


def _times_or_none(text: str) -> tuple[float, ...] | None:
    try:
        return None if text == "none" else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}, expected two times LOW,HIGH, or none") from None


Settings = Mapping[str, Any]  # sampling settings by name

# Setting -> what its text becomes, and what it means. Ranges are checked by the sampler.
_SAMPLING: dict[str, tuple[Callable[[str], Any], str]] = {
    "guidance_scale": (float, "strength of classifier-free guidance, from 0; 1 is no guidance"),
    "guidance_power": (
        _number_or_none,
        "how late guidance grows from 1 to its scale over the steps, above 0: the larger the later; none: guidance is"
        " constant",
    ),
    "temperature": (
        float,
        "divides the logits: below 1 draws likely tokens more often, above 1 less; 0: the likeliest",
    ),
    "top_k": (int, "draws only from the k likeliest tokens; 0: from all"),
    "top_p": (float, "draws only from the likeliest tokens that together have this probability, above 0; 1: from all"),
    "steps": (int, "steps from noise to latents, from 1; dopri5 chooses them itself"),
    "solver": (str, "how those steps are taken: euler, heun, dopri5 or sde"),
    "guidance_interval": (_times_or_none, "times LOW,HIGH of guidance, from 1 (noise) down to 0 (data); none: all"),
}
SAMPLING_NAMES = tuple(_SAMPLING)


def sampling_of(config: object) -> dict[str, Any]:
    """The sampling settings among the attributes of `config`, by name."""
    return {name: getattr(config, name) for name in _SAMPLING if hasattr(config, name)}


def add_sampling(parser: ArgumentParser, defaults: Mapping[str, Settings], first: str = "") -> None:
    """An option for each sampling setting in `defaults`, which are those of each kind of generator that may be sampled,
    by what it makes ("tokens", "latents"); `first` says in the help what is asked before them.

    An option that is not given is no attribute of what the parser returns: None is a value of its own.
    """
    for name in dict.fromkeys(name for settings in defaults.values() for name in settings):
        kind, meaning = _SAMPLING[name]
        values = {made: settings[name] for made, settings in defaults.items() if name in settings}
        only = f"for {next(iter(values))} only; " if len(values) < len(defaults) else ""
        said = ["none" if value is None else str(value) for value in values.values()]
        if len(values) > 1:
            said = [f"{value} for {made}" for made, value in zip(values, said, strict=True)]
        default = f"(default: {first}{', '.join(said)})"
        parser.add_argument(f"--{name}", type=kind, default=SUPPRESS, help=f"{only}{meaning} {default}")


def sampling_settings(options: Namespace, defaults: Settings) -> dict[str, Any]:
    """The sampling settings by name: those given as options, else those of `defaults`, which are the generator's.

    Raises UserError for an option that such a generator does not have.
    """
    wrong = [f"--{name}" for name in _SAMPLING if hasattr(options, name) and name not in defaults]
    if wrong:
        has = ", ".join(f"--{name}" for name in defaults)
        raise UserError(f"{', '.join(wrong)}: this generator is not sampled with that; it has {has}")
    return {name: getattr(options, name, default) for name, default in defaults.items()}
