"""What a compiled kernel's machine code says: registers, spills, and the instructions of its innermost loops.

Read with the disassembler that Triton ships, so that no GPU and no CUDA toolkit is needed.
"""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Code(NamedTuple):
    """A stretch of machine code: how often each instruction (FFMA, LDG.E.128, BAR.SYNC, ...) stands in it."""

    instructions: dict[str, int]

    @property
    def operations(self) -> dict[str, int]:
        """The same without modifiers: FFMA, LDG, BAR, ..."""
        found: Counter = Counter()
        for name, count in self.instructions.items():
            found[name.split(".")[0]] += count
        return dict(found)

    @property
    def length(self) -> int:
        return sum(self.instructions.values())


def resources(cubin: bytes) -> dict[str, int]:
    """{"registers": a thread's, "stack": bytes that a thread has for what finds no register}."""
    text = _run("cuobjdump", "-res-usage", cubin)
    names = {"registers": "REG", "stack": "STACK"}  # LOCAL is 0 whatever is spilled
    return {name: int(re.search(rf"\b{label}:(\d+)", text)[1]) for name, label in names.items()}


def loops(cubin: bytes) -> list[Code]:
    """The innermost loops of the only kernel in a cubin, in the order of its code."""
    return code(cubin)[1]


def code(cubin: bytes) -> tuple[Code, list[Code]]:
    """All of the only kernel in a cubin, and its innermost loops."""
    instructions, labels, jumps = [], {}, []
    for line in _run("nvdisasm", "-c", cubin).splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([\w.]+)(.*);", line):
            if target := re.search(r"`\((\.L_x_\d+)\)", found[2]):
                jumps.append((target[1], len(instructions)))
            instructions.append(found[1])
    spans = [(labels[name], end) for name, end in jumps if labels[name] < end]  # the last line jumps to itself
    innermost = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    inside = [Code(dict(Counter(instructions[start : end + 1]))) for start, end in innermost]
    return Code(dict(Counter(instructions))), inside


def _run(tool: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout
