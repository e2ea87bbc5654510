"""What the compiler makes of decoding for a GPU: few kernels a layer, no copy of a cache, no size left open."""

from pathlib import Path

import pytest
import torch

from ..scripts import printed_json

pytest.importorskip("triton")
if torch.version.cuda is None:
    pytest.skip("this torch is built without CUDA", allow_module_level=True)

# Few images: each linear layer is one kernel with the norm before it and the activation or residual behind it, and
# attention, which normalises or turns queries and keys and stores them, is the fifth. Around the layers: embedding and
# rows of modulation, norm, head, sampling, and what finds or puts a token.
# Many images: the products stand alone, three in LlamaGen's MLP. Further kernels are the activation, and the residual
# with the norm after it, twice.
# A round of known tokens has an attention for several queries, whose tile is filled before and read after.
KERNELS_A_LAYER = {"rar": 5, "rar, wider, more images": 5, "llamagen": 5}
KERNELS_A_LAYER |= {"rar, many images": 8, "llamagen, many images": 9, "rar, round": 11}
KERNELS_AROUND = {"rar": 7, "rar, wider, more images": 7, "llamagen": 8}
KERNELS_AROUND |= {"rar, many images": 5, "llamagen, many images": 7, "rar, round": 10}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict:
    script = Path(__file__).with_name("compile_step.py")
    return printed_json(script, tmp_path_factory, CUDA_VISIBLE_DEVICES="", TORCHINDUCTOR_COMPILE_THREADS="1")


@pytest.mark.parametrize("case", KERNELS_A_LAYER)
def test_kernels_a_layer(compiled, case):
    launches = compiled[case]["launches"]
    first, second = (
        i for i, name in enumerate(launches) if name.startswith(("_one_query_kernel", "_few_queries_kernel"))
    )
    assert second - first <= KERNELS_A_LAYER[case]
    assert len(launches) - 2 * (second - first) <= KERNELS_AROUND[case]


@pytest.mark.parametrize("case", KERNELS_A_LAYER)
def test_no_cache_is_copied(compiled, case):
    assert 16 * compiled[case]["largest"] < compiled[case]["cache"]


@pytest.mark.parametrize("case", KERNELS_A_LAYER)
def test_another_batch_or_model_leaves_no_size_open(compiled, case):
    assert compiled[case]["symbols"] == []
