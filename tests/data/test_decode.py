"""Every mode has one conversion with known pixel values; damaged files are named and nothing else happens."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from robustok.data.decode import MAX_PIXELS, BadImage, decode


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixel(data: bytes, place=(0, 0)) -> tuple[int, int, int]:
    image = decode(data, "x")
    assert image.mode == "RGB"
    return image.getpixel(place)


def test_grey_one_bit_and_palette():
    assert pixel(encoded(Image.new("L", (2, 2), 77))) == (77, 77, 77)
    assert pixel(encoded(Image.new("1", (2, 2), 1))) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encoded(palette)) == (10, 20, 30)


def test_transparency_is_laid_over_white():
    assert pixel(encoded(Image.new("RGBA", (2, 2), (100, 50, 0, 0)))) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (2, 2), (100, 50, 0, 255)))) == (100, 50, 0)
    mixed = [c * 51 / 255 + 255 * (1 - 51 / 255) for c in (100, 50, 0)]  # alpha 51 is 0.2
    assert np.allclose(pixel(encoded(Image.new("RGBA", (2, 2), (100, 50, 0, 51)))), mixed, atol=1)
    assert pixel(encoded(Image.new("LA", (2, 2), (9, 0)))) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encoded(palette, transparency=1)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled():
    values = np.array([[0, 257, 257 * 200, 65535]], np.uint16)
    image = decode(encoded(Image.fromarray(values)), "x")
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 200, 255]


def test_cmyk_is_converted_by_the_product_formula():
    cyan, magenta, yellow, black = 255, 128, 0, 51
    expected = [(255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)]
    data = encoded(Image.new("CMYK", (8, 8), (cyan, magenta, yellow, black)), "TIFF")
    assert np.allclose(pixel(data), expected, atol=1)


def test_exif_orientation_turns_the_image():
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left pixel comes to the top
    upright = decode(encoded(image, exif=exif), "x")
    assert upright.size == (1, 2)
    assert upright.getpixel((0, 0)) == (255, 0, 0)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0))]
    assert pixel(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


def test_format_comes_from_the_content_not_the_name():
    assert decode(encoded(Image.new("RGB", (3, 3), (1, 2, 3))), "wrong.jpg").getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("data, reason", [(b"", "empty"), (b"no image at all", "not a readable image")])
def test_files_that_are_no_images_are_named(data, reason):
    with pytest.raises(BadImage, match=rf"cat/1\.png.*{reason}"):
        decode(data, "cat/1.png")


def test_floating_point_pixels_are_refused():
    with pytest.raises(BadImage, match="no defined range"):
        decode(encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "x")


def test_programs_are_never_run():
    with pytest.raises(BadImage):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n", "x.eps")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [(65_500, 65_500), (MAX_PIXELS // 8_000 + 1, 8_000)])
def test_images_above_the_pixel_limit_are_refused_by_their_header(width, height):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    with pytest.raises(BadImage, match="pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""), "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says more about damaged TIFF files
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damage_gives_a_named_refusal_or_an_image_and_nothing_else(format):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8))
    whole = encoded(image, format)
    cuts = [whole[: len(whole) * part // 10] for part in range(1, 10)]
    flips = []
    for place in random.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        flips.append(bytes(damaged))
    refused = 0
    for data in cuts + flips:
        try:
            assert decode(data, "some/file").mode == "RGB"
        except BadImage as error:
            refused += 1
            assert "some/file" in str(error)
    assert refused >= 5
