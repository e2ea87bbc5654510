"""Every kind of page: what names of files and classes cannot do to it, and how it looks in a real browser."""

import base64
import hashlib
import json
import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from shutil import which

import pytest

KINDS = {"train", "train on latents", "tokenizer", "decoders", "benchmark", "samples"}
KINDS |= {f"explain {name}" for name in ("codebook", "strips", "lipschitz", "mmd", "elbow", "correlation")}
ALLOWED = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "dl",
        "div",
        "dt",
        "dd",
        "figure",
        "figcaption",
    ),
    *("img", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"alt", "class", "src", "lang", "charset", "content", "name", "http-equiv"}


class Parts(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_every_kind_is_here(pages):
    assert pages.keys() == KINDS


def test_names_are_text_and_nothing_else(pages):
    for kind, path in pages.items():
        page = path.read_text(encoding="utf-8")
        parts = Parts(page)
        assert {tag for tag, _ in parts.tags} <= ALLOWED, kind
        assert {name for _, attrs in parts.tags for name in attrs} <= ATTRIBUTES, kind
        if kind != "train on latents":
            assert "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;$a_b^$\\xe9" in parts.text, kind


def test_nothing_is_remote_and_a_policy_says_so(pages):
    for kind, path in pages.items():
        page = path.read_text(encoding="utf-8")
        tags = Parts(page).tags
        assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in tags if tag == "img"), kind
        policy = next(attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
        style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
        assert "url(" not in style and "@import" not in style
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'", kind


BROWSER = next(filter(None, map(which, ("chromium-headless-shell", "chromium", "google-chrome", "chrome"))), None)
WIDTHS = (400, 1280)
PROBE = """<!DOCTYPE html>{frames}<script>
onload = () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, wide = page.documentElement, shown = [...page.images];
    found[frame.name] = {{
      width: wide.clientWidth, needed: wide.scrollWidth, height: wide.scrollHeight,
      styled: getComputedStyle(page.querySelector("h1")).overflowWrap == "anywhere",
      broken: shown.filter(image => !image.naturalWidth).length, smallest: Math.min(...shown.map(i => i.clientWidth)),
    }};
  }}
  document.title = JSON.stringify(found);
}}</script>"""


@pytest.fixture(scope="session")
def seen(pages, tmp_path_factory) -> tuple[dict, str]:
    """({"WIDTH KIND": what a script beside the pages measures}, the browser's log): all pages in frames, one start."""
    folder = tmp_path_factory.mktemp("browser")
    frames = "".join(
        f'<iframe name="{width} {kind}" width="{width}" height="800" src="{path.as_uri()}"></iframe>'
        for width in WIDTHS
        for kind, path in pages.items()
    )
    (folder / "probe.html").write_text(PROBE.format(frames=frames))
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
    )
    where = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom")
    command = [BROWSER, *flags, *where, (folder / "probe.html").as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    title = re.search(r"<title>(.*?)</title>", ran.stdout, re.S)
    assert title, ran.stderr
    return json.loads(unescape(title[1])), ran.stderr


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")


@needs_browser
def test_in_a_browser_nothing_is_wider_than_the_window(pages, seen):
    found, _ = seen
    assert found.keys() == {f"{width} {kind}" for width in WIDTHS for kind in pages}
    wide = {name: page for name, page in found.items() if page["needed"] > page["width"]}
    assert not wide
    assert all(page["styled"] and page["height"] > 300 for page in found.values())


@needs_browser
def test_in_a_browser_pictures_are_there_and_large_enough(seen):
    """The narrowest are cells of small multiples and of galleries; a tile holds up to four images side by side."""
    found, _ = seen
    assert not {name for name, page in found.items() if page["broken"] or page["smallest"] < 75}


@needs_browser
def test_in_a_browser_there_is_no_error_on_the_console(seen):
    assert not [line for line in seen[1].splitlines() if "CONSOLE" in line]
