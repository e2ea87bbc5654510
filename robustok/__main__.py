"""The command `robustok VERB ...`, which is `python -m robustok.VERB ...`; `robustok --help` lists the verbs."""

import sys
from argparse import ArgumentParser
from importlib import import_module

from .core import completion
from .core.cli import run_verb
from .core.errors import UserError
from .core.version import __version__

VERBS = {
    "train": "train tokenizer and generator, post-train the decoder, evaluate: the whole job, or a stage of it",
    "sample": "make images with a generator, any number, and compare them with a reference",
    "evaluate": "figures of images, tokenizers, generators and decoders: FID, rFID, pFID, gFID and others",
    "explain": "why a tokenizer scores as it does: codebook usage, perturbed strips, MMD, elbow, correlation",
    "study": "runs that differ in named settings, and what their figures say together",
    "pretokenize": "images to shards of tokens or latents, and shards to lines of JSON and back",
    "fetch_data": "a data set to try things on, fetched once",
    "convert": "checkpoints to our folders, or back to the published layout",
    "check_data": "what is in a data set, and what is wrong with it",
    "doctor": "what this machine can do, or what a tokenizer's file holds",
}


def main() -> int:
    """Runs the verb that the command line names; returns its exit code."""
    if completion.is_asked():
        _complete()
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in VERBS:
        sys.argv = [f"robustok {verb}", *rest]  # for a verb that repeats how it was called
        return run_verb(import_module(f"robustok.{verb}").main)
    return run_verb(_without_verb, [verb])


def _complete() -> None:
    """Answers the shell and ends the process: by the parser of the verb, else by one of all verbs."""
    if (verb := completion.verb_asked_about(VERBS)) is not None:
        import_module(f"robustok.{verb}").main([])
    parser = ArgumentParser("robustok")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("verb", choices=VERBS)
    completion.answer(parser)


def _without_verb(argv: list[str]) -> None:
    given = argv[0] if argv else "--help"
    if given == "--version":
        print(f"robustok {__version__}")
    elif given in ("--help", "-h"):
        lines = [f"  {verb:12}{line}" for verb, line in VERBS.items()]
        print("\n".join(["robustok VERB [options]; robustok VERB --help describes a verb", "", *lines]))
        print("\nrobustok --version says which version this is")
    else:
        raise UserError(f"found {given!r}, expected a verb ({', '.join(VERBS)}), --help or --version")


if __name__ == "__main__":
    sys.exit(main())
