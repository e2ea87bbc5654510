"""Prints the configuration reference: every setting of a run with what it may be, default and meaning, off the
dataclasses.

    python docs/configuration.py > docs/configuration.md

What a setting may be and means stands beside it in robustok/config.py, training_configs.py and model_configs.py.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import get_type_hints

from robustok.config import RunConfig
from robustok.core.settings import expected

HEAD = """# Configuration

Every setting of `python -m robustok.train`: a line of a YAML file (`--config FILE`), or an option
(`--perturbation.alpha 0.9`). Presets are in `configs/`; `--print_config` shows what a run would take.
`None` is written `null`; where the meaning says nothing else, a setting that is `None` is decided from the images and
the device, which is said with the reason. Lengths are in epochs, batch sizes count images over all processes, learning
rates are absolute.
"""
TABLE = "| setting | what it may be | default | meaning |\n|---|---|---|---|"


def main() -> None:
    """Prints the page."""
    print(HEAD)
    print("\n".join(page()))


def page() -> Iterator[str]:
    """The lines of the page, the settings without a section first."""
    sections = [f for f in fields(RunConfig) if f.default_factory is not MISSING]
    yield from section("run", RunConfig, "")
    for f in sections:
        yield from section(f.name, f.default_factory, f"{f.name}.")


def section(title: str, config: type, prefix: str) -> Iterator[str]:
    """Heading, docstring and table of one dataclass."""
    yield f"## {title}\n\n{inspect.cleandoc(config.__doc__)}\n\n{TABLE}"
    said, hints = comments(config), get_type_hints(config)
    for f in fields(config):
        if f.default_factory is not MISSING and is_dataclass(f.default_factory):
            continue  # a section of its own
        cells = (f"`{prefix}{f.name}`", expected(f, hints[f.name]), f"`{f.default!r}`", said.get(f.name, ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def comments(config: type) -> dict[str, str]:
    """What is written beside each field of a dataclass, and on lines of its own above it."""
    found = {}
    for owner in reversed(config.__mro__[:-1]):
        source = inspect.cleandoc(inspect.getsource(owner))
        lines = source.splitlines()
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                first = node.lineno - 1
                while lines[first - 1].lstrip().startswith("#"):
                    first -= 1
                parts = (line.partition("# ")[2].strip() for line in lines[first : node.end_lineno])
                found[node.target.id] = " ".join(part for part in parts if part)
    return found


if __name__ == "__main__":
    main()
