"""Convolutional tokenizers beside a plain rendering of the published network, on a CPU and on a GPU."""

import pytest
import torch

from robustok.model_configs import ConvTokenizerConfig
from robustok.models.compiling import compiled_blocks
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer

from . import recording
from .conv_peers import plain_llamagen

VQ16 = ConvTokenizerConfig(code_width=8, similarity="cosine")  # LlamaGen's, 72 million weights
SMALL = ConvTokenizerConfig(
    image_size=32, widths=(32, 64), stem_width=32, attention=(1,), feature_width=16, code_width=8, similarity="cosine"
)


@pytest.fixture
def few_rounds(monkeypatch):
    """Calls that last seconds are repeated less."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 5, "cuda": 20})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 1)


@torch.inference_mode()
def test_convolutional_tokenizer_on_cpu(timed, record, few_rounds):
    """The goal: encoding and decoding are not slower than the plain network, and give the same."""
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(VQ16 if timed else SMALL).eval()
    encode, decode = plain_llamagen(tokenizer)
    size, grid = tokenizer.image_size, tokenizer.grid
    images, z_q = torch.rand(1, 3, size, size) * 2 - 1, torch.randn(1, grid * grid, 8)
    maps = z_q.mT.unflatten(2, (grid, grid)).contiguous()
    torch.testing.assert_close(tokenizer.encode(images).mT, encode(images).flatten(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(tokenizer.decode(z_q), decode(maps), rtol=0, atol=1e-4)
    if not timed:
        return
    pairs = {
        "decode": (lambda: tokenizer.decode(z_q), lambda: decode(maps)),
        "encode": (lambda: tokenizer.encode(images), lambda: encode(images)),
    }
    for name, (ours, plain) in pairs.items():
        timings = recording.measure({"ours": ours, "plain": plain})
        what = f"VQ-16, {name} 256 px, batch 1, {torch.get_num_threads()} threads, against the plain network"
        record.add_ratio(f"convolutional {name}", what, 1.0, timings, "plain", "ours")


@torch.inference_mode()
def test_compiled_decoder_on_gpu(record, needs_gpu, few_rounds):
    """Compiled bfloat16 against eager float32 with TF32 off."""
    goal = "convolutional decode, compiled bfloat16"
    needs_gpu(goal)
    eager, compiled = (ConvTokenizer(VQ16).eval().cuda() for _ in range(2))
    for block in compiled_blocks(compiled):
        block.compile()
    z_q = torch.randn(16, eager.num_latents, 8, device="cuda")

    def ours() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            compiled.decode(z_q)

    timings = recording.measure({"ours": ours, "eager": lambda: eager.decode(z_q)}, "cuda")
    record.add_ratio(goal, "VQ-16, decode 256 px, batch 16, against eager", 2.0, timings, "eager", "ours")
