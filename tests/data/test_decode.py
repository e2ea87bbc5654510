"""Every mode has one conversion with known pixel values; damaged files are named and nothing else happens."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustok.data.decode import MAX_PIXELS, BadImage, decode
from robustok.data.transforms import center_crop


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


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_of_sixteen_bit_colour_the_high_byte_is_kept():
    values = struct.pack(">HHH", 0x12FF, 0xFF00, 0x00FF)
    assert pixel(png(1, 1, 16, 2, b"\0" + values)) == (0x12, 0xFF, 0x00)
    assert pixel(png(1, 1, 16, 6, b"\0" + values + b"\xff\xff")) == (0x12, 0xFF, 0x00)
    assert pixel(png(1, 1, 16, 6, b"\0" + values + b"\0\0")) == (255, 255, 255)  # transparent: the white below


def test_alpha_of_each_grey_value_and_of_each_colour_of_a_palette():
    over_white = [round(9 * 102 / 255 + 255 * 153 / 255)] * 3  # alpha 102 is 0.4
    assert np.allclose(pixel(encoded(Image.new("LA", (2, 2), (9, 102)))), over_white, atol=1)
    palette = Image.new("P", (3, 1))
    palette.putpalette([0, 0, 0, 200, 100, 50, 10, 20, 30])
    palette.putdata([0, 1, 2])
    data = encoded(palette, transparency=bytes([255, 102, 0]))
    mixed = [colour * 0.4 + 255 * 0.6 for colour in (200, 100, 50)]
    assert pixel(data) == (0, 0, 0) and pixel(data, (2, 0)) == (255, 255, 255)
    assert np.allclose(pixel(data, (1, 0)), mixed, atol=1)


def test_of_cmyk_in_jpeg_pillow_says_the_colours():
    ink = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    data = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as by_hand:
        assert by_hand.mode == "CMYK"
        expected = np.asarray(by_hand.convert("RGB"))
    assert np.array_equal(np.asarray(decode(data, "x")), expected)


@pytest.mark.parametrize("format", ["WEBP", "PNG", "TIFF", "GIF"])
def test_of_many_pictures_in_a_file_the_first_is_taken(format):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as by_hand:
        assert by_hand.n_frames == 3
    assert decode(data, "x").size == (5, 4) and pixel(data, (4, 3)) == (255, 0, 0)


def test_a_colour_profile_changes_no_value():
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert pixel(encoded(Image.new("RGB", (2, 2), (10, 20, 30)), icc_profile=lab)) == (10, 20, 30)
    assert pixel(encoded(Image.new("RGB", (2, 2), (10, 20, 30)), icc_profile=b"junk" * 99)) == (10, 20, 30)


# By EXIF's definition, what the first row and the first column of the stored pixels are when it is shown.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9, 65535])
def test_every_exif_orientation(orientation):
    stored = np.random.default_rng(1).integers(0, 256, (3, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(Image.fromarray(stored), exif=exif), "x")
    assert np.array_equal(np.asarray(found), UPRIGHT.get(orientation, UPRIGHT[1])(stored))


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_images_of_one_pixel_along_a_side_fill_a_crop(size):
    image = decode(encoded(Image.new("RGB", size, (7, 8, 9))), "x")
    assert image.size == size
    crop = np.asarray(center_crop(image, 32))
    assert crop.shape == (32, 32, 3) and (crop == (7, 8, 9)).all()


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_an_icon_of_a_larger_picture_than_its_header_says_is_measured(monkeypatch):
    data = encoded(Image.new("RGBA", (64, 64), (1, 2, 3, 255)), "ICO", sizes=[(64, 64)])
    assert decode(data, "x").size == (64, 64)
    smaller = data[:6] + bytes([8, 8]) + data[8:]  # in the directory of the icon
    monkeypatch.setattr("robustok.data.decode.MAX_PIXELS", 1000)
    with pytest.raises(BadImage, match="x: 64 x 64 pixels, more than the limit"):
        decode(smaller, "x")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [(65_500, 65_500), (MAX_PIXELS // 8_000 + 1, 8_000)])
def test_images_above_the_pixel_limit_are_refused_by_their_header(width, height):
    with pytest.raises(BadImage, match="pixels"):
        decode(png(width, height, 8, 2, b""), "bomb.png")


def test_no_guard_of_pillow_is_turned_off():
    package = Path(decode.__code__.co_filename).parents[1]
    for path in package.rglob("*.py"):
        assert not re.search("MAX_IMAGE_PIXELS|LOAD_TRUNCATED_IMAGES|MAX_TEXT", path.read_text()), path
    assert Image.MAX_IMAGE_PIXELS is not None


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
