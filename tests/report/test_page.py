"""The report page: one file, nothing executable, nothing remote, every string escaped."""

import base64
import hashlib
import io
import re
import subprocess
from html.parser import HTMLParser
from shutil import which

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from robustok.report.page import Page, image_grid


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
    page.images(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), "five", columns=3)
    page.save(tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_string_is_escaped(written):
    assert "<script" not in written and "<b>" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written
    assert "<title>A &lt;title&gt; &amp; more</title>" in written
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
    assert len(sizes) == 2
    assert sizes[1] == (8 * (3 * 10 - 2), 8 * (2 * 10 - 2))


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
    assert before == [("div", {"class": "scroll"})]


def test_columns_of_text_stand_on_the_left(tmp_path):
    rows = [("a", "1 (+2 %)", "0.5"), ("b", "-", "off")]
    Page("x").table(rows, ("name", "figure", "setting")).save(tmp_path / "x.html")
    heads = re.findall(r"<th\b[^>]*>", (tmp_path / "x.html").read_text())
    assert heads == ["<th>", '<th class="number">', "<th>"]


BROWSER = next(filter(None, map(which, ("chromium-headless-shell", "chromium", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")
@pytest.mark.parametrize("width", [400, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window(tmp_path, width):
    """A script that the test puts beside the page, in a frame of that width, writes what it measures into the title."""
    page = Page("w" * 300).headlines([("gFD", "0.8952", "m" * 200)]).note("n" * 300).text("t" * 300)
    page.table([["c" * 200, 1.0] * 4], ["name", "value"] * 4, "x" * 300)
    pixels = torch.zeros(12, 3, 64, 64, dtype=torch.uint8)
    page.images(pixels, "y" * 300, columns=12).tiles([("z" * 300, pixels)] * 3, "tiles", columns=3)
    page.save(tmp_path / "report.html")
    probe = (
        f'<iframe id="f" width="{width}" height="800" src="report.html"></iframe><script>onload = () => {{'
        'const d = f.contentDocument.documentElement; document.title = d.scrollWidth + " " + d.clientWidth}</script>'
    )
    (tmp_path / "probe.html").write_text(probe)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr")
    where = (f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom")
    command = [BROWSER, *flags, *where, (tmp_path / "probe.html").as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    measured = re.search(r"<title>(\d+) (\d+)</title>", ran.stdout)
    assert measured and int(measured[1]) <= int(measured[2]) <= width
    assert "CONSOLE" not in ran.stderr
