"""Files of weights made byte by byte: pickles that call what they name, in torch's layouts and without."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
COMMAND = "touch canary"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(name: str, protocol: int = 2) -> bytes:
    """What pushes a class or function by its dotted name; a : stands for a dot inside of a class."""
    module, _, attribute = name.rpartition(".")
    attribute = attribute.replace(":", ".")
    if protocol == 2:
        return b"c" + f"{module}\n{attribute}\n".encode()
    return text(module) + text(attribute) + b"\x93"


def called(name: str, argument: str = COMMAND, protocol: int = 2) -> bytes:
    """What pushes NAME(argument)."""
    return named(name, protocol) + text(argument) + b"\x85R"


def whole(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def in_dict(body: bytes, key: bytes = text("model")) -> bytes:
    """A pickle of {"model": what the body pushes}."""
    return whole(b"}" + key + body + b"s")


def torch_zip(data: bytes, records: dict[str, bytes] | None = None, *, compressed: tuple[str, ...] = ()) -> bytes:
    """A file of torch.save around a pickle; records: others by name, as `archive/NAME`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in ({"data.pkl": data, "byteorder": b"little", "version": b"3\n"} | (records or {})).items():
            kind = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            archive.writestr(f"archive/{name}", content, kind)
    return buffer.getvalue()


def torch_old(data: bytes, keys: tuple[str, ...] = (), storages: bytes = b"") -> bytes:
    """A file of torch before 1.6 around a pickle."""
    machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, machine))
    return head + data + pickle.dumps(list(keys), 2) + storages


def saved(content: object, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def safetensors(header: dict | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    """A file with this header, which says that it has `size` bytes (None: as many as it has)."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written) if size is None else size) + written + data


def entry(shape: tuple[int, ...] = (1,), start: int = 0, stop: int = 4, dtype: str = "F32") -> dict:
    """What a header of safetensors says of a tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def file(name: str, content: bytes | str):
    """A maker of one file, in folders of its own where the name has some."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def doubled(start: bytes, times: int = 60) -> bytes:
    """What pushes a pair of pairs of ... of the same: 2**times of what `start` pushes, in 5 bytes a level."""
    return start + b"".join(b"q%ch%c\x86" % (level, level) for level in range(times))


def doubled_lists(times: int = 60) -> bytes:
    """The same of lists, which a pickle may fill after it named them."""
    return b"]q\0" + b"".join(b"0](h%ch%ceq%c" % (level, level, level + 1) for level in range(times))
