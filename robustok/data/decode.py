"""Decodes an image file to RGB. Each pixel mode that Pillow reads has one defined conversion or is refused.

- The first frame of an animation; turned upright by its EXIF orientation.
- Transparency (alpha channel, transparent palette entry or colour) is laid over white.
- 16-bit grey is scaled to 8 bits (round(v / 257)); of 16-bit colour Pillow keeps the high byte.
- CMYK, palette, grey, 1-bit, YCbCr, Lab and HSV go through Pillow's own conversion, without colour profiles.
- Floating-point pixels have no defined range and are refused, as are images above `MAX_PIXELS`.
"""

import functools
import io
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import UserError
from ..core.text import one_line

MAX_BYTES = 1 << 30  # of a file, refused before reading: as many pixels as are allowed take less in any format
MAX_PIXELS = 100_000_000  # refused before decoding: the header alone can ask for gigabytes

# Pillow runs other programs to draw EPS and WMF, and knows the others without being able to decode them.
_REFUSED_FORMATS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}

HEIC_PACKAGE = "pillow-heif"  # with it Pillow reads the photos of telephones, which it cannot by itself
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class BadImage(UserError):
    """One image cannot be used; the message names it and the reason, in one line whatever its name is."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@functools.cache
def image_formats() -> tuple[str, ...]:
    """The formats (Pillow's names) that `decode` reads; HEIF among them where pillow-heif is installed."""
    Image.init()
    if find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(sorted(Image.OPEN.keys() - _REFUSED_FORMATS))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of files that are taken for images: ".jpg", ".png", ... in lower case."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def check_bytes(size: int, name: object) -> None:
    """Raises BadImage for a file that is larger than any image that is read."""
    if size > MAX_BYTES:
        raise BadImage(f"{name}: {size:,} bytes, more than the limit of {MAX_BYTES:,}")


def decode(data: bytes, name: str) -> Image.Image:
    """The image file `data` as an RGB Pillow image; raises BadImage with `name` and the reason."""
    if not data:
        raise BadImage(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            _check_size(image, name)
            image.load()
            _check_size(image, name)  # an icon's header may say less than the picture in it
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, name)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own guard, for headers that ask for even more
        raise BadImage(f"{name}: more pixels than the limit of {MAX_PIXELS:,} ({error})") from error
    except Exception as error:  # decoders raise whatever the damage leads them to, and each format has its own
        heic = f"; HEIC: pip install {HEIC_PACKAGE}" if _is_heic(data) and "HEIF" not in image_formats() else ""
        unknown = isinstance(error, UnidentifiedImageError)  # its message holds an address, another one every time
        reason = "of no known format" if unknown else f"{type(error).__name__}: {error}"
        raise BadImage(f"{name}: not a readable image ({reason}){heic}") from error


def _is_heic(data: bytes) -> bool:
    """Whether these are bytes of HEIC or HEIF, whatever the file is called (by its brand, ISO/IEC 23008-12)."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def _check_size(image: Image.Image, name: str) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise BadImage(f"{name}: {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS:,}")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise BadImage(f"{name}: floating-point pixels have no defined range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_16_bit(image, name)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"{name}: grey values {values.min()}..{values.max()}, expected 0..65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")  # 257 is odd: no value is between
