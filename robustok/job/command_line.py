"""The settings of a run from YAML files and dotted options, under present and former names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

import yaml

from ..config import RunConfig
from ..core.errors import UserError
from ..core.setting_names import RENAMED
from ..core.settings import check_config, expected, walk
from ..data.digits import means_digits
from ..presets import read_settings, say_renamed


def run_config_parser(prog: str, default_config: str | None = None):
    """A parser of RunConfig: `--config FILE`, dotted overrides, `--print_config`, and `--compile` as a flag.

    `default_config`: the YAML file whose settings hold where no option says otherwise.
    """
    from jsonargparse import ActionYesNo, ArgumentParser

    defaults = None if default_config is None else f"Defaults are those of {default_config}."
    parser = ArgumentParser(prog=prog, description=defaults, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; options override it")
    parser.add_class_arguments(RunConfig, skip={"compile"})
    parser.add_argument("--compile", action=ActionYesNo, default=False, help="compile the models with torch.compile")
    if default_config is not None:
        settings, names = vars(parser.parse_object(read_settings(default_config)).as_flat()), set(setting_names())
        parser.set_defaults({name: value for name, value in settings.items() if name in names})
    return parser


def parse_run_config(parser, argv: list[str]):
    """(RunConfig, the parser's other arguments) of `argv`; an unknown key is refused with the nearest valid one, and a
    setting that is not what its field says with what that is, and with the file that it stands in.
    """
    argv, files = _read_config_files(_with_new_names(argv))
    try:
        return _parsed(parser, argv)
    except UserError:
        for path, text in files.items():
            try:
                _parsed(parser, ["--config", text])
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
        raise


def _parsed(parser, argv: list[str]):
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(argv)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(_explain(str(error))) from None
    names = {f.name for f in fields(RunConfig)}
    values = vars(parser.instantiate(parsed) if hasattr(parser, "instantiate") else parser.instantiate_classes(parsed))
    config = RunConfig(**{name: value for name, value in values.items() if name in names})
    if config.data.root is not None and means_digits(config.data.root):
        config = replace(config, data=replace(config.data, root=None))
    check_config(config)
    return config, {name: value for name, value in values.items() if name not in names}


def setting_names(config: type = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted setting of a config dataclass: name, data.root, tokenizer.codebook_size, ..."""
    names = []
    for f in fields(config):
        default = f.default_factory() if callable(f.default_factory) else f.default
        names += setting_names(type(default), f"{prefix}{f.name}.") if is_dataclass(default) else [prefix + f.name]
    return names


def _with_new_names(argv: list[str]) -> list[str]:
    """The arguments with options of former names replaced, and a line for each that says so."""
    renamed = []
    for argument in argv:
        option, equals, value = argument.partition("=")
        old = option.removeprefix("--")
        if option.startswith("--") and old in RENAMED:
            say_renamed(option, old)
            argument = f"--{RENAMED[old]}{equals}{value}"
        renamed.append(argument)
    return renamed


def _read_config_files(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments with each FILE of --config replaced by its settings, which `read_settings` completes, and these
    settings by file. Files come first, so that options override them wherever they stand.
    """
    options, files, given = [], {}, iter(argv)
    for argument in given:
        option, _, path = argument.partition("=")
        if argument == "--config":
            path = next(given, "")
        if option == "--config" and path:
            files[path] = _settings_text(path)
        else:
            options.append(argument)
    return [*(part for text in files.values() for part in ("--config", text)), *options], files


def _settings_text(path: str) -> str:
    """The settings of a file, completed, as YAML. Raises UserError for a section that holds no settings."""
    settings = read_settings(path)
    sections = {name.partition(".")[0] for name in setting_names() if "." in name}
    for name in sections & settings.keys():
        if not isinstance(settings[name], Mapping):
            found = settings[name]
            raise UserError(
                f"{path}: {name}: found {found!r}, expected a section of settings, a line `name: value` each"
            )
    return yaml.safe_dump(settings)


def _explain(message: str) -> str:
    """jsonargparse's message in our words: what a setting may be, or the nearest valid one to an unknown one."""
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
        return _explain_value(message)
    near = difflib.get_close_matches(found, setting_names(), n=1, cutoff=0.5)
    hint = f"the nearest valid setting is '{near[0]}'" if near else "--print_config lists the valid ones"
    return f"unknown setting '{found}': {hint}"


def _explain_value(message: str) -> str:
    """jsonargparse's message about a value of the wrong type, as `core.settings.check_config` would say it."""
    key = re.search(r"[Kk]ey \"([\w.]+)\"", message)
    value = re.search(r"(?:Got|Given) value: (.*)\Z", message, re.DOTALL)
    said = {name: expected(f, hint) for name, _, f, hint in walk(RunConfig)}
    if key is None or value is None or key[1] not in said:
        return message
    return f"{key[1]}: found {value[1]}, expected {said[key[1]]}"
