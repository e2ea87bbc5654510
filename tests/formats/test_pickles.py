"""Pickled checkpoints: released ones are read, tensors mapped; nothing in a hostile or damaged file runs."""

import argparse
import io
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from robustok.core.errors import UserError
from robustok.formats.pickles import UnsafeFileError, read_pickled

GOLDEN = Path(__file__).parents[1] / "golden"


def as_zip(path: Path, data: bytes) -> Path:
    """A torch zip checkpoint around a hand-written pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
    return path


def test_released_checkpoint_equals_torch_load():
    path = GOLDEN / "tokenizer_ckpt.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        expected = torch.load(path, weights_only=True)
    found = read_pickled(path)
    assert found.keys() == expected.keys() and found["args"] == expected["args"]
    for weights in ("model", "ema"):
        assert found[weights].keys() == expected[weights].keys()
        for name, tensor in expected[weights].items():
            assert found[weights][name].dtype == tensor.dtype and torch.equal(found[weights][name], tensor)


def test_yaml_values_become_plain_numbers_and_lists():
    args = vars(read_pickled(GOLDEN / "args_roundtrip_yaml.pt")["args"])
    assert args["lr"] == 3e-5 and args["v_patch_nums"] == [16] and args["disc_weight_decay"] == 5e-4

    def kinds(value):
        return {type(value)} | {kind for item in (value if isinstance(value, list) else ()) for kind in kinds(item)}

    assert set().union(*map(kinds, args.values())) <= {bool, int, float, str, list, type(None)}


def test_every_kind_of_tensor(tmp_path):
    """Views, transposes, shared storages, empty and scalar tensors, all dtypes, parameters."""
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "view": base[1:3, ::2],
        "transposed": base.T,
        "same": base,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": {"list": [torch.ones(1)], "tuple": (1, None, True, "x")},
        "ordered": OrderedDict(a=1),
        "big": 2**70,
    }
    dtypes = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    content |= {name: torch.tensor([0, 1, 2]).to(getattr(torch, name)) for name in dtypes}
    path = tmp_path / "all.pt"
    torch.save(content, path)
    found = read_pickled(path)
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype and torch.equal(found[name], value.detach()), name
    assert found["nested"]["tuple"] == (1, None, True, "x") and found["ordered"] == {"a": 1} and found["big"] == 2**70


def test_tensors_are_mapped_and_writing_them_leaves_the_file_alone(tmp_path):
    path = tmp_path / "mapped.pt"
    torch.save({"x": torch.zeros(1000)}, path)
    before = path.read_bytes()
    read_pickled(path)["x"].add_(1)
    assert path.read_bytes() == before and read_pickled(path)["x"].sum() == 0


FORBIDDEN = [
    "os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.getattr",
    "builtins.open", "builtins.__import__", "importlib.import_module", "runpy.run_path", "shutil.rmtree",
    "operator.attrgetter", "functools.partial", "types.FunctionType", "torch.load", "torch.hub.load", "numpy.load",
    "pickle.loads", "codecs.decode", "argparse.ArgumentParser", "ruamel.yaml.main.YAML", "collections.defaultdict",
    "pytorch_lightning_extra.run", "lightningx.run",
]  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("form", ["zip", "protocol 4", "plain file"])
def test_forbidden_globals_are_named_and_nothing_runs(name, form, tmp_path):
    canary = tmp_path / "canary"
    module, _, attribute = name.rpartition(".")
    argument = b"X" + len(f"touch {canary}").to_bytes(4, "little") + f"touch {canary}".encode()
    if form == "protocol 4":
        texts = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, attribute))
        data = b"\x80\x04" + texts + b"\x93" + argument + b"\x85R."
    else:
        data = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + argument + b"\x85R."
    path = tmp_path / "hostile.pt"
    if form == "plain file":
        path.write_bytes(data)
    else:
        as_zip(path, data)
    with pytest.raises(UnsafeFileError) as error:
        read_pickled(path)
    assert name in str(error.value) and str(path) in str(error.value)
    assert not canary.exists()


class Hostile:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_object_inside_the_argument_namespace(zipped, tmp_path):
    path, canary = tmp_path / "hostile.pt", tmp_path / "canary"
    args = argparse.Namespace(lr=1e-3, extra=[Hostile(f"touch {canary}")])
    torch.save({"model": {"x": torch.ones(3)}, "args": args}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFileError, match=r"(posix|nt)\.system|argparse"):
        read_pickled(path)
    assert not canary.exists()


def test_setting_attributes_of_an_allowed_class_does_not_last(tmp_path):
    """A BUILD opcode applied to the class itself instead of an instance."""
    data = b"\x80\x02cargparse\nNamespace\n(N}X\x08\x00\x00\x00poisonedK\x01s\x86b0}."
    stream = data.replace(b"(N}", b"N}")
    assert pickle.load(io.BytesIO(stream.replace(b"argparse\nNamespace", b"unittest.mock\nMagicMock"))) == {}
    assert read_pickled(as_zip(tmp_path / "poison.pt", stream)) == {}
    assert not hasattr(argparse.Namespace, "poisoned")


def lightning_class(monkeypatch, name: str, base: type = object, **members) -> type:
    """A class that pickles under this dotted name of Lightning, and fails where it is looked up to unpickle."""
    module, _, attribute = name.rpartition(".")
    made = type(attribute, (base,), {"__module__": module, "__qualname__": attribute, **members})
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
    setattr(sys.modules[module], attribute, made)
    return made


@pytest.mark.parametrize("zipped", [True, False])
def test_classes_of_lightning_are_left_out_and_never_imported(zipped, tmp_path, monkeypatch):
    callback = lightning_class(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    bag = lightning_class(monkeypatch, "lightning.fabric.utilities.data.AttributeDict", dict if zipped else object)
    schedule = callback()
    schedule.state = {"best": 1}
    content = {
        "state_dict": {"x": torch.arange(3.0)},
        "callbacks": {callback: {"best_model_score": torch.tensor(0.5)}, "kept": 1},
        "hyper_parameters": bag(width=3) if zipped else bag(),
        "optimizer_states": [schedule, {"lr": 0.1}],
        "epoch": 7,
    }
    path = tmp_path / "last.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pytorch_lightning", "lightning")]:
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    found = read_pickled(path)
    assert torch.equal(found.pop("state_dict")["x"], torch.arange(3.0))
    assert found == {"callbacks": {"kept": 1}, "optimizer_states": [{"lr": 0.1}], "epoch": 7}


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_are_left_out(zipped, tmp_path):
    content = {"model": {"x": torch.arange(3.0)}, "best": np.float64(0.5), "args": {"step": np.int64(3), "lr": 0.1}}
    torch.save(content, tmp_path / "last.pt", _use_new_zipfile_serialization=zipped)
    found = read_pickled(tmp_path / "last.pt")
    assert torch.equal(found.pop("model")["x"], torch.arange(3.0)) and found == {"args": {"lr": 0.1}}


@pytest.mark.parametrize("data", [b"garbage", b"\x80\x02K\x01.", b"\x80\x05\x95", b"\x80\x02}(."])
def test_nobody_is_told_to_turn_the_safe_loader_off(data, tmp_path):
    (tmp_path / "wrong.pt").write_bytes(data)
    with warnings.catch_warnings(), pytest.raises(UserError, match="cannot be read as a torch checkpoint") as error:
        warnings.simplefilter("ignore")  # torch's, of the protocol
        read_pickled(tmp_path / "wrong.pt")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_object_beside_or_inside_what_is_left_out(zipped, tmp_path, monkeypatch):
    callback = lightning_class(monkeypatch, "pytorch_lightning.callbacks.Checkpoint")
    inside = callback()
    inside.state = Hostile(f"touch {tmp_path / 'canary'}")
    for content in ({"callbacks": {callback: Hostile(f"touch {tmp_path / 'canary'}")}}, {"callbacks": inside}):
        torch.save(content, tmp_path / "hostile.ckpt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnsafeFileError, match=r"(posix|nt)\.system"):
            read_pickled(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "canary").exists()


def test_calling_what_is_left_out_does_nothing(tmp_path):
    """REDUCE, then BUILD, SETITEM and APPEND on the result: `lightning.run("x")` and what could follow it."""
    letter = b"X\x01\x00\x00\x00"
    called = b"clightning\nrun\n" + letter + b"x\x85R"
    used = b"}" + letter + b"yK\x01sb" + b"K\x01K\x02s" + b"K\x03a"
    data = b"\x80\x02}" + letter + b"a" + called + used + b"s."
    assert read_pickled(as_zip(tmp_path / "called.ckpt", data)) == {}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_files(share, tmp_path):
    content = (GOLDEN / "rar" / "pytorch_model.bin").read_bytes()
    path = tmp_path / "cut.bin"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cut\.bin cannot be read as a torch checkpoint"):
        read_pickled(path)


def test_storage_that_lies_about_its_size(tmp_path):
    """A tensor that claims more elements than its record holds is refused, not read from beyond."""
    path, forged = tmp_path / "true.pt", tmp_path / "forged.pt"
    torch.save({"x": torch.ones(100)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(forged, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert data.count(b"Kd") >= 2  # the storage's length, the tensor's size
                data = data.replace(b"Kd", b"K\xff")
            target.writestr(info.filename, data)
    with pytest.raises(UserError, match="400 bytes stored, 1020 expected"):
        read_pickled(forged)


def test_compressed_pickles_are_refused_before_they_grow(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 10**6 + b"N.")
    with pytest.raises(UserError, match=r"compressed data\.pkl"):
        read_pickled(path)
