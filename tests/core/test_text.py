"""Names with brackets, control sequences and bytes that are no UTF-8 are shown as they are, wherever they go."""

import io
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from PIL import Image

from robustok.core.progress import Progress
from robustok.core.text import printable, some_of
from robustok.evaluation.explaining import Lipschitz
from robustok.report.page import Page
from robustok.report.plots import correlation_figure, lipschitz_figure
from robustok.report.results import Results

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tok[ema] :smile:\tß\n", "tok[ema] :smile:\tß\n"),
        (NOT_UTF8, r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("\x1b[31mred\r\x7f\x9b", r"\x1b[31mred\x0d\x7f\x9b"),
        ("a\u202egpj", r"a\u202egpj"),
        (3, "3"),
    ],
)
def test_what_is_written_out(text, shown):
    assert printable(text) == shown


def test_some_names_and_how_many_more_there_are():
    assert [some_of(range(n), 2) for n in range(4)] == ["nothing", "0", "0, 1", "0, 1 and 1 more"]
    assert some_of({"a\nb": 1}) == r"a\nb"


def test_a_table_shows_names_as_they_are(tmp_path, capsys):
    names = ("tok[ema]", "[/red]", ":smile:", "[link=x]y", NOT_UTF8)
    results = Results(tmp_path, "[bold]title " + NOT_UTF8)
    results.table([(name, 0.5) for name in names], ("a[b]", "value"), "of [i]x")
    results.notes(["note [b] " + NOT_UTF8])
    results.add("name", NOT_UTF8)
    results.save()
    out, err = capsys.readouterr()
    page = (tmp_path / "report.html").read_text()
    for name in (*map(printable, names), "a[b]", "of [i]x"):
        assert name in out and name in page
    assert printable(NOT_UTF8) in err
    assert json.loads((tmp_path / "metrics.json").read_text())["name"] == NOT_UTF8


def test_a_page_escapes_what_html_means(tmp_path):
    Page("<b>&").text("<script>\x1b " + NOT_UTF8).save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_bytes().decode()
    assert "&lt;script&gt;\\x1b caf\\xe9" in text and "<b>&" not in text


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "a$b", NOT_UTF8])
def test_figures_show_names_as_they_are(name):
    figure = lipschitz_figure({name: Lipschitz(1.5, 2.0, torch.tensor([1.0, 2.0]))})
    (text,) = figure.axes[0].get_legend().get_texts()
    assert printable(name) in text.get_text().replace(r"\$", "$")
    points = correlation_figure([{"name": name, "rfid": 1.0, "gfid": 2.0}], "rfid", "gfid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawn in (figure, points):
            drawn.savefig(io.BytesIO(), format="png")


def test_a_bar_on_a_terminal_shows_a_title_as_it_is(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("tok[ema] " + NOT_UTF8, 2) as progress:
        progress.show(2)
    assert "tok[ema] caf\\xe9" in sys.stderr.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names must be text")
def test_a_folder_with_such_names_on_an_ascii_terminal(tmp_path):
    for i, name in enumerate(("tok[ema]", "größe", NOT_UTF8, "\x1b[31m")):
        (tmp_path / name).mkdir()
        for j in range(2):
            Image.new("RGB", (8, 8), (40 * i, 90 * j, 7)).save(tmp_path / name / f"{j}.png")

    def run(*options):
        command = [sys.executable, "-m", "robustok.check_data", str(tmp_path), *options]
        environment = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "dumb"}
        done = subprocess.run(command, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("ascii")

    text = run()
    for shown in ("tok[ema]: 2", r"gr\xf6\xdfe: 2", r"caf\xe9: 2", r"\x1b[31m: 2"):
        assert shown in text
    assert set(json.loads(run("--json"))["classes"]) == {"tok[ema]", "größe", NOT_UTF8, "\x1b[31m"}
