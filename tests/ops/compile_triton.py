"""Script: compiles every Triton kernel for two GPU generations and prints one JSON object, {"kernel sm": what it is}.

Its own process, because the interpreter of the other tests is chosen when the kernels are imported.
"""

import importlib
import json

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend

P32, P64, F32, F64, F16, BF16 = "*i32", "*i64", "*fp32", "*fp64", "*fp16", "*bf16"
TILE = {"SPLIT": True, "PRODUCT": False, "BLOCK_K": 64, "BLOCK_D": 64}
ONE_COORDINATE = {"D": 1, "BLOCK_D": 16}
SCORED = {"u": F32, "high": F16, "low": F16, "bias": F32, "limits": F32}
CODES = SCORED | {"codebook": BF16, "rows": F32, "transposed": F32, "tile_numbers": P32}
NEAREST = SCORED | {"tile_numbers": P32, "entries": P32, "tied": P32, "tied_count": P32}
RESOLVE = {"u": F32, "transposed": F32, "out": P64, "tied": P32, "tied_count": P32}
FEW = {"u": F32, "rows": F32, "transposed": F32, "out": P64, "entries": P32}
SELECT = SCORED | {"transposed": F32, "ranks": P32, "out": P64, "scratch": F32, "errors": F32}
SELECT |= {"listed": P32, "listed_count": P32}
TOP = SCORED | {"ranks": P32, "out": P64, "listed": P32, "listed_count": P32, "tied": P32, "tied_count": P32}
SETTLE = {"u": F32, "transposed": F32, "out": P64, "tied": P32, "tied_count": P32}
PLAIN = {"high": F32}  # rows that are not of unit length
NO_LOW = {"low": None}
PRODUCTS = {"SPLIT": False, "PRODUCT": True}
NEIGHBORS = {"u": F32, "transposed": F32, "out": P64}
FINISH = {"u": F32, "codes": F32, "nearest": P64, "indices": P64, "z_q": BF16, "z_q_clean": BF16, "usage": P64}
FINISH |= {"partial": F64}
BACKWARD = {"z": BF16, "first": BF16, "second": BF16, "codes": F32, "nearest": P64, "vq": F32, "commit": F32}
BACKWARD |= {"dz": BF16, "de": F64, "scale": "fp32"}
BACKWARD |= {f"{tensor}_{d}": "i64" for tensor in ("z", "first", "second") for d in "bld"}
LOOKUP = TILE | {"TILES": 64, "WIDE": False, "GROUP": 2, "BLOCK_N": 128}
TOP_SELECTION = TILE | {"BLOCK_N": 32, "LEVELS": 8, "CANDIDATES": 4, "TILES": 64, "WIDE": False}
SELECTION = TILE | {"BLOCK_N": 16, "ROWS": 4, "BLOCK": 4096}
ATTENTION = {"query": BF16, "keys": BF16, "values": BF16, "places": P64, "out": BF16, "scale": "fp32"}
ONE_QUERY = {"BLOCK_T": 32, "BLOCK_W": 16}
NORMS, ROTATION = ("query_weight", "query_bias", "key_weight", "key_bias"), ("cos", "sin")
APPEND = (
    ATTENTION
    | {"key": BF16, "value": BF16, "epsilon": "fp32"}
    | dict.fromkeys(NORMS, BF16)
    | dict.fromkeys(ROTATION, F32)
)
NOTHING_NEW = dict.fromkeys(("key", "value", *NORMS, *ROTATION)) | {"epsilon": 0.0, "ahead": 0}
ROWS = {"BLOCK_N": 64, "BLOCK_D": 64}
# By name: the kernel, types of its arguments (i32 where none is given), constants. A number that is 1 is a constant,
# and so is a pointer that is None.
KERNELS = {
    "normalize rows": (
        "rows._normalize_rows_kernel",
        {"z": BF16, "out": F32, "stride_b": "i64", "stride_l": "i64", "stride_d": "i64", "first": "i64"},
        ROWS | {"NORMALIZE": True},
    ),
    "codes": ("codes._prepare_kernel", CODES, {"NORMALIZE": True, "PRODUCT": False, "BLOCK_K": 64, "BLOCK_D": 64}),
    "codes, one coordinate": (
        "codes._prepare_kernel",
        CODES | PLAIN,
        NO_LOW | ONE_COORDINATE | {"NORMALIZE": False, "PRODUCT": True, "BLOCK_K": 64},
    ),
    "nearest": ("nearest._nearest_kernel", NEAREST, LOOKUP),
    "nearest, wide": ("nearest._nearest_kernel", NEAREST, LOOKUP | {"WIDE": True}),
    "nearest, any length": ("nearest._nearest_kernel", NEAREST | PLAIN, LOOKUP | {"SPLIT": False, "BLOCK_N": 32}),
    "nearest, products": ("nearest._nearest_kernel", NEAREST | PLAIN, LOOKUP | PRODUCTS | {"BLOCK_N": 32}),
    "nearest, one coordinate": ("nearest._nearest_kernel", NEAREST, LOOKUP | ONE_COORDINATE),
    "resolve ties": (
        "nearest._resolve_ties_kernel",
        RESOLVE,
        {"PRODUCT": False, "TILES": 64, "BLOCK_K": 64, "GROUP": 2},
    ),
    "resolve ties, products": (
        "nearest._resolve_ties_kernel",
        RESOLVE,
        {"PRODUCT": True, "TILES": 64, "BLOCK_K": 64, "GROUP": 2},
    ),
    "settle few": (
        "settle._settle_kernel",
        FEW,
        {"PRODUCT": False, "BASES": 2, "GROUP": 2, "BLOCK_N": 32, "BLOCK_D": 16},
    ),
    "settle few, products": (
        "settle._settle_kernel",
        FEW,
        {"PRODUCT": True, "BASES": 2, "GROUP": 2, "BLOCK_N": 32, "BLOCK_D": 16},
    ),
    "select": ("select._select_kernel", SELECT, SELECTION),
    "select, any length": ("select._select_kernel", SELECT | PLAIN, SELECTION | NO_LOW | {"SPLIT": False}),
    "select, products": ("select._select_kernel", SELECT | PLAIN, SELECTION | NO_LOW | PRODUCTS),
    "select, one coordinate": ("select._select_kernel", SELECT, SELECTION | ONE_COORDINATE),
    "select top": ("select_top._select_top_kernel", TOP, TOP_SELECTION),
    "select top, products": (
        "select_top._select_top_kernel",
        TOP | PLAIN,
        TOP_SELECTION | NO_LOW | PRODUCTS,
    ),
    "settle": ("select_top._settle_kernel", SETTLE, {"PRODUCT": False, "CANDIDATES": 4, "BLOCK_N": 8}),
    "select, many codes": ("select._select_kernel", SELECT, SELECTION | {"ROWS": 1, "BLOCK": 1 << 15}),
    "neighbors": ("neighbors._neighbors_kernel", NEIGHBORS, {"PRODUCT": False, "BLOCK": 4096}),
    "neighbors, products": ("neighbors._neighbors_kernel", NEIGHBORS, {"PRODUCT": True, "BLOCK": 4096}),
    "draw": (
        "draw._draw_kernel",
        {"ids": P64, "threshold": P64, "delta": P64, "seed": P64, "out": P32, "first": "i64"},
        {"BLOCK": 256},
    ),
    "finish": ("quantize._finish_kernel", FINISH, ROWS),
    "straight-through": (
        "quantize._finish_kernel",
        FINISH,
        ROWS | dict.fromkeys(("nearest", "z_q_clean", "partial", "usage")),
    ),
    "backward": ("quantize._backward_kernel", BACKWARD, ROWS | {"NORMALIZE": True}),
    "backward of latents": (
        "quantize._backward_kernel",
        BACKWARD,
        ROWS
        | {"NORMALIZE": True}
        | dict.fromkeys(("second", "second_b", "second_l", "second_d", "codes", "nearest", "vq", "commit", "de")),
    ),
    "attention, one query": (
        "attention._one_query_kernel",
        ATTENTION,
        ONE_QUERY | NOTHING_NEW | {"WIDTH": 64, "PARTS": 4},
    ),
    "attention, new place": (
        "attention._one_query_kernel",
        APPEND,
        ONE_QUERY | dict.fromkeys(ROTATION) | {"WIDTH": 64, "PARTS": 4},
    ),
    "attention, new place of 48": (
        "attention._one_query_kernel",
        APPEND,
        ONE_QUERY | dict.fromkeys(ROTATION) | {"WIDTH": 48, "PARTS": 3},
    ),
    "attention, new place turned": (
        "attention._one_query_kernel",
        APPEND,
        ONE_QUERY | dict.fromkeys(NORMS) | {"WIDTH": 64, "PARTS": 4},
    ),
    "attention, few queries": (
        "attention._few_queries_kernel",
        ATTENTION,
        {"BLOCK_N": 16, "BLOCK_T": 64, "BLOCK_W": 64},
    ),
    "guided sample": (
        "sampling._guided_sample_kernel",
        {"logits": F32, "scales": F32, "samples": P64, "steps": P64, "seed": P64, "out": P64}
        | {"temperature": "fp32", "top_p": "fp32"},
        {"STREAM": 1, "GUIDED": True, "TOP_K": True, "TOP_P": True, "GROUPS": 1024},
    ),
}
OPTIONS = {
    "nearest": {"maxnreg": 128},
    "settle few": {"num_warps": 4},
    "select, many codes": {"num_warps": 16},
    "attention, one query": {"num_warps": 2},
    "attention, new place": {"num_warps": 2},
    "attention, new place of 48": {"num_warps": 2},
    "attention, new place turned": {"num_warps": 2},
    "attention, few queries": {"num_warps": 4},
}  # as launched; the others with eight warps

SIZES = {"D", "K", "Kp", "Dp", "R", "L", "count"}  # multiples of 16 at every published shape, and so are the strides
SIZES |= {f"{tensor}_stride_{dimension}" for tensor in ("query", "key") for dimension in "sht"}
LAUNCHED = ("nearest", "settle few", "select top", "attention, new place", "attention, new place of 48")


def source_of(kernel: str, **more_constants: int):
    """The kernel with its arguments' types, as the compiler takes it."""
    path, types, constants = KERNELS[kernel]
    module, name = path.split(".")
    function = getattr(importlib.import_module(f"robustok.kernels.{module}"), name)
    constants = constants | more_constants
    signature = {argument: types.get(argument, "i32") for argument in function.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    return triton.compiler.ASTSource(fn=function, signature=signature, constexprs=constants)


def refused_ones(kernel: str) -> list[str]:
    """Whole numbers among the arguments with which the kernel does not compile where they are 1: a constant then."""
    target = GPUTarget("cuda", 90, 32)
    backend = make_backend(target)
    options = backend.parse_options({})
    refused = []
    for argument, kind in source_of(kernel).signature.items():
        if kind not in ("i32", "i64"):
            continue
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        front_end = (target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
        try:
            source_of(kernel, **{argument: 1}).make_ir(*front_end)
        except triton.compiler.errors.CompilationError as error:
            refused.append(f"{argument}: {error}")
    return refused


def as_launched(kernel: str) -> dict:
    """Machine code for sm_90 where pointers and sizes are multiples of 16, as at the published shapes: its resources,
    and the length and barriers of each innermost loop, of those with products where there are any.
    """
    from machine_code import loops, resources  # beside this script

    source = source_of(kernel)
    aligned = [name.startswith("*") or argument in SIZES for argument, name in source.signature.items()]
    source.attrs = {(i,): [["tt.divisibility", 16]] for i, multiple in enumerate(aligned) if multiple}
    options = {"num_warps": 8, **OPTIONS.get(kernel, {})}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    code = compiled.asm["cubin"]
    innermost = loops(code)
    with_products = [loop for loop in innermost if {"HMMA", "HGMMA"} & loop.operations.keys()]
    found = [{"length": loop.length, "barriers": loop.operations.get("BAR", 0)} for loop in with_products or innermost]
    return {**resources(code), "shared": compiled.metadata.shared, "loops": found}


def compile_kernel(kernel: str, capability: int) -> dict:
    source = source_of(kernel)
    options = {"num_warps": 8, "enable_fp_fusion": False, **OPTIONS.get(kernel, {})}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {
        "bytes": len(compiled.asm["cubin"]),
        "shared": compiled.metadata.shared,
        "tensor_cores": "mma" in ptx,
        "fused_float64": "fma.rn.f64" in ptx,
    }


if __name__ == "__main__":
    found: dict = {f"{kernel} sm_{sm}": compile_kernel(kernel, sm) for kernel in KERNELS for sm in (80, 90)}
    found |= {f"{kernel}, ones": refused_ones(kernel) for kernel in KERNELS}
    print(json.dumps(found | {f"{kernel}, as launched": as_launched(kernel) for kernel in LAUNCHED}))
