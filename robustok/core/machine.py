"""Where figures were found: the machine, the versions, and the commit."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from .version import __version__


def described_machine() -> dict[str, str]:
    """Date, commit, CPU, and versions of what computes, by name."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "CPU": f"{cpu_name()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {version_of(name)}" for name in ("torch", "triton", "numpy")),
        "Python": platform.python_version(),
    }


def commit() -> str:
    """Of the source tree that this runs from; the package's version where it is none, or git is missing."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return f"robustok {__version__}"
    try:
        found = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:
        return f"robustok {__version__}"
    return found.stdout.strip() or f"robustok {__version__}"


def version_of(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
