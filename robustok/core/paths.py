"""Paths from outside: what stands there is looked at before anything is opened for reading, or made for writing."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from .errors import UserError

FILE, FOLDER, NOTHING = "is a file", "is a folder", "does not exist"
_OTHERS = {stat.S_IFIFO: "is a named pipe", stat.S_IFSOCK: "is a socket"}


def found_at(path: str | Path) -> str:
    """What stands at `path`, which nothing opens, once its links are followed: FILE, FOLDER, NOTHING or another
    sentence of which the path is the subject.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except ValueError:
        return "holds a zero byte, so that it names nothing"
    except FileNotFoundError:
        return "is a broken link" if os.path.islink(path) else NOTHING
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    return {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, **_OTHERS}.get(kind, "is a device")


def given_path(path: str | Path) -> Path:
    """A path as users write it, with the home folder in the place of ~. Raises UserError where it is empty."""
    if not str(path):
        raise UserError("found an empty text in the place of a path; give the path (a variable may be empty)")
    return Path(os.path.expanduser(path))


def regular_file(path: str | Path, expected: str = "a file") -> Path:
    """The `given_path` of a file that is to be read. What comes from outside goes through here before it is opened.

    Raises UserError, saying what was `expected`, for anything but a readable regular file or links to one: a pipe or a
    device may keep its reader waiting for ever, or never end.
    """
    return _readable(given_path(path), FILE, expected)


def readable_folder(path: str | Path, expected: str = "a folder") -> Path:
    """The `given_path` of a folder whose content is to be read. Raises UserError for anything else."""
    return _readable(given_path(path), FOLDER, expected)


def _readable(path: Path, kind: str, expected: str) -> Path:
    if (found := found_at(path)) != kind:
        raise UserError(f"{path} {found}; expected {expected}")
    if not os.access(path, os.R_OK if kind == FILE else os.R_OK | os.X_OK):
        raise UserError(f"{path} may not be read by this user; change its permissions")
    return path


def check_output(
    option: str, output: str | Path, inputs: Mapping[str, str | Path | None] | None = None, *, kind: str = FOLDER
) -> None:
    """Raises UserError where what `option` writes cannot be written, or would spoil data that are read. Called before
    any work, as a path that is wrong would lose what the work found.

    kind: FILE or FOLDER, what is written.
    inputs: the path of each option or setting that names data; what is None or not there is passed over. A folder must
        not hold the output, which would be taken for data the next time; a file must not be replaced by it.
    """
    path = given_path(output)
    if (found := found_at(path)) not in (kind, NOTHING):
        raise UserError(f"{option}: {output} {found}; expected {'the name of a file' if kind == FILE else 'a folder'}")
    for name, read in (inputs or {}).items():
        source = None if read is None else Path(os.path.expanduser(read))
        if source is None or found_at(source) not in (FILE, FOLDER):
            continue
        if found == FILE and path.samefile(source):
            raise UserError(f"{option}: {output} would replace {name} = {read}; give another {option}")
        if source.is_dir() and path.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"{option}: {output} would lie inside {name} = {read}, and be taken for data the next time; give "
                f"another {option}, or point {name} at a folder that holds the data alone"
            )
    above = path if found == FOLDER else next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        with TemporaryFile(dir=above):  # permissions alone say too little: of file systems, quotas, other users
            pass
    except OSError as error:
        raise UserError(
            f"{option}: {output} cannot be written: nothing can be made in {above} ({error.strerror}); give another"
            f" {option}"
        ) from error
