"""Convolutional tokenizers beside a plain rendering of the published network, and decoding on a GPU."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from robustok.model_configs import ConvTokenizerConfig, TokenizerConfig
from robustok.models.compiling import compile_blocks
from robustok.models.computing import compute_in
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

from . import recording
from .conv_peers import plain_llamagen

VQ16 = ConvTokenizerConfig(code_width=8, similarity="cosine")  # LlamaGen's, 72 million weights
SMALL = ConvTokenizerConfig(
    image_size=32, widths=(32, 64), stem_width=32, attention=(1,), feature_width=16, code_width=8, similarity="cosine"
)
VIT_B = TokenizerConfig(256, 16, 768, depth=12, heads=12, num_latents=256, codebook_size=4096, code_width=64)
VIT_SMALL = TokenizerConfig(16, 8, 32, depth=1, heads=2, codebook_size=64, code_width=4)


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
def test_compiled_decoder_on_gpu(timed, record, gpu, few_rounds):
    """Compiled bfloat16 against eager float32 with TF32 off."""
    goal = "convolutional decode, compiled bfloat16"
    device, count = gpu(goal), 16 if timed else 1
    eager, compiled = (ConvTokenizer(VQ16 if timed else SMALL).eval().to(device) for _ in range(2))
    compile_blocks(compiled)
    z_q = torch.randn(count, eager.num_latents, 8, device=device)

    def ours() -> None:
        with torch.autocast(device, torch.bfloat16):
            compiled.decode(z_q)

    def exact() -> None:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            eager.decode(z_q)

    timings = recording.measure({"ours": ours, "eager": exact}, device)
    record.add_ratio(goal, f"VQ-16, decode 256 px, batch {count}, against eager", 2.0, timings, "eager", "ours")


@torch.inference_mode()
def test_token_decode_on_gpu(timed, record, gpu, few_rounds):
    """Tokens to images by the ViT-B decoder: ours in bfloat16 against eager TF32 and a compiled bfloat16 network."""
    goal = "token decode"
    device, count = gpu(goal), 256 if timed else 2
    torch.manual_seed(0)
    exact = ViTTokenizer(VIT_B if timed else VIT_SMALL).eval().to(device)
    fast, whole = copy.deepcopy(exact), copy.deepcopy(exact)
    compute_in(fast, "bfloat16", compiled=True)
    compiled = torch.compile(whole.bfloat16().decode, dynamic=False)
    tokens = torch.randint(len(exact.codebook), (count, exact.num_tokens), device=device)

    def ours() -> torch.Tensor:
        return fast.decode(fast.lookup(tokens))

    def theirs() -> torch.Tensor:
        with recording.tf32():
            return exact.decode(exact.lookup(tokens))

    error = float((ours().float() - exact.decode(exact.lookup(tokens))).abs().mean())
    peer = {"torch.compile, bfloat16": lambda: compiled(whole.lookup(tokens))}
    runs = {"ours": ours, "eager, TF32": theirs} | record.able(goal, peer)
    with FlopCounterMode(display=False) as counter:
        theirs()
    timings, what = recording.measure(runs, device), f"ViT-B, 256 px, batch {count}, mean error {error:.1e} of [-1, 1]"
    record.add_ratio(goal, f"{what}, against eager, TF32", 2.5, timings, "eager, TF32", "ours")
    against = "torch.compile, bfloat16"
    record.add_ratio(goal, f"{what}, against {against}", 1.15, timings, against, "ours")
    seconds = recording.median(timings["ours"]) / 1e3
    record.add_at_least(goal, what, 4490, count / seconds, "images/s")
    share = counter.get_total_flops() / seconds / recording.product_rate(device)
    record.add_at_least(goal, what, 0.55, share, "of the rate of a product")
