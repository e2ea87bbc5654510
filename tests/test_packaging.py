"""The sources as they travel; the wheel built of them without a compiler, in an empty folder and run from elsewhere."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
import torch, robustok, robustok.kernels.rows
from robustok.ops import describe_backends
z, codebook = torch.randn(2, 5, 4), torch.randn(9, 4)
robustok.vq_quantize(z, codebook, alpha=1.0, beta=1.0, delta=3, seed=0)
print(robustok.__file__)
print(robustok.kernels.rows.__file__)
print(describe_backends("cpu"))
"""


def run(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    build = ("egg_info", "--egg-base", folder, "sdist", "--formats", "tar", "--dist-dir", folder)
    run(sys.executable, "setup.py", "-q", *build, cwd=ROOT)
    (archive,) = folder.glob("*.tar")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar")


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory) -> Path:
    """A folder that holds nothing but the wheel's content, built of those sources where CXX and CC lead nowhere."""
    folder = tmp_path_factory.mktemp("wheel")
    nowhere = {**os.environ, "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++", "ROBUSTOK_CUDA": "0"}
    build = ("bdist_wheel", "--dist-dir", folder, "--bdist-dir", folder / "bdist")
    run(sys.executable, "setup.py", "-q", "build", "--build-base", folder / "build", *build, cwd=source, env=nowhere)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_wheel_holds_the_package_and_the_kernels_and_nothing_else(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"robustok"}
    assert {path.name for path in (ROOT / "kernels").glob("*.py")} <= {
        path.name for path in (installed / "robustok" / "kernels").iterdir()
    }
    assert not list(installed.rglob("*.so"))  # no compiler, no extension, and still a wheel


def test_wheel_has_the_version_that_the_package_says(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    said = run(sys.executable, "-S", "-c", "import robustok; print(robustok.__version__)", cwd="/", env=environment)
    assert f"Version: {said}" in metadata.read_text()


def test_importing_the_package_imports_no_library():
    """Whoever asks for no public name, as `--help` of a verb, waits for none."""
    script = "import sys; before = set(sys.modules); import robustok; print(*sorted(set(sys.modules) - before))"
    loaded = run(sys.executable, "-S", "-c", script, cwd=ROOT).split()
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {"robustok"}


# Imported under another name.
MODULES = {"pyyaml": "yaml", "pillow": "PIL", "pillow-heif": "pillow_heif", "scikit-learn": "sklearn"}


def modules_of(requirements: list[str]) -> set[str]:
    """The names under which distributions are imported."""
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imports(tree: ast.Module) -> set[tuple[str, bool]]:
    """(top-level module, whether it is imported when the file is) of every absolute import."""
    found = set()

    def visit(node: ast.AST, at_once: bool) -> None:
        if isinstance(node, ast.Import):
            found.update((alias.name.partition(".")[0], at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module.partition(".")[0], at_once))
        for child in ast.iter_child_nodes(node):
            visit(child, at_once and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(tree, True)
    return found


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {*sys.stdlib_module_names, *modules_of(project["dependencies"]), "robustok"}
    needed.add("triton")  # torch brings it
    extras = project["optional-dependencies"]
    brought = ("completion", "flash", "heic", "hub", "lora", "parquet", "wandb")
    optional = modules_of([requirement for name in brought for requirement in extras[name]])
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("robustok", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        for name, at_once in imports(ast.parse(path.read_text()))
        if name not in needed and (at_once or name not in optional)
    }
    assert not undeclared


def test_wheel_runs_from_elsewhere_without_a_compiler(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_paths()["purelib"]])}
    lines = run(sys.executable, "-S", "-c", PROBE, cwd=tmp_path, env=environment).splitlines()
    assert lines[0] == str(installed / "robustok" / "__init__.py")
    assert lines[1] == str(installed / "robustok" / "kernels" / "rows.py")
    assert lines[2] == "torch: taken for cpu tensors"
    assert any(line.startswith("cpp: the compiled extension is not there") for line in lines)


def test_wheel_brings_its_presets(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_paths()["purelib"]])}
    train = (sys.executable, "-S", "-m", "robustok.train")
    assert "1297 images to train on" in run(*train, "--dry_run", cwd=tmp_path, env=environment)
    based = installed / "robustok" / "configs" / "rar-b.yaml"  # holds only what differs from robustok-b
    printed = run(*train, "--config", based, "--print_config", cwd=tmp_path, env=environment)
    assert "codebook_size: 4096" in printed


def files_of(folder: Path) -> set[str]:
    """What lies in a folder and was not compiled."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".so", ".pyc"))
    return {str(path.relative_to(folder)) for path in paths}


@pytest.mark.parametrize("folder", ["robustok", "kernels", "configs", "csrc"])
def test_every_file_travels_with_the_sources_and_the_wheel(folder, source, installed):
    files = files_of(ROOT / folder)
    assert files and files <= files_of(source / folder)
    if folder != "csrc":
        place = installed / "robustok"
        assert files <= files_of(place if folder == "robustok" else place / folder)
