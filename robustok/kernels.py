"""`robustok.kernels` is the folder kernels/: beside this package in a source tree, inside it in an installed wheel.

A module with a `__path__` behaves as a package, so `robustok.kernels.nearest` works in both. kernels/ has no
`__init__.py` because a top-level package named `kernels` exists on the package index.
"""

from pathlib import Path

_here = Path(__file__).parent
_installed = _here / "kernels"
__path__ = [str(_installed if _installed.is_dir() else _here.parent / "kernels")]
