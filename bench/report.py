"""`make gpu-report`: the GPU tests and every benchmark, in slices of at most eight minutes, into one folder.

    python bench/report.py --output bench/results/NAME

Each slice is a process of its own that is stopped when its time is up; report.md says how each ended.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from recording import describe_machine

SLICE_SECONDS = 480
ROOT = Path(__file__).parents[1]


def slices(output: Path) -> dict[str, list[str]]:
    """Arguments of pytest by the name of the slice."""
    found = {
        f"tests/{folder.name}": ["-m", "gpu", str(folder)]
        for folder in sorted((ROOT / "tests").iterdir())
        if folder.is_dir() and list(folder.glob("test_*.py"))
    }
    for bench in sorted((ROOT / "bench").glob("bench_*.py")):
        found[f"bench/{bench.stem}"] = [str(bench), "--benchmark", "--output", str(output / bench.stem)]
    return found


def run_slice(arguments: list[str], log: Path) -> str:
    """How pytest ended, in words."""
    with log.open("w") as out:
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=out, timeout=SLICE_SECONDS).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {SLICE_SECONDS} s"
    return {0: "passed", 5: "nothing to run"}.get(code, f"failed ({code})")


def main() -> int:
    parser = argparse.ArgumentParser("bench/report.py", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    lines = [f"- {key}: {value}" for key, value in describe_machine().items()]
    lines += ["", "| slice | seconds | result |", "|---|---|---|"]
    failed = False
    for name, arguments in slices(output).items():
        begin = time.monotonic()
        result = run_slice(arguments, output / f"{name.replace('/', '_')}.log")
        failed |= result not in ("passed", "nothing to run")
        lines.append(f"| {name} | {time.monotonic() - begin:.0f} | {result} |")
        print(lines[-1], flush=True)
    tables = [f"\n## {path.parent.name}\n\n{path.read_text()}" for path in sorted(output.glob("*/*.md"))]
    (output / "report.md").write_text("\n".join([*lines, *tables]) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
