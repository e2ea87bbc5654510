"""Script: compiles the decoding step of small generators for a GPU that need not be there, and prints what came out as
JSON: {name: {"launches": names in order, "largest": numbers of the largest new buffer, "cache": numbers of a layer's
keys, "symbols": sizes that are no numbers}}.

Tensors are fake ones on a device that torch is made to see. The code is taken as the compiler writes it and never run.
Its own process, because Triton's interpreter of the other tests is chosen when kernels are imported.
"""

import json
import math
import re
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from torch._inductor.fx_passes import joint_graph
from torch._inductor.graph import GraphLowering
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget

from robustok.core.graphs import fused
from robustok.model_configs import LlamaGenConfig, RARConfig
from robustok.models.generators import llamagen_decoding, rar_decoding
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.generators.rar import RAR
from robustok.ops.decoding.appending import append_triton
from robustok.samplers.autoregressive import AutoregressiveSampler
from robustok.samplers.known_tokens import LONGEST, Round, rows_a_round
from robustok.samplers.settings import SamplingSettings

H100 = SimpleNamespace(
    name="H100", major=9, minor=0, multi_processor_count=132, max_threads_per_multi_processor=2048, warp_size=32,
    regs_per_multiprocessor=65536, shared_memory_per_block=49152, shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472, max_threads_per_block=1024, L2_cache_size=50 << 20, total_memory=80 << 30,
)  # fmt: skip
NOTHING = {"device_count": 1, "current_device": 0, "_exchange_device": 0, "_maybe_exchange_device": 0}
NOTHING |= {"_lazy_init": None, "synchronize": None, "is_current_stream_capturing": False, "set_rng_state": None}
NOTHING |= {"is_available": True, "is_bf16_supported": True, "get_device_capability": (9, 0), "get_device_name": "H100"}
NOTHING |= {"get_device_properties": H100, "_get_device_properties": H100}
SHAPE = {"heads": 16, "depth": 2, "codebook_size": 64, "num_classes": 8}
LONG = {"num_tokens": 256, "mlp_width": 256}
CASES = {
    "rar": (RAR, RARConfig(width=768, **SHAPE, **LONG), 4),
    "rar, wider, more images": (RAR, RARConfig(width=1024, **SHAPE, **LONG), 6),
    "rar, many images": (RAR, RARConfig(width=768, **SHAPE, **LONG), 12),
    "llamagen": (LlamaGen, LlamaGenConfig(width=1024, **SHAPE, **LONG), 4),
    "llamagen, many images": (LlamaGen, LlamaGenConfig(width=1024, **SHAPE, **LONG), 12),
}
ROUND = "rar, round"  # of known tokens


class Taken(Exception):
    """The code was written, and nothing more is wanted."""


@contextmanager
def a_gpu(code: list[str]):
    """torch sees an H100; the compiler stops with `Taken` once its code is in the list."""

    def take(graph):
        found = graph.codegen()[0]
        code.append(getattr(found, "value", found))
        raise Taken

    joint_graph.lazy_init(torch.device("cuda", 0))  # its patterns are made of tensors, real ones where it sees a GPU
    driver = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0)
    triton.runtime.driver.set_active(driver)
    with ExitStack() as stack:
        for name, value in NOTHING.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *a, v=value, **k: v, create=True))
        stack.enter_context(mock.patch.object(torch.cuda, "get_rng_state", lambda *a: torch.zeros(16, device="cpu")))
        stack.enter_context(mock.patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(torch._inductor.config.patch(joint_graph_constant_folding=False))  # it makes real tensors
        stack.enter_context(mock.patch.object(GraphLowering, "compile_to_module", take))
        for module in (rar_decoding, llamagen_decoding):
            stack.enter_context(mock.patch.object(module, "fastest_attention", lambda *a: append_triton))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def sampler_of(family, config, batch: int) -> AutoregressiveSampler:
    """A sampler of fake tensors, ready for a step."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"), mock.patch("torch.nn.init.trunc_normal_"):
        model = family(config)
    torch.set_default_dtype(torch.float32)
    sampler = AutoregressiveSampler(model, SamplingSettings(guidance_scale=3.0, guidance_power=1.2, temperature=1.1))
    sampler.reserve(batch)
    sampler.decoder._ready_layers()
    return sampler


def step(sampler: AutoregressiveSampler):
    return sampler._advance


def round_of_known_tokens(sampler: AutoregressiveSampler):
    count = len(sampler.ids)
    rows = rows_a_round(0.7, count)
    packed = torch.zeros(3 * (rows + count), dtype=torch.int64, device="cuda")
    return partial(sampler._round, Round(packed, rows, count, LONGEST, sampler.length - 1))


def compiled(family, config, batch: int, unit=step) -> dict:
    """What the compiler writes for one unit; see the top."""
    code: list[str] = []
    with a_gpu(code), torch.no_grad():
        sampler = sampler_of(family, config, batch)
        try:
            fused(unit(sampler))()
        except Exception as error:  # the compiler wraps what it caught
            if not code:
                raise error
        keys = sampler.decoder.cache.keys[0].numel()
    call = code[0].split("def call(")[1].split("return (")[0]
    sizes = re.findall(r"= empty_strided_cuda\(\(([^)]*)\)", call)
    numbers = [
        math.prod(int(x) for x in size.split(",") if x.strip()) for size in sizes if not re.search("[a-z]", size)
    ]
    return {
        "launches": re.findall(r"^ +(\w+)\.run\(|^ +extern_kernels\.(\w+)\(", call, re.MULTILINE),
        "largest": max(numbers),
        "cache": keys,
        "symbols": [size for size in sizes if re.search("[a-z]", size)],
    }


if __name__ == "__main__":
    found = {name: compiled(*case) for name, case in CASES.items()}
    found[ROUND] = compiled(*CASES["rar"], round_of_known_tokens)
    for report in found.values():
        report["launches"] = ["".join(names) for names in report["launches"]]
    print(json.dumps(found))
