"""core stands below every other room."""

import ast
from pathlib import Path

from robustok import core


def test_core_imports_nothing_above_it():
    found = set()
    for path in Path(core.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level > 1 or (node.module or "").startswith("robustok")):
                found.add(f"{path.name} line {node.lineno}")
            if isinstance(node, ast.Import) and any(alias.name.startswith("robustok") for alias in node.names):
                found.add(f"{path.name} line {node.lineno}")
    assert not found
