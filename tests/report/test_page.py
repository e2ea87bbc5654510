"""The report page: one file, nothing executable, nothing remote, every string escaped."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from robustok.report.page import Page, image_grid
from robustok.report.results import Results


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def written(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    page = Page("A <title> & more").heading("First").text("x < y & z <script>alert(1)</script>").note("mind this")
    page.table([["<b>", 1.23456789, 7]], ["name", "value", "n"], "a table")
    page.figure(figure, 'a "figure"')
    pixels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    page.tiles([("some", pixels)], "five", columns=3).images(pixels[:1], "one")
    page.multiples([("grid", [("row <1>", pixels[:2])])], ["column 1", "column 2"], "small")
    page.save(tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_string_is_escaped(written):
    assert "<script" not in written and "<b>" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written
    assert "<title>A &lt;title&gt; &amp; more</title>" in written and "<th>row &lt;1&gt;</th>" in written
    assert '<td class="number">1.235</td><td class="number">7</td>' in written


def test_nothing_is_remote_and_the_policy_admits_only_what_is_there(written):
    tags = Tags(written).found
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in tags if tag == "img")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert "http://" not in written and "https://" not in written
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", written, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    assert not any("style" in attrs for _, attrs in tags)


def test_pictures_can_be_read_and_small_ones_are_enlarged(written):
    pictures = [base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', written)]
    sizes = [Image.open(io.BytesIO(data)).size for data in pictures]
    assert len(sizes) == 5
    assert sizes[1:] == [(8 * (3 * 10 - 2), 8 * (2 * 10 - 2)), (64, 64), (64, 64), (64, 64)]


def test_between_images_one_sees_the_page(tmp_path):
    Page("x").tiles([("two", torch.zeros(2, 3, 64, 64, dtype=torch.uint8))], "", columns=2).save(tmp_path / "x.html")
    data = re.search(r'base64,([^"]+)"', (tmp_path / "x.html").read_text())[1]
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.mode == "RGBA"
    assert [picture.getpixel((x, 5))[3] for x in (63, 64, 65, 66)] == [255, 0, 0, 255]


def test_a_grid_places_images_row_by_row():
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 4, 5)
    grid = image_grid(images, columns=2)
    assert grid.shape == (3, 10, 12)
    assert (grid[0, 0, 0], grid[0, 0, 7], grid[0, 6, 0]) == (0, 1, 2)
    assert (grid[:, 4:6] == 255).all() and (grid[:, 6:, 7:] == 255).all()
    with pytest.raises(ValueError, match="uint8"):
        image_grid(images.float(), 2)


def test_every_picture_has_a_text_and_every_table_its_own_box(written):
    tags = Tags(written).found
    assert all(attrs["alt"] for tag, attrs in tags if tag == "img")
    before = [tags[i - 1] for i, (tag, _) in enumerate(tags) if tag == "table"]
    grid = [i for i, (tag, attrs) in enumerate(tags) if tag == "table" and attrs.get("class") == "multiples"]
    assert before == [("div", {"class": "scroll"}), tags[grid[0] - 1]]
    texts = [attrs["alt"] for tag, attrs in tags if tag == "img"]
    assert texts[2:] == ["one 1 of 1", "grid, row <1>, column 1", "grid, row <1>, column 2"]


def test_columns_of_text_stand_on_the_left(tmp_path):
    rows = [("a", "1 (+2 %)", "0.5"), ("b", "-", "off")]
    Page("x").table(rows, ("name", "figure", "setting")).save(tmp_path / "x.html")
    heads = re.findall(r"<th\b[^>]*>", (tmp_path / "x.html").read_text())
    assert heads == ["<th>", '<th class="number">', "<th>"]


def test_what_a_killed_process_left_of_results_goes(tmp_path):
    left = tmp_path / ".metrics.json.0123456789abcdef.tmp"
    left.write_text("{")
    Results(tmp_path, "figures").save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "report.html"]
