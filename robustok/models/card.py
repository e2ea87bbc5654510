"""The model card that lies beside saved weights: README.md, with the facts that hubs read at its head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.source import WeightsSource
from ..core.nested import flattened

SPDX = re.compile(r"[A-Za-z0-9.+-]+")  # the name of a licence, as against a sentence about one
EVALUATED = "Distances (rfd, pfd, nfd, gfd) are {distance}: Fréchet distances in the features that this names."


def model_card(checkpoint: Checkpoint, kind: str) -> str:
    """The card of a checkpoint as Markdown: how it is loaded, its licence, shape, recipe and figures."""
    role = "generator" if hasattr(checkpoint.config, "num_classes") else "tokenizer"  # every generator has classes
    source, recipe = checkpoint.source, checkpoint.recipe
    head: dict[str, Any] = {"library_name": "robustok", "tags": ["robustok", f"image-{role}", kind]}
    if source is not None and source.licence is not None and SPDX.fullmatch(source.licence):
        head["license"] = source.licence.lower()
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# An image {role} of the family {kind}\n",
        "```python\n"
        f"from robustok import {role.capitalize()}\n\n"
        f'{role} = {role.capitalize()}.from_pretrained("FOLDER")  # or "owner/name" of a hub\n'
        "```\n",
        f"## Licence\n\n{_licence(source)}\n",
        f"## Shape\n\n{_table('setting', asdict(checkpoint.config))}",
        f"## Recipe\n\n{_recipe(recipe)}",
    ]
    if figures := recipe.get("figures"):
        about = recipe.get("evaluation", {})
        said = [EVALUATED.format(distance=about.get("distance", "unnamed")), *about.get("notes", [])]
        counts = about.get("images", {})
        said += [f"Images: {', '.join(f'{name} {count}' for name, count in counts.items())}."] if counts else []
        parts.append(f"## Figures\n\n{' '.join(said)}\n\n{_table('figure', figures)}")
    return "\n".join(parts)


def _licence(source: WeightsSource | None) -> str:
    if source is None:
        return "None is stated: the author of these weights says here under which one they may be used."
    where = f"The weights came from {source.repository} ({source.name}), "
    if source.licence is None:
        return f"{where}published without a licence: ask its authors before you pass them on."
    return f"{where}published under: {source.licence}."


def _recipe(recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return "Not known here: the weights are those of a published file, or were changed after they were loaded.\n"
    trained = f"Trained by `python -m robustok.train`, stage {recipe['stage']}, {recipe['step']} steps, with"
    return f"{trained}\n\n```yaml\n{yaml.safe_dump(recipe['settings'], sort_keys=False)}```\n"


def _table(name: str, values: Mapping[str, Any]) -> str:
    rows = (f"| {key} | {_shown(value)} |\n" for key, value in flattened(values))
    return f"| {name} | value |\n|---|---|\n{''.join(rows)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
