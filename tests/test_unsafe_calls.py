"""Nothing in the package loads or runs what a file holds as code; the rules are shown to see what they forbid."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "robustok").rglob("*.py"), *(ROOT / "kernels").glob("*.py"), ROOT / "setup.py"])
# What runs code, however it is called. pickle.Unpickler is only derived from, for the allow-list of formats/pickles.py.
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "dill.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("yaml.FullLoader", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("eval", "exec", "__import__", "builtins.eval", "builtins.exec", "runpy.run_path"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("tempfile.mktemp", "webdataset.WebDataset", "shutil.unpack_archive"),
}
METHODS = {"extract", "extractall"}  # of archives, under whatever name they were opened
IMPORTS = {"shelve", "marshal", "dill", "cloudpickle", "joblib", "webdataset"}
# name of a call -> the options that it must have, as they are written
REQUIRED = {"torch.load": {"weights_only": "True"}, "numpy.load": {"allow_pickle": "False"}}
REFUSED = {"shell": "False", "allow_pickle": "False"}  # options of any call that must not be anything else


def faults(source: str) -> Iterator[str]:
    """What a file does that it should not, a sentence each."""
    tree = ast.parse(source)
    full: dict[str, str] = {}  # a name of the file -> what was imported under it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module and not node.level else ""
            for alias in node.names:
                name = start + alias.name
                full[alias.asname or alias.name] = name
                if name.partition(".")[0] in IMPORTS or name in FORBIDDEN:
                    yield f"line {node.lineno} imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := _full_name(node, full)) in FORBIDDEN:
            yield f"line {node.lineno} uses {name}"
        if isinstance(node, ast.Call):
            yield from _of_call(node, full)


def _of_call(call: ast.Call, full: dict[str, str]) -> Iterator[str]:
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    for option, value in REQUIRED.get(_full_name(call.func, full), {}).items():
        if options.get(option) != value:
            yield f"line {call.lineno} calls {_full_name(call.func, full)} without {option}={value}"
    for option, value in REFUSED.items():
        if options.get(option, value) != value:
            yield f"line {call.lineno} has {option}={options[option]}"
    if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        yield f"line {call.lineno} extracts an archive"
    if any(isinstance(value, ast.Constant) and str(value.value).startswith("pipe:") for value in call.args):
        yield f"line {call.lineno} opens a pipe by its address"


def _full_name(node: ast.expr, full: dict[str, str]) -> str:
    """`np.load` -> "numpy.load", by what the file imported; the text of anything but dotted names."""
    first, dot, rest = ast.unparse(node).partition(".")
    return full.get(first, first) + dot + rest


def test_no_unsafe_call():
    found = [f"{path.relative_to(ROOT)}: {fault}" for path in SOURCES for fault in faults(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(file)",
        "from pickle import loads\nloads(b'')",
        "from pickle import loads as read\nread(b'')",
        "import pickle\nread = pickle.load",
        "import yaml\nyaml.load(text, yaml.SafeLoader)",
        "from yaml import UnsafeLoader",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "eval('1')",
        "exec(text)",
        "f = exec",
        "__import__(name)",
        "import os\nos.system('x')",
        "from os import system as run\nrun('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import subprocess\nsubprocess.run('x', shell=flag)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "from torch import load\nload(path)",
        "import torch\ntorch.jit.load(path)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "numpy_format.read_array(file, allow_pickle=True)",
        "archive.extractall(folder)",
        "tarfile.open(path).extract(name, filter='data')",
        "import tempfile\ntempfile.mktemp()",
        "from tempfile import mktemp\nmktemp()",
        "import webdataset",
        "from webdataset import WebDataset",
        "open_shards('pipe:curl -s address')",
        "import joblib",
        "import shelve\nshelve.open('x')",
    ],
)
def test_the_rules_see_what_they_forbid(source):
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(model)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import subprocess\nsubprocess.run(['x'])",
        "import tempfile\ntempfile.TemporaryFile()",
        "import pickle\nclass Reader(pickle.Unpickler): pass",
    ],
)
def test_the_rules_leave_the_rest(source):
    assert not list(faults(source))
