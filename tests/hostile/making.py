"""Files made byte by byte: PNG chunks and tar headers that no library would write."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int = 8, height: int = 8, *, depth: int = 8, colour: int = 2, more: bytes = b"", rows: bytes = b""):
    """A PNG that declares these sizes; `more` chunks before its data; `rows` as stored, each with its filter's byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


GREY = png(rows=b"\0" * (8 * 25))  # a good image, black
END = b"\0" * 1024  # of a tar


def header(name: bytes, size: int, kind: bytes = b"0", *, octal: bytes | None = None, link: bytes = b"") -> bytes:
    """A tar's header of 512 bytes; octal: what stands in the place of the size."""
    size_field = b"%011o\0" % size if octal is None else octal
    start = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size_field + b"0" * 11 + b"\0" + b" " * 8
    block = (start + kind + link.ljust(100, b"\0") + b"ustar\x0000").ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def member(name: bytes, data: bytes = GREY, kind: bytes = b"0", **fields) -> bytes:
    """A member with its data, filled up to whole blocks."""
    return header(name, len(data), kind, **fields) + padded(data)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def pax(**records: bytes) -> bytes:
    """An extended header for the member after it; in names, _ stands for a dot."""
    body = b""
    for name, value in records.items():
        record = b" " + name.replace("_", ".").encode() + b"=" + value + b"\n"
        length = len(record)
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        body += str(length).encode() + record
    return member(b"extended", body, b"x")
