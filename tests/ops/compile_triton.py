"""Script: compiles every Triton kernel for two GPU generations and prints one JSON object, {"kernel sm": what it is}.

Its own process, because the interpreter of the other tests is chosen when the kernels are imported.
"""

import importlib
import json

import triton
from kernel_table import EXACT, KERNELS, LAUNCHED, OPTIONS, SIZES, VARIANTS, WARPS  # beside this script
from machine_code import code, resources
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend


def source_of(kernel: str, more_types: dict[str, str] = {}, **more_constants: int):  # noqa: B006 (never written)
    """The kernel with its arguments' types, as the compiler takes it."""
    path, types, constants = KERNELS[kernel]
    module, name = path.split(".")
    function = getattr(importlib.import_module(f"robustok.kernels.{module}"), name)
    constants = constants | more_constants
    signature = {argument: types.get(argument, "i32") for argument in function.arg_names} | more_types
    signature |= dict.fromkeys(constants, "constexpr")
    return triton.compiler.ASTSource(fn=function, signature=signature, constexprs=constants)


def compiled(source, kernel: str, capability: int, multiple: int, **options):
    """Compiled where pointers and sizes are multiples of this."""
    if multiple == 16:
        types = source.signature.items()
        aligned = [kind.startswith("*") or (kind != "constexpr" and argument in SIZES) for argument, kind in types]
        source.attrs = {(i,): [["tt.divisibility", 16]] for i, is_aligned in enumerate(aligned) if is_aligned}
    warps = WARPS.get(kernel.replace(",", " ").split()[0], 4)
    options = {"num_warps": warps, **OPTIONS.get(kernel, {}), **options}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def refused_numbers(kernel: str) -> list[str]:
    """Whole numbers among the arguments with which the kernel does not compile where they are 1, a constant then, or
    beyond 2**31, which a number of codes never is."""
    target = GPUTarget("cuda", 90, 32)
    backend = make_backend(target)
    options = backend.parse_options({})
    refused = []
    numbers = [argument for argument, kind in source_of(kernel).signature.items() if kind in ("i32", "i64")]
    sources = {f"{argument} = 1": source_of(kernel, **{argument: 1}) for argument in numbers}
    sources |= {
        f"{argument} of 64 bits": source_of(kernel, {argument: "i64"}) for argument in numbers if argument != "K"
    }
    for name, source in sources.items():
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        front_end = (target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
        try:
            source.make_ir(*front_end)
        except triton.compiler.errors.CompilationError as error:
            refused.append(f"{name}: {error}")
    return refused


def loop_of(length: int, operations: dict[str, int]) -> dict:
    """An innermost loop: its instructions, barriers, and whether the tensor cores multiply in it."""
    return {"length": length, "barriers": operations.get("BAR", 0), "products": bool({"HMMA", "HGMMA"} & {*operations})}


def as_launched(kernel: str) -> dict:
    """Machine code for sm_90 at the published shapes: its resources, its stores and loads of spilled registers, and its
    innermost loops."""
    fusion = {"enable_fp_fusion": kernel not in EXACT}
    found = compiled(source_of(kernel, **LAUNCHED[kernel]), kernel, 90, 16, **fusion)
    whole, loops = code(found.asm["cubin"])
    return {
        **resources(found.asm["cubin"]),
        "shared": found.metadata.shared,
        "threads": 32 * found.metadata.num_warps,
        "spills": sum(whole.operations.get(name, 0) for name in ("STL", "LDL")),
        "loops": [loop_of(loop.length, loop.operations) for loop in loops],
    }


def compile_kernel(kernel: str, capability: int, multiple: int) -> dict:
    found = compiled(source_of(kernel), kernel, capability, multiple, enable_fp_fusion=False)
    ptx = found.asm["ptx"]
    return {
        "bytes": len(found.asm["cubin"]),
        "shared": found.metadata.shared,
        "tensor_cores": "mma" in ptx,
        "fused_float64": "fma.rn.f64" in ptx,
    }


if __name__ == "__main__":
    found: dict = {f"{kernel} sm_{sm} {m}": compile_kernel(kernel, sm, m) for kernel in KERNELS for sm, m in VARIANTS}
    found |= {f"{kernel}, numbers": refused_numbers(kernel) for kernel in KERNELS}
    print(json.dumps(found | {f"{kernel}, as launched": as_launched(kernel) for kernel in LAUNCHED}))
