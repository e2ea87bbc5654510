"""Script: compiles every Triton kernel for two GPU generations and prints one JSON object, {"kernel sm": what it is}.

Its own process, because the interpreter of the other tests is chosen when the kernels are imported.
"""

import importlib
import json

import triton
from triton.backends.compiler import GPUTarget

P32, P64, F32, F64, F16 = "*i32", "*i64", "*fp32", "*fp64", "*fp16"
TILE = {"SPLIT": True, "BLOCK_K": 64, "BLOCK_D": 64}
SCORED = {"u": F32, "high": F16, "low": F16, "bias": F32, "limits": F32}
STRIDES = {f"{t}_{d}": "i64" for t in ("z", "first", "second") for d in "bld"}
KERNELS = {
    "rows._unit_kernel": (
        {"z": "*bf16", "out": F32, "stride_b": "i64", "stride_l": "i64", "stride_d": "i64", "first": "i64"},
        {"NORMALIZE": True, "BLOCK_N": 64, "BLOCK_D": 64},
    ),
    "codes._prepare_kernel": (
        {
            "codebook": "*bf16",
            "rows": F32,
            "transposed": F32,
            "high": F16,
            "low": F16,
            "bias": F32,
            "limits": F32,
            "numbers": P32,
        },
        {"NORMALIZE": True, "BLOCK_K": 64, "BLOCK_D": 64},
    ),
    "nearest._nearest_kernel": (
        SCORED | {"numbers": P32, "out": P64, "tied": P32, "tied_count": P32},
        TILE | {"TILES": 64, "WIDE": False, "BLOCK_N": 128},
    ),
    "nearest._settle_kernel": (
        {"u": F32, "transposed": F32, "out": P64, "tied": P32, "tied_count": P32},
        {"BLOCK": 1024},
    ),
    "select._select_kernel": (
        SCORED | {"transposed": F32, "ranks": P32, "out": P64, "scratch": F32, "errors": F32},
        TILE | {"BLOCK_N": 16, "ROWS": 4, "BLOCK": 4096},
    ),
    "select._neighbors_kernel": ({"u": F32, "transposed": F32, "out": P64}, {"BLOCK": 4096}),
    "draw._draw_kernel": ({"ids": P64, "threshold": P64, "delta": P64, "seed": P64, "out": P32}, {"BLOCK": 256}),
    "quantize._finish_kernel": (
        {"u": F32, "codes": F32, "nearest": P64, "indices": P64, "z_q": "*bf16", "z_q_clean": "*bf16"}
        | {"partial": F64, "usage": P64},
        {"BLOCK_N": 64, "BLOCK_D": 64},
    ),
    "quantize._backward_kernel": (
        {"z": "*bf16", "first": "*bf16", "second": "*bf16", "codes": F32, "nearest": P64, "vq": F32, "commit": F32}
        | {"dz": "*bf16", "de": F64, "scale": "fp32"}
        | STRIDES,
        {"NORMALIZE": True, "STRAIGHT": 2, "COMMIT": True, "VQ": True, "BLOCK_N": 64, "BLOCK_D": 64},
    ),
    "attention._decode_attention_kernel": (
        {"query": "*bf16", "keys": "*bf16", "values": "*bf16", "places": P64, "out": "*bf16", "scale": "fp32"},
        {"BLOCK_N": 1, "BLOCK_T": 64, "BLOCK_W": 64},
    ),
    "sampling._guided_sample_kernel": (
        {"logits": F32, "scales": F32, "samples": P64, "steps": P64, "seed": P64, "out": P64}
        | {"temperature": "fp32", "top_p": "fp32"},
        {"STREAM": 1, "GUIDED": True, "TOP_K": True, "TOP_P": True, "GROUPS": 1024},
    ),
}


def compile_kernel(kernel: str, capability: int) -> dict:
    module, name = kernel.split(".")
    function = getattr(importlib.import_module(f"robustok.kernels.{module}"), name)
    types, constants = KERNELS[kernel]
    signature = {argument: types.get(argument, "i32") for argument in function.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(fn=function, signature=signature, constexprs=constants)
    options = {"num_warps": 8, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {"bytes": len(compiled.asm["cubin"]), "tensor_cores": "mma" in ptx, "fused_float64": "fma.rn.f64" in ptx}


if __name__ == "__main__":
    print(json.dumps({f"{kernel} sm_{sm}": compile_kernel(kernel, sm) for kernel in KERNELS for sm in (80, 90)}))
