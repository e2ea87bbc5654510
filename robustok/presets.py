"""Where the YAML files of configs/ are: beside this package in a source tree, inside it in an installed wheel."""

from pathlib import Path

from .core.errors import UserError

_here = Path(__file__).parent
FOLDER = _here / "configs" if (_here / "configs").is_dir() else _here.parent / "configs"


def preset_path(name: str) -> Path:
    """The file of the preset `name` (digits, robustok-b, rar-b, ...). Raises UserError with the list of presets."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no preset {name!r}; there are: {', '.join(sorted(p.stem for p in FOLDER.glob('*.yaml')))}")
    return path
