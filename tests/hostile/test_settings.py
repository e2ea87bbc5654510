"""Bad files of settings: YAML of runs and of benchmarks, JSON beside weights and of runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .forging import file
from .table import Case, check, parameters

TRAIN, LIST = "train --config bad.yaml --runs runs", "evaluate benchmark bad.yaml --images digits --output out"
NOT_READ = "bad.yaml cannot be read as YAML"


def aliases(levels: int, start: str = "[x, x]") -> str:
    """Lists of lists of ... of the same: 2**levels times what it starts with."""
    lines = [f"a0: &a0 {start}"]
    return "\n".join(lines + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels + 1)])


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    return "\n".join(lines + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels + 1)])


def settings(name: str, content: bytes | str, *says: str, argv: str = TRAIN) -> Case:
    return Case(name, file("bad.yaml", content), argv, ("bad.yaml", *says))


SETTINGS = [
    settings("no mapping", "just a sentence", "expected settings"),
    settings("an empty YAML", "", "expected settings"),
    settings("a list of settings", "- seed: 1", "expected settings"),
    settings("a tab in YAML", "seed:\n\t- 1\n", NOT_READ, "line 2"),
    settings("a quote without end", 'name: "x', NOT_READ, "lists are", argv=LIST),
    settings("a zero byte in YAML", "name: a\0b", NOT_READ, argv=LIST),
    settings("YAML not in UTF-8", b"name: \xff\xfe\xfd", NOT_READ, argv=LIST),
    settings("two documents", "seed: 1\n---\nseed: 2", NOT_READ, argv=LIST),
    settings("an alias of nothing", "seed: *nobody", NOT_READ, "nobody", argv=LIST),
    settings("lists of aliases", aliases(40), "values", "its aliases followed"),
    settings("aliases of mappings", aliases(40, "{x: 1, y: 2}"), "values", "its aliases followed", argv=LIST),
    settings("merges of merges", merges(40), "values", "its aliases followed", argv=LIST),
    settings("a list in itself in YAML", "seed: &a [*a]", "lead back to themselves"),
    settings("deep YAML", "seed: " + "[" * 20_000, NOT_READ, "nested too deeply"),
    settings("deep blocks", "".join(" " * n + "a:\n" for n in range(350)), "one in the other"),
    settings("deep aliases", "a0: &a0 x\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)), "one in"),
    settings("120 kB of YAML", "x: " + "1, " * 40_000, "larger than 65,536 bytes", argv=LIST),
    settings("30,000 values", "x: [" + "1," * 30_000 + "1]", "30,004 values", argv=LIST),
    settings("a number of 5000 digits", "seed: " + "9" * 5000, "number of 5000 digits", argv=LIST),
    settings("a number in base 60", "seed: 1" + ":59" * 2000, "digits", argv=LIST),
    settings("a setting twice", "seed: 1\nseed: 2", "'seed' twice"),
    settings("a section twice", "data: {val: 1}\ndata: {test: 2}", "'data' twice", argv=LIST),
    settings("a name in a section twice", "data: {val: 1, val: 2}", "'val' twice", argv=LIST),
    settings("a base elsewhere", "base: ../../etc/passwd", "no preset '../../etc/passwd'"),
    settings("a base of its own", "base: bad", "no preset 'bad'"),
    settings("a base of a list", "base: [digits]", "no preset"),
    settings("an unknown setting", "sed: 1", "'seed'"),
    settings("an unknown section", "tokeniser: {width: 3}", "tokenizer"),
    settings("a section as a list", "tokenizer: [1, 2]", "tokenizer: found [1, 2], expected a section"),
    settings("a section as a number", "data: 3", "data: found 3, expected a section of settings"),
    settings("a list for a number", "seed: [1, 2]", "seed"),
    settings("a mapping for a number", "seed: {a: 1}", "seed"),
    settings("a text for a number", "tokenizer: {width: wide}", "tokenizer.width"),
    settings("a date for a number", "tokenizer: {width: 2026-01-01}", "width"),
    settings("names of numbers", "1: 2", "1"),
    settings("a list as a name", "? [a, b]\n: 1", NOT_READ, argv=LIST),
    settings("no name", "null: 1", "bad.yaml"),
    settings("infinity", "tokenizer: {mlp_ratio: .inf}", "mlp_ratio"),
    settings("NaN in YAML", "tokenizer: {mlp_ratio: .nan}", "mlp_ratio"),
    settings("a list of no tokenizers", "tokenizers: []", "found no tokenizers", argv=LIST),
    settings("a list of nothing", "", "found no tokenizers", argv=LIST),
    settings("a list of text", "tokenizers: [x]", "entry 1: found 'x'", argv=LIST),
    settings("a list with aliases", "tokenizers: &a [*a]", "lead back to themselves", argv=LIST),
    settings("a list that is deep", "tokenizers: " + "[" * 9999, "nested too deeply", argv=LIST),
    settings("an entry of numbers", "tokenizers: [{name: 1, file: 2}]", "name: found 1, expected text", argv=LIST),
    settings("an entry without a file", "tokenizers: [{name: a}]", "file: is missing", argv=LIST),
    settings("an entry twice", "tokenizers: [{name: a, file: b}, {name: a, file: c}]", "'a'", argv=LIST),
    settings("notes as a number", "notes: 3\ntokenizers: [{name: a, file: b}]", "notes", argv=LIST),
    settings("published as text", "tokenizers: [{name: a, file: b, published: {rfid: x}}]", "rfid: 'x'", argv=LIST),
    Case("no settings", lambda folder: None, TRAIN, ("bad.yaml does not exist", "presets are in")),
    Case("a folder of settings", lambda folder: (folder / "bad.yaml").mkdir(), TRAIN, ("bad.yaml is a folder",)),
]


def config(name: str, *says: str, kind: str = "tokenizer", **changed: object) -> Case:
    """A checkpoint whose config.json has other settings."""

    def make(folder: Path) -> None:
        path = folder / kind / "config.json"
        document = json.loads(path.read_text())
        document["config"] |= changed
        write(path, document)

    return Case(name, make, f"convert {kind} out", ("config.json", *says), needs=(kind,))


def document(name: str, content: bytes | str, *says: str, beside: str = "config.json") -> Case:
    """A checkpoint with another JSON document."""
    maker = file(f"tokenizer/{beside}", content)
    return Case(
        name, lambda folder: unlisted(folder, maker), "convert tokenizer out", (beside, *says), needs=("tokenizer",)
    )


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
    unlisted(path.parent.parent, lambda folder: None)


def unlisted(folder: Path, maker: Callable[[Path], object]) -> None:
    """Takes documents out of the manifests of checkpoints: their content is what is looked at."""
    maker(folder)
    for path in folder.glob("*/manifest.json"):
        files = json.loads(path.read_text())["files"]
        path.write_text(json.dumps({"files": {name: about for name, about in files.items() if name != "config.json"}}))


CONFIGS = [
    document("a config of no JSON", "{", "cannot be read as JSON"),
    document("a config not in UTF-8", b'{"kind": "\xff"}', "cannot be read as JSON"),
    document("a deep config", '{"kind":' * 100_000, "cannot be read as JSON", "nested too deeply"),
    document("a config of 40 MB", b" " * (40 << 20), "larger than"),
    document("a config as a list", "[]", "expected one JSON object"),
    document("a config of another kind", '{"kind": "toaster", "config": {}}', "'toaster'", "kind must be one of"),
    document("a kind that is a list", '{"kind": ["tokenizer"], "config": {}}', "kind must be one of"),
    document("a kind that is a path", '{"kind": "../rar", "config": {}}', "kind must be one of"),
    document("no settings in a config", '{"kind": "tokenizer"}', "config must hold the settings"),
    document("settings as a list", '{"kind": "tokenizer", "config": [1]}', "config must hold the settings"),
    config("an unknown size", "unknown settings of a tokenizer: colour", colour=3),
    config("a patch of nothing", "patch_size: found 0", patch_size=0),
    config("a negative patch", "patch_size: found -8", patch_size=-8),
    config("a patch of NaN", "patch_size: found nan", patch_size=float("nan")),
    config("a patch of text", "patch_size: found '8'", patch_size="8"),
    config("a patch of true", "patch_size: found True", patch_size=True),
    config("no patch", "patch_size: found None", patch_size=None),
    config("a width of 10**18", "width: found 1000000000000000000", width=10**18),
    config("a width of 400 digits", "width: found 1000", width=10**400),
    config("a depth of a billion", "depth: found 1000000000", depth=10**9),
    config("no heads", "heads: found 0", heads=0),
    config("a codebook of 10**15", "codebook_size: found", codebook_size=10**15),
    config("a negative codebook", "codebook_size: found -1", codebook_size=-1),
    config("a ratio of infinity", "mlp_ratio: found inf", mlp_ratio=float("inf")),
    config("scales of text", "scales: found", scales="1, 2"),
    config("scales of lists", "scales: found", scales=[[1], [2]]),
    config("a switch as a number", "normalize: found 3", normalize=3),
    config("a generator without classes", "rar", kind="rar", num_classes=None),
    config("a generator of a billion tokens", "num_tokens: found 1000000000", kind="rar", num_tokens=10**9),
    config("a dropout of two", "dropout: found 2", kind="rar", dropout=2),
]


def sizes(name: str, *says: str, **changed: object) -> Case:
    """Sizes that are allowed each, but of which there is no model, or not that of the weights."""
    made = config(name, **changed)
    return Case(name, made.make, made.argv, ("tokenizer", *says), needs=made.needs)


SIZES = [
    sizes("a patch that does not divide", "patch", patch_size=7),
    sizes("heads that do not divide", "heads", heads=3),
    sizes("a depth of 200", "missing", depth=200),
    sizes("a codebook larger than its weights", "of another shape", codebook_size=2**20),
    sizes("the widest of all", "of another shape", width=2**16, heads=1),
    sizes("the largest image", "of another shape", image_size=10_000, patch_size=1),
]


def stage(name: str, content: object, *says: str) -> Case:
    """The folder of a run's stage, with this stage.json and a checkpoint."""

    def make(folder: Path) -> None:
        (folder / "tokenizer").rename(folder / "step-5")
        (folder / "run" / "tokenizer").mkdir(parents=True)
        shutil.move(folder / "step-5", folder / "run" / "tokenizer")
        written = content if isinstance(content, str) else json.dumps(content)
        (folder / "run" / "tokenizer" / "stage.json").write_text(written)

    return Case(name, make, "convert run/tokenizer out", says, needs=("tokenizer",))


STAGES = [
    stage("a stage as a list", [], "stage.json holds '[]'", "one JSON object"),
    stage("a stage of no JSON", "{", "stage.json cannot be read as JSON"),
    stage("a deep stage", "[" * 10**5, "stage.json", "nested too deeply"),
    stage("a best elsewhere", {"best": "../../../etc"}, "stage.json names '../../../etc'", "without a path"),
    stage("a best at the root", {"best": "/etc"}, "stage.json names '/etc'", "without a path"),
    stage("a best of dots", {"best": ".."}, "stage.json names '..'", "without a path"),
    stage("a best of a number", {"best": 3}, "stage.json names 3"),
    stage("a best with a zero byte", {"best": "step-5\0"}, "stage.json names"),
    stage("a best that is not there", {"best": "step-7"}, "step-7"),
]


@pytest.mark.parametrize("case", parameters(SETTINGS, CONFIGS, SIZES, STAGES))
def test_settings(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)
