"""Data sets to try things on, fetched once: python -m robustok.fetch_data emoji [--archive TARBALL] [--output FOLDER]

emoji: 3,786 Noto emoji of 64 x 64 pixels in ten categories, on white. They come in an npm package, which npm fetches;
or give its tarball, as `npm pack emoji-datasource-google@16.0.0` writes it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .core.cli import run_verb
from .core.errors import UserError
from .core.options import verb_parser
from .core.paths import FOLDER, check_output, found_at, given_path
from .core.text import say
from .data.emoji import LICENCES, PACKAGE, write_emoji


def main(argv: list[str]) -> int:
    """Writes the data set into a folder; returns the exit code."""
    parser = verb_parser("fetch_data", __doc__)
    parser.add_argument("name", metavar="NAME", choices=["emoji"], help="the data set: emoji")
    parser.add_argument("--archive", type=Path, help="the package's tarball (default: fetched by npm)")
    parser.add_argument(
        "--output", type=given_path, default=Path("data/emoji"), help="folder to write (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if found_at(options.output) == FOLDER:
        if not (options.output / LICENCES).is_file():
            raise UserError(f"--output: {options.output} is a folder already, and holds no emoji; choose another name")
        say(f"{options.output} is there; remove it to write it again")
        return 0
    check_output("--output", options.output, {"--archive": options.archive})
    with tempfile.TemporaryDirectory() as folder:
        count = write_emoji(options.archive or _fetched(Path(folder)), options.output)
    say(f"{options.output}: {count} images; python -m robustok.train --data.root {options.output} trains on them")
    return 0


def _fetched(folder: Path) -> Path:
    """The package's tarball, which npm puts into the folder."""
    cure = f"get the tarball elsewhere (npm pack {PACKAGE}) and give it as --archive"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which fetches {PACKAGE}, is not installed; install it, or {cure}")
    done = subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        said = " ".join(done.stderr.split()) or "no message"
        raise UserError(f"npm pack {PACKAGE} failed ({said:.500}); {cure}")
    return found[0]


if __name__ == "__main__":
    sys.exit(run_verb(main))
