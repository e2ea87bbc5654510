"""Imports run one way, files stay readable, and no two classes of the package share a name."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "robustok"
VERBS = (
    *("train", "pretokenize", "sample", "evaluate", "explain", "study"),
    *("check_data", "fetch_data", "convert", "doctor"),
)
# A room may import itself and the rooms named here.
BELOW = {
    "core": (),
    "model_configs": ("core",),
    "training_configs": ("core",),
    "config": ("core", "model_configs", "training_configs"),
    "kernels": (),  # and `_C` and `_cuda`, the compiled extensions
    "ops": ("core", "kernels", "_C", "_cuda"),
    "presets": ("core", "config"),
    "checkpoints": ("core", "config"),
    "formats": ("core", "config", "model_configs", "checkpoints"),
    "samplers": ("core", "ops"),
}
BELOW["models"] = ("core", "config", "model_configs", "ops", "checkpoints", "formats", "samplers")
BELOW["data"] = (*BELOW["models"], "models")
BELOW["training"] = (*BELOW["data"], "data")
BELOW["evaluation"] = (*BELOW["data"], "data", "kernels")
BELOW["generation"] = (*BELOW["evaluation"], "evaluation")
BELOW["report"] = (*BELOW["generation"], "generation")
BELOW["job"] = (*BELOW["report"], "training", "report", "presets")
BELOW["benchmark"] = (*BELOW["report"], "report", "presets")
BELOW["recipes"] = BELOW["benchmark"]
BELOW["studies"] = (*BELOW["job"], "job", "recipes")
BELOW |= dict.fromkeys(VERBS, (*BELOW["job"], "job", "benchmark", "recipes", "studies"))
BELOW["__main__"] = ("core",)  # and the verb that is named
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """robustok.core.files -> core; robustok itself -> the empty name."""
    return ".".join(module.split(".")[1:2])


def imports(path: Path):
    """The full name of every module of our own that a file imports, also inside a function or for annotations alone."""
    package = ["robustok", *path.relative_to(PACKAGE).with_suffix("").parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("robustok."))
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *([node.module] if node.module else [])])
        else:
            module = node.module
        if module.split(".")[0] != "robustok":
            continue
        if module == "robustok":
            yield from (f"robustok.{alias.name}" for alias in node.names)
        else:
            yield module


def test_imports_run_one_way():
    wrong = []
    for path in SOURCES:
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue  # the public names, from every room
        for module in imports(path):
            if (target := room_of(module)) != room and target not in BELOW[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_circles_between_files():
    """No file imports itself through others, not even for annotations or inside a function."""
    names = {".".join(("robustok", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in SOURCES}
    graph = {name: {m for m in imports(path) if m in names and m != name} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("folder", ["kernels", "csrc"])
def test_kernels_know_nothing_of_the_package(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not list(imports_absolute(path)), path


def imports_absolute(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from (name for name in names if name.split(".")[0] == "robustok")


def test_no_file_is_over_300_lines():
    folders = ("robustok", "kernels", "csrc", "bench", "tests")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cpp", ".cu", ".h")
    ]
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 300}
    assert not long


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for path in [*SOURCES, *(ROOT / "kernels").glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert not {name: where for name, where in places.items() if len(where) > 1}
