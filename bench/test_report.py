"""The report: slices that are stopped and gone on with, and a machine that lacks packages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from . import recording, report
from .bench_sampling import SMALL, random_model
from .bench_sampling_gpu import beside_peers
from .sampling_peers import CompiledStaticCache

ROOT = Path(__file__).parents[1]
QUICK = """
def test_quick(record):
    record.add("a goal", "what", "expected", "found", True)
"""
SLOW = """
import time

def test_first(record):
    record.add("a goal", "measured in time", "expected", "found", True)

def test_second(record):
    time.sleep(600)
"""
# Collects in a process in which packages that a bare machine lacks are hidden: all files of rows once, of which each
# slice (its files, and what -k says) has its part, and everything that needs a GPU.
COLLECT = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

MISSING, slices, files = json.loads(sys.argv[1])
sys.meta_path.insert(0, Hidden())
import pytest
from _pytest.mark import deselect_by_keyword

found = {}

class Rows:
    def pytest_collection_finish(self, session):
        for name, (its_files, keyword) in slices.items():
            items = [item for item in session.items if item.nodeid.partition("::")[0] in its_files]
            session.config.option.keyword = keyword
            deselect_by_keyword(items, session.config)
            found[name] = [item.nodeid for item in items]

class Gpu:
    def pytest_collection_finish(self, session):
        found["gpu"] = [item.nodeid for item in session.items]

for plugin, arguments in ((Rows(), files), (Gpu(), ["-m", "gpu", "tests"])):
    code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *arguments], plugins=[plugin])
    assert code == 0, arguments
print(json.dumps(found))
"""
MISSING = ("jsonargparse", "torch_fidelity", "flash_kmeans", "flashlib", "vector_quantize_pytorch", "flash_attn")


class Impatient(subprocess.Popen):
    """A process whose time is up as soon as it has written the row of the slow slice."""

    written: Path

    def wait(self, timeout=None):
        while timeout is not None and self.poll() is None:
            if self.written.exists() and "measured in time" in self.written.read_text():
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.05)
        return super().wait()


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """Folder of a report of two slices: one that ends, and one that is stopped after its first row."""
    bench = tmp_path / "bench"
    bench.mkdir()
    for name in ("conftest.py", "recording.py"):
        (bench / name).write_bytes((ROOT / "bench" / name).read_bytes())
    slices = {}
    for name, text in (("quick", QUICK), ("slow", SLOW)):
        path = bench / f"bench_{name}.py"
        path.write_text(text)
        slices[name] = [str(path), "-c", "/dev/null", "--rootdir", str(tmp_path), "--import-mode=importlib"]
    output = tmp_path / "results"
    monkeypatch.setattr(report, "ROWS", slices)
    monkeypatch.setattr(report, "SLICES", slices)
    monkeypatch.setattr(Impatient, "written", output / "results.json", raising=False)
    monkeypatch.setattr(report.subprocess, "Popen", Impatient)
    monkeypatch.setattr(sys, "argv", ["report.py", "--output", str(output)])
    return output


def test_a_report_goes_on_where_it_was_stopped(output, capsys):
    assert report.main() == 1
    said = capsys.readouterr().out
    assert "quick: passed" in said and f"slow: stopped after {report.SLICE_SECONDS} s" in said
    rows = json.loads((output / "results.json").read_text())
    assert rows["slow: slow"]["rows"][0]["what"] == "measured in time"
    Path(report.ROWS["slow"][0]).write_text(QUICK)
    (output / "results.json").unlink()
    assert report.main() == 0
    said = capsys.readouterr().out
    assert "slow: passed" in said and "quick" not in said
    assert len(list(output.iterdir())) <= 8


def test_a_report_of_another_commit_begins_anew(output, monkeypatch):
    output.mkdir()
    done = {name: {"result": "passed", "seconds": 1} for name in report.SLICES}
    (output / "slices.json").write_text(json.dumps({"place": report.place(), "slices": done}))
    assert all(report.State(output).is_finished(name) for name in report.SLICES)
    monkeypatch.setattr(report, "commit", lambda: "another")  # as another GPU does
    assert not any(report.State(output).is_finished(name) for name in report.SLICES)


@pytest.fixture(scope="module")
def collected() -> dict[str, list[str]]:
    """Tests of every slice, of all files of rows, and of everything that needs a GPU."""
    slices = {
        name: ([part for part in arguments if part.endswith(".py")], arguments[-1] if "-k" in arguments else "")
        for name, arguments in report.ROWS.items()
    }
    files = sorted({file for its_files, _ in slices.values() for file in its_files})
    wanted = json.dumps([MISSING, {**slices, "every row": (files, "")}, files])
    done = subprocess.run([sys.executable, "-c", COLLECT, wanted], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_slice_has_tests_on_a_bare_machine(collected):
    assert [name for name in (*report.ROWS, "gpu") if not collected[name]] == []


def test_no_row_of_a_gpu_is_left_out(collected):
    rows = {test for test in collected["every row"] if "on_cpu" not in test and "[cpu]" not in test}
    in_slices = {test for name in report.ROWS for test in collected[name]}
    assert rows - in_slices == {"bench/bench_sampling.py::test_compiled_peer_draws_the_same_tokens"}


def test_time_that_is_left_goes_to_what_was_not_begun(output, monkeypatch):
    """A slice that was stopped is gone on with where there is as much time as it had: it begins anew."""
    output.mkdir()
    begun = {}
    monkeypatch.setattr(report, "run", lambda command, log, environment, limit: begun.update({command[6]: limit}))
    monkeypatch.setattr(report, "find_spec", lambda name: True)
    paths = {name: arguments[0] for name, arguments in report.ROWS.items()}
    stopped = {"quick": {"result": "stopped after 300 s", "seconds": 300}}
    (output / "slices.json").write_text(json.dumps({"place": report.place(), "slices": stopped}))
    for seconds, expected in ((30, []), (200, ["slow"]), (400, ["slow", "quick"])):
        begun.clear()
        monkeypatch.setattr(report.State, "add", lambda *a: None)
        monkeypatch.setattr(sys, "argv", ["report.py", "--output", str(output), "--seconds", str(seconds)])
        report.main()
        assert list(begun) == [paths[name] for name in expected]
        assert all(seconds - 10 < limit <= seconds for limit in begun.values())


def test_a_slice_ends_with_the_report(tmp_path, monkeypatch):
    """Where the report is interrupted, what it started does not go on computing beside the next one."""

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is not None:
                raise KeyboardInterrupt
            return super().wait()

        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            started.append(self)

    started = []
    monkeypatch.setattr(report.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.run([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", {}, 400)
    assert started[0].returncode == -signal.SIGKILL


# What a slice does: it starts another process and says so to whoever reads; both hold the end of that pipe.
SLICE = """
import subprocess, sys, time
with open(sys.argv[1], "w") as said:
    started = subprocess.Popen(["sleep", "600"], pass_fds=[said.fileno()])
    print("begun", file=said, flush=True)
    time.sleep(600)
    print("went on", file=said, flush=True)
"""
REPORT = "import sys; from pathlib import Path; from bench import report; report.run({}, Path(sys.argv[1]), {{}}, 900)"


def test_a_slice_ends_with_a_report_that_is_killed(tmp_path):
    """And so does what the slice started: the pipe that all of it writes to comes to its end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = REPORT.format([sys.executable, "-c", SLICE, str(pipe)])
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], cwd=ROOT)
    with pipe.open() as said:
        assert said.readline() == "begun\n"
        killed.kill()
        killed.wait()
        assert said.read() == ""


def test_a_peer_that_fails_costs_no_row(tmp_path):
    found = recording.Record()

    def broken():
        raise AssertionError("a | b\nc")

    assert list(found.able("lookup", {"works": int, "broken": broken})) == ["works"]
    row = found.rows[0]
    assert row["what"] == "broken" and row["found"] == "cannot run: AssertionError: a / b c" and row["reached"] is None


def test_a_compiler_that_fails_costs_the_others_no_row(monkeypatch):
    def broken(*_):
        raise RuntimeError("no graph")

    monkeypatch.setattr(CompiledStaticCache, "generate", broken)
    found, model = recording.Record(), random_model(SMALL)
    runs = beside_peers(found, "latency", model, model, torch.tensor([1]))
    assert list(runs) == ["ours", "the authors' loop"]
    assert found.rows[0]["what"] == "torch.compile + static cache" and "no graph" in found.rows[0]["found"]
