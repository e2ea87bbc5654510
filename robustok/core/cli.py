"""What every verb does the same way: settings from YAML and dotted options; one message and an exit code on failure."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass

from ..config import RunConfig
from .errors import RunError, UserError


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a verb: exit code 0, 2 for a user's mistake, 1 for a failure, 130 after Ctrl-C. --debug shows tracebacks."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return main([argument for argument in argv if argument != "--debug"]) or 0
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130
    except (UserError, RunError, OSError) as error:
        if debug:
            raise
        print(f"robustok: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def run_config_parser(prog: str, default_config: str | None = None):
    """A parser of RunConfig: `--config FILE`, dotted overrides, `--print_config`, and `--compile` as a flag."""
    from jsonargparse import ActionYesNo, ArgumentParser

    parser = ArgumentParser(
        prog=prog, exit_on_error=False, default_config_files=[default_config] if default_config else []
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
    parser.add_class_arguments(RunConfig, skip={"compile"})
    parser.add_argument("--compile", action=ActionYesNo, default=False, help="compile the models with torch.compile")
    return parser


def parse_run_config(parser, argv: list[str]):
    """(RunConfig, the parser's other arguments) of `argv`; an unknown key is refused with the nearest valid one."""
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(argv)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(_explain(str(error))) from None
    names = {f.name for f in fields(RunConfig)}
    values = vars(parser.instantiate(parsed) if hasattr(parser, "instantiate") else parser.instantiate_classes(parsed))
    config = RunConfig(**{name: value for name, value in values.items() if name in names})
    return config, {name: value for name, value in values.items() if name not in names}


def setting_names(config: type = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted setting of a config dataclass: name, data.root, tokenizer.codebook_size, ..."""
    names = []
    for f in fields(config):
        default = f.default_factory() if callable(f.default_factory) else f.default
        names += setting_names(type(default), f"{prefix}{f.name}.") if is_dataclass(default) else [prefix + f.name]
    return names


def _explain(message: str) -> str:
    """jsonargparse's message, with the nearest valid setting where it complains about an unknown one."""
    option = re.search(r"unrecognized arguments: --(?:no_)?([\w.]+)", message)
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    top = re.search(r"(?:Option|Key) ['\"]([\w.]+)['\"] is not (?:accepted|expected)", message)
    if option:
        found = option[1]
    elif group:
        found = f"{group[1]}.{group[2]}"
    elif top:
        found = top[1]
    else:
        return message
    near = difflib.get_close_matches(found, setting_names(), n=1, cutoff=0.4)
    hint = f"the nearest valid setting is '{near[0]}'" if near else "--print_config lists the valid ones"
    return f"unknown setting '{found}': {hint}"
