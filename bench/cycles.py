"""How long a recorded launch takes on one H200, by its machine code: an estimate, not a measurement.

Its instructions are counted by the pipe that executes them. The time is the soft maximum of
- each pipe: warp instructions x clocks a pipe needs for one, over 4 schedulers of 132 multiprocessors;
- latency: what a block's own chain takes (a warp alone issues every second clock, a barrier and a load wait), where
  registers and shared memory let too few blocks live on a multiprocessor to hide it;
- memory: all tensors once, at the rate of a copy;
and 2 us for the launch. How often loops turn is known from sizes, and for what depends on data (near ties, bisection)
from what random inputs gave on a CPU. Not modelled: bank conflicts, the caches, clocks under load. Expect +-30 %.
"""

import functools
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ops"))

from machine_code import Code, code, resources

from .launches import Launch, compiled

# One H200: product and copy as measured on such a card (PERFORMANCE of the goals), clock and sizes by the data sheet.
MULTIPROCESSORS, CLOCK, PRODUCTS, COPY = 132, 1.98e9, 790e12, 4.3e12
REGISTERS, SHARED, WARPS, BLOCKS = 65536, 227 << 10, 64, 32  # of a multiprocessor
BARRIER, LOAD, LINE = 30, 800, 100  # clocks that a barrier, a load, and a load of a line that was read before wait
LAUNCH = 2e-6  # seconds
SCHEDULER_PRODUCTS = PRODUCTS / (MULTIPROCESSORS * 4 * CLOCK)  # operations a clock
# Clocks that a scheduler's share of a pipe is busy with one warp instruction; the load/store unit is shared by four.
PIPES = {
    "float32": (1, "FFMA FADD FMUL HFMA2 HADD2 HMUL2"),
    "multiply": (2, "IMAD"),
    "float64": (2, "DADD DMUL DFMA DSETP"),
    "special": (8, "MUFU I2F F2I F2F POPC FLO I2FP F2FP"),
    "memory unit": (4, "LDG STG LDS STS LDSM LDGSTS STSM ATOM ATOMG ATOMS RED SHFL LD ST REDUX MATCH"),
}
PIPE_OF = {operation: (pipe, clocks) for pipe, (clocks, names) in PIPES.items() for operation in names.split()}
NO_PIPE = "U R2UR BRA BAR DEPBAR NOP EXIT WARPSYNC BSSY BSYNC S2R LDC WARPGROUP"  # beginnings of names
# Shares of the rows that a list holds, and turns of loops that depend on the data, as random unit rows gave them.
LISTED = {"resolve_ties": 0.003, "select": 0.004, "rest": 0.0}
TURNS = 10  # of a bisection of 32 rows, until the last of them ends
AT_ONCE = {"select_top": 4}  # tiles of codes that a turn of the main loop scores
ONE_ROW = ("normalize_rows", "prepare", "order")  # where a thread sums over one row, a product for each coordinate

disassembled = functools.cache(code)


def pipe_of(instruction: str) -> tuple[str, float]:
    """(pipe, clocks) of an instruction with its modifiers."""
    operation, *modifiers = instruction.split(".")
    if operation in ("HMMA", "HGMMA"):
        sides = modifiers[0]
        m, n, k = (int(x) for x in sides.split("x")) if "x" in sides else (16, 8, int(sides[3:]))
        return "tensor", 2 * m * n * k / (4 if operation == "HGMMA" else 1) / SCHEDULER_PRODUCTS
    if operation in PIPE_OF:
        pipe, clocks = PIPE_OF[operation]
        wide = {"64": 2, "128": 4, "4": 4, "2": 2}
        return pipe, clocks * max(wide.get(m, 1) for m in ("", *modifiers)) if pipe == "memory unit" else clocks
    return ("none", 0) if operation.startswith(tuple(NO_PIPE.split())) else ("compare, logic", 2)


def turns(loops: list[Code], i: int, launch: Launch) -> float:
    """How often innermost loop i turns in one pass of a program."""
    given, operations = launch.arguments, loops[i].operations
    if "HGMMA" in operations or "HMMA" in operations:
        return math.ceil(given["K"] / given["BLOCK_K"] / AT_ONCE.get(launch.name, 1))
    if launch.name == "settle":  # settle.py: its own sums come first; the definition is asked of next to no row
        return math.ceil(given["D"] / given["BLOCK_D"]) if i == 0 else 0
    if "BLOCK_T" in given:  # attention, over the keys
        return math.ceil(given["keys"].shape[2] / given["BLOCK_T"])
    if is_definition(loops[i]) and launch.name in ONE_ROW:
        return given["D"] / operations["DMUL"]
    if is_definition(loops[i]):  # unrolled, with a loop after it for what is left
        before, after = (loops[j] for j in ((i - 1) % len(loops), (i + 1) % len(loops)))
        sums = [x.operations["DADD"] if is_definition(x) else operations["DADD"] for x in (before, loops[i], after)]
        return 0 if sums[0] > sums[1] else given["D"] / (sums[1] / sums[2])
    if launch.name == "prepare":
        return math.ceil(given["D"] / given["BLOCK_D"])
    if launch.name == "order":  # over the candidates, unrolled by four, with a loop after it for what is left
        return given["delta"] / 4 if operations["LDG"] > 2 else 0
    return TURNS if "BAR" in operations else 1


def is_definition(loop: Code) -> bool:
    """Whether it sums over the coordinates in order, in float64."""
    return "DADD" in loop.operations and "DFMA" not in loop.operations


def passes(launch: Launch) -> float:
    """How often a program goes through its code: a part of the listed rows is its own."""
    if launch.name not in LISTED:
        return 1
    rows = launch.arguments["out"].numel() * LISTED[launch.name]
    return rows / launch.arguments.get("BLOCK_N", 1) / launch.programs


def seconds(launch: Launch) -> dict[str, float]:
    """What a launch takes by each limit, and "all"."""
    kernel, warps = compiled(launch), launch.options.get("num_warps", 4)
    whole, loops = disassembled(kernel.cubin)
    counted = dict(whole.instructions)
    chain = 0.0
    for i, loop in enumerate(loops):
        more = turns(loops, i, launch) - 1
        # what no other block has read: keys, and weights
        wait = LOAD if "BLOCK_T" in launch.arguments or launch.name == "linear" else LINE
        chain += max(0, more) * (wait if loop.operations.get("LDG") else 0)
        for name, count in loop.instructions.items():
            counted[name] += more * count
    clocks = {"issue": float(sum(counted.values()))}
    for name, count in counted.items():
        pipe, each = pipe_of(name)
        clocks[pipe] = clocks.get(pipe, 0.0) + each * count
    barriers = sum(count for name, count in counted.items() if name.startswith("BAR"))
    chain += 2 * LOAD + 2 * clocks["issue"] + BARRIER * barriers
    most = MULTIPROCESSORS * resident(resources(kernel.cubin)["registers"], kernel.shared, warps)
    again, share = passes(launch), math.ceil(launch.programs / MULTIPROCESSORS)
    found = {pipe: share * again * value * warps / 4 / CLOCK for pipe, value in clocks.items() if pipe != "none"}
    found["latency"] = max(1, launch.programs / most) * again * chain / CLOCK
    found["bytes"] = min(1, again) * launch.bytes / COPY
    return found | {"all": soft_maximum(found.values()) + LAUNCH}


def resident(registers: int, shared: int, warps: int) -> int:
    """Blocks that live on a multiprocessor at a time."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return max(1, min(by_registers, SHARED // (shared + 1024), WARPS // warps, BLOCKS))


def soft_maximum(values) -> float:
    """Of terms that overlap, though not fully: two equal ones count as 1.19."""
    return sum(value**4 for value in values) ** 0.25
