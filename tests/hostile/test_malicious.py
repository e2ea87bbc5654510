"""Files made to run code: nothing in them runs, and each is refused with the name of what it refers to."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from .forging import (
    COMMAND,
    called,
    file,
    in_dict,
    named,
    safetensors,
    text,
    torch_old,
    torch_zip,
    whole,
)
from .table import CANARY, Case, check, parameters

# What pickles call to run code, directly or by way of another.
CALLED = (
    *("posix.system", "subprocess.Popen", "subprocess.check_output", "os.popen", "os.execl", "pty.spawn"),
    *("builtins.eval", "builtins.exec", "builtins.__import__", "builtins.getattr", "builtins.open", "builtins.compile"),
    *("importlib.import_module", "runpy.run_path", "runpy.run_module", "timeit.timeit", "code.interact", "pdb.run"),
    *("operator.attrgetter", "operator.methodcaller", "functools.partial", "functools.reduce", "types.FunctionType"),
    *(
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch.hub.load",
        "torch.jit.load",
        "torch._utils._rebuild_tensor",
    ),
    *("numpy.load", "pickle.loads", "marshal.loads", "shelve.open", "joblib.load", "dill.loads", "cloudpickle.loads"),
    *("shutil.rmtree", "pathlib.Path.unlink", "webbrowser.open", "ctypes.CDLL", "logging.config.fileConfig"),
    *("yaml.unsafe_load", "robustok.core.cli.run_verb", "lightningx.run", "pytorch_lightning_extra.run"),
)
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SYSTEM = called("posix.system")
NAMESPACE = named("argparse.Namespace")


def pickled(name: str, content: bytes, says: str = "posix.system", argv: str = "convert {} out", **options) -> Case:
    """A case of one file `name` that is refused for what it refers to."""
    return Case(f"{name} in {argv.split()[0]}", file(name, content), argv.format(name), (name, says), **options)


def layouts() -> list[Case]:
    """Each function in turn in one of the four layouts, under one of the suffixes."""
    cases = []
    for number, name in enumerate(CALLED):
        protocol, suffix = (2, 4)[number % 2], SUFFIXES[number // 2 % 4]
        body = in_dict(called(name, protocol=protocol))
        made = (torch_zip, torch_old, bytes)[number % 3](body)
        cases.append(pickled(f"{name}{suffix}", made, name))
    return cases


HIDDEN = [
    pickled("in_namespace.pt", torch_zip(in_dict(NAMESPACE + b")R}" + text("x") + SYSTEM + b"sb"))),
    pickled("in_old_namespace.pt", torch_old(in_dict(NAMESPACE + b")R}" + text("x") + SYSTEM + b"sb"))),
    pickled("as_key.pt", torch_zip(in_dict(text("value"), key=SYSTEM))),
    pickled("in_hooks.pt", torch_zip(in_dict(named("torch._utils._rebuild_tensor_v2") + b"(" + SYSTEM * 6 + b"tR"))),
    pickled("in_persistent_id.pt", torch_zip(in_dict(b"(" + text("storage") + SYSTEM + b"tQ"))),
    pickled("beside_lightning.ckpt", torch_zip(in_dict(called("lightning.run") + b"}" + text("x") + SYSTEM + b"sb"))),
    pickled("inst_opcode.pt", torch_zip(in_dict(b"(" + text(COMMAND) + b"iposix\nsystem\n"))),
    pickled("obj_opcode.pt", torch_zip(in_dict(b"(" + named("posix.system") + text(COMMAND) + b"o"))),
    pickled("newobj.pt", torch_zip(in_dict(named("posix.system") + text(COMMAND) + b"\x85\x81"))),
    pickled("newobj_ex.pt", torch_zip(in_dict(named("posix.system") + text(COMMAND) + b"\x85}\x92"))),
    pickled("dropped.pt", torch_zip(whole(SYSTEM + b"0}"))),
    pickled("of_machine.pt", torch_old(b"").replace(b"\x80\x02M\xe9\x03.", whole(SYSTEM), 1)),
    pickled("of_keys.pt", torch_old(whole(b"}"), ()).removesuffix(pickle.dumps([], 2)) + whole(SYSTEM)),
    pickled(
        "through_attributes.pt", torch_zip(whole(text("argparse") + text("Namespace.__init__") + b"\x93")), "__init__"
    ),
    pickled(
        "subclasses.pt", torch_zip(whole(text("builtins") + text("object.__subclasses__") + b"\x93")), "subclasses"
    ),
    pickled("joblib.pth", whole(named("joblib.numpy_pickle.NumpyArrayWrapper") + b")\x81"), "NumpyArrayWrapper"),
    pickled("scikit.pt", whole(named("sklearn.linear_model.LinearRegression") + b")R"), "LinearRegression"),
    pickled(
        "torchscript.pt", torch_zip(whole(named("__torch__.Evil") + b")\x81"), {"code/e.py": b"1"}), "__torch__.Evil"
    ),
    pickled("doctor.pt", torch_zip(in_dict(SYSTEM)), argv="doctor --tokenizer {}"),
    pickled("sample.bin", torch_zip(in_dict(SYSTEM)), argv="sample --generator {} --output out"),
    pickled("tokens.pt", torch_old(in_dict(SYSTEM)), argv="pretokenize digits out --tokenizer {}"),
    pickled("explain.ckpt", torch_zip(in_dict(SYSTEM)), argv="explain codebook {} --images digits --output out"),
    pickled("inception.pth", torch_old(in_dict(SYSTEM)), argv="evaluate reference digits --weights {} --save out.npz"),
    pickled(
        "dino.pth",
        torch_zip(in_dict(SYSTEM)),
        argv="evaluate reference digits --network dinov2 --weights {} --save out.npz",
    ),
    pickled(
        "teacher.pt",
        torch_zip(in_dict(SYSTEM)),
        argv="convert tokenizer out --to upstream --teacher {}",
        needs=("tokenizer",),
    ),
    Case(
        "a second data.pkl in another folder",
        lambda folder: (folder / "two.pt").write_bytes(two_roots()),
        "convert two.pt out",
        ("two.pt", "two records of one name"),
    ),
    Case("a pickle called safetensors", file("x.safetensors", whole(SYSTEM)), "convert x.safetensors out", ("x.saf",)),
    Case(
        "a pickle behind a header",
        file("x.safetensors", safetensors({}, whole(SYSTEM))),
        "convert x.safetensors out",
        ("x.safetensors cannot be read as safetensors",),
    ),
]


def two_roots() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for root, data in (("a", whole(b"}")), ("b", in_dict(SYSTEM))):
            archive.writestr(f"{root}/data.pkl", data)
    return buffer.getvalue()


class Gadget:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, (COMMAND,)


OBJECTS = np.array([Gadget(), Gadget()], dtype=object)


def npz(**arrays):
    def make(folder: Path) -> None:
        np.savez(folder / "bad.npz", **{"arr_0": np.zeros((2, 8, 8, 3), np.uint8)} | arrays)

    return make


def npy(name: str, content: np.ndarray | bytes):
    """A maker that puts an array, or bytes, in the place of one of a shard's."""

    def make(folder: Path) -> None:
        path = next(folder.glob("*/shard-00000")) / f"{name}.npy"
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)

    return make


def record(name: str, content: bytes):
    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
            archive.writestr(name, content)

    return make


STATISTICS = {"mu": np.zeros(16), "sigma": np.eye(16)}
NPZ = "evaluate reference bad.npz --network classifier --weights classifier --save out.npz"
REFERENCE = "evaluate samples samples.npz --reference bad.npz --network classifier --weights classifier --output out"
CLASSIFIER, TOKENS, LATENTS = ("classifier", "samples.npz"), ("tokens",), ("latents",)
NUMBERS = [
    Case("objects as images", npz(arr_0=OBJECTS), NPZ, ("bad.npz", "Python objects"), needs=CLASSIFIER),
    Case("objects as labels", npz(arr_1=OBJECTS), NPZ, ("bad.npz", "Python objects"), needs=CLASSIFIER),
    Case("objects as mu", npz(**STATISTICS | {"mu": OBJECTS}), REFERENCE, ("bad.npz: mu", "Python"), needs=CLASSIFIER),
    Case("objects as sigma", npz(**STATISTICS | {"sigma": OBJECTS}), REFERENCE, ("sigma", "Python"), needs=CLASSIFIER),
    Case("objects as features", npz(**STATISTICS, features=OBJECTS), REFERENCE, ("bad.npz",), needs=CLASSIFIER),
    Case("objects as about", npz(**STATISTICS, about=OBJECTS), REFERENCE, ("bad.npz: about",), needs=CLASSIFIER),
    Case("objects as count", npz(**STATISTICS, count=OBJECTS), REFERENCE, ("bad.npz: count",), needs=CLASSIFIER),
    Case("a pickle for an array", record("arr_0.npy", whole(SYSTEM)), NPZ, ("bad.npz",), needs=CLASSIFIER),
    Case("a pickle called npz", file("bad.npz", whole(SYSTEM)), NPZ, ("bad.npz",), needs=CLASSIFIER),
    Case("objects as tokens", npy("tokens", OBJECTS), "check_data tokens", ("tokens.npy",), needs=TOKENS),
    Case("objects as classes", npy("labels", OBJECTS), "check_data tokens", ("labels.npy",), needs=TOKENS),
    Case("a pickle for tokens", npy("tokens", whole(SYSTEM)), "check_data tokens", ("tokens.npy",), needs=TOKENS),
    Case("objects as ids", npy("ids", OBJECTS), "pretokenize tokens out.jsonl", ("ids.npy",), needs=TOKENS),
    Case("objects as latents", npy("latents", OBJECTS), "pretokenize latents out.json", ("ents.npy",), needs=LATENTS),
]

YAML = {
    "apply": f'!!python/object/apply:os.system ["{COMMAND}"]',
    "new": f'!!python/object/new:subprocess.Popen [["touch", "{CANARY}"]]',
    "name": "seed: !!python/name:os.system",
    "module": "seed: !!python/module:antigravity",
    "nested": f'data: {{root: !!python/object/apply:subprocess.check_call [["touch", "{CANARY}"]]}}',
    "tuple": "seed: !!python/tuple [1, 2]",
    "key": f'? !!python/object/apply:os.system ["{COMMAND}"]\n: 1',
}
SETTINGS = [
    Case(
        f"YAML {name} in {verb.split()[0]}",
        file("bad.yaml", content),
        verb,
        ("bad.yaml cannot be read as YAML", "python/"),
    )
    for name, content in YAML.items()
    for verb in ("train --config bad.yaml --runs runs", "evaluate benchmark bad.yaml --images digits --output out")
] + [
    Case(
        "a class to import",
        file("bad.yaml", 'tokenizer: {class_path: os.system, init_args: {command: "touch canary"}}'),
        "train --config bad.yaml --runs runs",
        ("class_path",),
    )
]


@pytest.mark.parametrize("case", parameters(layouts(), HIDDEN, NUMBERS, SETTINGS))
def test_nothing_runs(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)


def test_the_gadgets_are_live(tmp_path, monkeypatch):
    """What is refused above does run where it is unpickled without care."""
    monkeypatch.chdir(tmp_path)
    for data in (whole(SYSTEM), in_dict(SYSTEM), in_dict(called("posix.system", protocol=4)), pickle.dumps(Gadget())):
        pickle.loads(data)
        (tmp_path / CANARY).unlink()
