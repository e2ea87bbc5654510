"""LlamaGen's GPT against outputs of its published code (ce98ec4, random weights), and its files in any size."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustok import load_generator
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.data.tokens import open_tokens
from robustok.formats.llamagen_gpt import LLAMAGEN_GPT
from robustok.formats.pickles import read_pickled
from robustok.model_configs import LlamaGenConfig
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.interfaces import TokenGenerator
from robustok.models.parameters import decayed_parameters
from robustok.ops.decoding.reference import keep_likely
from robustok.sample import main as sample

FILE = Path(__file__).parents[1] / "golden_peers" / "llamagen" / "gpt_tiny.pt"


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE.with_name("gpt_tiny_outputs.npz")) as file:
        return {name: torch.from_numpy(np.array(file[name])) for name in file.files if file[name].dtype.kind != "U"}


@pytest.fixture(scope="module")
def model():
    return load_generator(FILE, num_heads=4)


def without(model: LlamaGen, **dropout: float) -> LlamaGen:
    """The model with other dropout, by default none."""
    rates = {"dropout": 0.0, "token_dropout": 0.0, "class_dropout": 0.0} | dropout
    changed = LlamaGen(replace(model.config, **rates)).eval()
    changed.load_state_dict(model.state_dict())
    return changed


# Against the published code


def test_teacher_forcing(model, recorded, near):
    assert isinstance(model, TokenGenerator)
    tokens, classes = recorded["tokens"], recorded["labels"]
    with torch.no_grad():
        near(model.logits(tokens, classes), recorded["model_logits"])
        near(model.logits(tokens, None), recorded["model_logits_nullclass"])
        losses = [without(model, class_dropout=share) for share in (0.0, 1.0)]
        losses = [m.loss(tokens, classes, seed=0, sample_ids=torch.arange(3)) for m in losses]
    for (loss, terms), name in zip(losses, ("model_loss", "model_loss_nullclass"), strict=True):
        assert loss.item() == pytest.approx(recorded[name].item(), rel=1e-5) and terms["loss"] is loss
    right = recorded["model_logits"].argmax(-1) == tokens
    assert losses[0][1]["accuracy"].item() == pytest.approx(right.float().mean().item())


def test_rotation(model, recorded):
    """Place 0 is the class vector's, whose cosine and sine are both zero. The published table ends one place later."""
    table = torch.stack(model.rotation(), -1)[:, 0]
    torch.testing.assert_close(table, recorded["rope_table"][:64], rtol=0, atol=1e-6)
    assert not table[0].any()


def test_guided_logits(model, recorded, near):
    """Step by step over the cache: constant guidance, and guidance that ends after token 6 (`cfg_interval` 5)."""
    tokens, classes, scale = recorded["tokens"], recorded["labels"], recorded["cfg_scale"].item()
    near(model.guided_logits(tokens, classes, guidance_scale=scale), recorded["cached_logits_cfg"])
    near(model.guided_logits(tokens, classes, guidance_scale=1.0), recorded["model_logits"])
    sampler = model.sampler(guidance_scale=scale)
    sampler.scales[7:] = 1.0
    near(sampler.logits(tokens, classes), recorded["cached_logits_cfg_interval5"])


@pytest.mark.parametrize(("name", "scale"), [("greedy_cfg1", 1.0), ("greedy_cfg", 2.5)])
def test_greedy_tokens(model, recorded, name, scale):
    """Drawn from the single likeliest code; the smallest margin between two codes is 1.6e-4, rounding 3e-6."""
    found = model.generate(recorded["labels"], seed=0, guidance_scale=scale, top_k=1)
    assert torch.equal(found, recorded[f"{name}_tokens"].long())


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 10, 1.0), (0.7, 0, 0.9), (1.3, 20, 0.8), (1.0, 0, 0.0)]
)
def test_filters(recorded, temperature, top_k, top_p):
    """The published filter takes top_p 0 for the likeliest code alone; ours starts above 0."""
    likely = keep_likely(recorded["filter_input_logits"] / temperature, top_k, top_p or 1e-9).softmax(-1)
    expected = recorded[f"filter_probs_temp{temperature}_topk{top_k}_topp{top_p}"]
    torch.testing.assert_close(likely, expected, rtol=1e-5, atol=1e-7)


# What it is made of


def test_shared_heads_equal_repeated_ones(make_llamagen):
    """Query heads 2 g and 2 g + 1 share head g of keys and values: as if that head were there twice."""
    shared = make_llamagen(16, width=32, heads=4, kv_heads=2)
    whole = make_llamagen(16, width=32, heads=4)
    state = shared.state_dict()
    for name, tensor in state.items():
        if name.endswith("wqkv.weight"):
            q, k, v = tensor.split([32, 16, 16])
            twice = (part.unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1) for part in (k, v))
            state[name] = torch.cat([q, *twice])
    whole.load_state_dict(state)
    tokens, classes = torch.randint(0, 40, (3, 16)), torch.tensor([0, 4, 2])
    with torch.no_grad():
        torch.testing.assert_close(shared.logits(tokens, classes), whole.logits(tokens, classes), rtol=0, atol=1e-4)
    settings = {"guidance_scale": 2.0}
    found, expected = (m.guided_logits(tokens, classes, **settings) for m in (shared, whole))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_tokens_on_a_line(make_llamagen):
    """Tokens that form no grid turn with their number: attention sees how far apart two of them are."""
    model = make_llamagen(7, positions="line")
    cos, sin = model.rotation()
    turned = torch.complex(cos, sin)[1:, 0]
    products = turned[1:] * turned[:-1].conj()
    torch.testing.assert_close(products, products[:1].expand_as(products), rtol=0, atol=1e-6)
    assert len(turned.angle().unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [("B", {}, 111), ("L", dict(width=1024, depth=24, heads=16, mlp_width=2816), 343),
     ("XL", dict(width=1280, depth=36, heads=20, mlp_width=3584), 775)],
)  # fmt: skip
def test_published_sizes(name, shape, millions):
    config = LlamaGenConfig(**shape, codebook_size=16384, num_classes=1000, num_tokens=256)
    with torch.device("meta"):
        model = LlamaGen(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_cache_bytes(make_llamagen):
    """Every place reads all places up to itself, in both streams: counted one by one."""
    model = make_llamagen(16, width=32, heads=4, kv_heads=1)  # 2 layers, keys and values 8 wide, float32
    assert model.cache_bytes(2) == sum(2 * 2 * 2 * 8 * 4 * (place + 1) for place in range(16))


def test_weight_decay_and_fresh_weights(make_llamagen):
    model = make_llamagen(16)
    names = {name for name, p in model.named_parameters() if any(p is q for q in decayed_parameters(model))}
    assert names == {
        n for n, _ in model.named_parameters() if n.split(".")[-2] in ("wqkv", "wo", "w1", "w2", "w3", "output")
    }
    assert not LlamaGen(model.config).output.weight.any()


def test_dropout(make_llamagen):
    """In training alone. No embedded sequence leaves nothing; nothing that layers add leaves each place alone."""
    model, tokens, classes = make_llamagen(16), torch.randint(0, 40, (2, 16)), torch.tensor([1, 4])
    with torch.no_grad():
        whole = model.logits(tokens, classes)
        for rates in ({"token_dropout": 1.0}, {"dropout": 1.0}):
            changed = without(model, **rates)
            assert torch.equal(changed.logits(tokens, classes), whole)
            found = changed.train().logits(tokens, classes)
            x = torch.cat([model.cls_embedding(classes)[:, None], model.tok_embeddings(tokens[:, :-1])], 1)
            alone = model.output(model.norm(x)) if "dropout" in rates else torch.zeros_like(whole)
            torch.testing.assert_close(found, alone)


def test_an_image_is_treated_alike_in_any_batch(make_llamagen):
    model = without(make_llamagen(16), class_dropout=0.5)
    tokens, classes, ids = torch.randint(0, 40, (6, 16)), torch.arange(6) % 5, torch.tensor([7, 2**40, 3, 12, 1, 0])
    whole, _ = model.loss(tokens, classes, seed=5, sample_ids=ids)
    rows = torch.arange(6).split(1)
    parts = [model.loss(tokens[row], classes[row], seed=5, sample_ids=ids[row])[0] for row in rows]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-5, atol=0)
    kept, dropped = (
        F.cross_entropy(model.logits(tokens, c).mT, tokens, reduction="none").mean(1) for c in (classes, None)
    )
    was_dropped = [abs(part - b) < abs(part - a) for part, a, b in zip(parts, kept, dropped, strict=True)]
    assert 0 < sum(was_dropped) < 6
    whole.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_guidance_without_class_dropout_warns(make_llamagen):
    model = without(make_llamagen(16))
    with pytest.warns(UserWarning, match="guidance_scale = 2.0, but this generator was trained without class dropout"):
        model.sampler(guidance_scale=2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tokens": None}, "num_tokens: found None, expected a positive number"),
        ({"num_tokens": 12}, "num_tokens: found 12, expected a square number .*positions 'line'"),
        ({"heads": 3}, "heads must divide width, found width 32 and heads 3"),
        ({"heads": 16}, "width / heads must be a multiple of 4.* found width 32 and heads 16"),
        ({"kv_heads": 3}, "kv_heads must divide heads, found kv_heads 3 and heads 4"),
    ],
)
def test_shapes_that_do_not_fit(make_llamagen, change, message):
    with pytest.raises(ValueError, match=message):
        LlamaGen(replace(make_llamagen(16).config, **change))


def test_another_order_is_refused(make_llamagen):
    model, tokens = make_llamagen(9), torch.zeros(1, 9, dtype=torch.int64)
    model.logits(tokens, None, order=torch.arange(9))
    with pytest.raises(ValueError, match="raster order alone"):
        model.logits(tokens, None, order=torch.arange(9).flip(0))


# Files


def test_what_the_file_says(model):
    expected = LlamaGenConfig(64, 2, 4, mlp_width=192, codebook_size=64, num_classes=10, num_tokens=64)
    assert model.config == expected
    assert load_generator(FILE, num_heads=4, num_tokens=64).config == expected
    with pytest.raises(UserError, match=r"width 64 is no standard size .*768, 1024, 1280.*: give num_heads"):
        load_generator(FILE)
    with pytest.raises(UserError, match="num_tokens: given 16, but the file says 64"):
        load_generator(FILE, num_heads=4, num_tokens=16)


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("form", ["model", "plain", "training"])
def test_published_file_of_another_size(make_llamagen, tmp_path, form, kv_heads):
    """Written in the published layout and read back: the same network; converted to ours and back: the same file."""
    model = make_llamagen(36, width=48, depth=3, heads=6, kv_heads=kv_heads, mlp_width=80, num_classes=3)
    state, path = model.state_dict(), tmp_path / "theirs.pt"
    args = Namespace(image_size=48, downsample_size=8)
    forms = {"model": {"model": state}, "plain": state, "training": {"model": state, "ema": state, "args": args}}
    torch.save(forms[form], path)
    read = load_generator(path, num_heads=6, num_tokens=None if form == "training" else 36)
    assert read.config == model.config
    settings = {"seed": 1, "guidance_scale": 2.0}
    classes = torch.tensor([0, 2])
    assert torch.equal(read.generate(classes, **settings), model.generate(classes, **settings))
    convert([str(path), str(tmp_path / "ours"), "--num_heads", "6", "--num_tokens", "36"])
    assert load_generator(tmp_path / "ours").config == model.config
    convert([str(tmp_path / "ours"), str(tmp_path / "back.pt"), "--to", "upstream"])
    back = read_pickled(tmp_path / "back.pt")["model"]
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_the_sampling_verb_is_told_what_the_file_cannot_say(model, tmp_path):
    """Guidance that no option gives is the preset's, which is constant."""
    options = ["--generator", str(FILE), "--preset", "llamagen-b", "--n", "6", "--batch_size", "4", "--seed", "3"]
    with pytest.raises(UserError, match="give num_heads"):
        sample([*options, "--output", str(tmp_path / "other")])
    sample([*options, "--num_heads", "4", "--output", str(tmp_path / "samples"), "--device", "cpu"])
    tokens = open_tokens(tmp_path / "samples" / "tokens")
    classes = torch.as_tensor(tokens.labels)
    expected = model.generate(classes, seed=3, guidance_scale=2.0)
    assert torch.equal(torch.from_numpy(tokens.tokens[:].astype("int64")), expected)


def test_what_a_file_lacks(make_llamagen, tmp_path):
    model, path = make_llamagen(9), tmp_path / "c2i.pt"
    state = model.state_dict()

    def refused(content: dict, message: str, **given: int) -> None:
        torch.save({"model": content}, path)
        with pytest.raises(UserError, match=message):
            load_generator(path, **given)

    sizes = {"num_heads": 4, "num_tokens": 9}
    refused(state, "does not store how many tokens an image has: give num_tokens", num_heads=4)
    refused(state, r"wqkv\.weight has 96 rows, which do not fit num_heads = 32", num_heads=32, num_tokens=9)
    damaged = {name: tensor for name, tensor in state.items() if name != "layers.1.ffn_norm.weight"}
    refused(damaged, r"recognised as LlamaGen GPT .*1 missing: layers\.1\.ffn_norm\.weight", **sizes)
    damaged = {name: tensor for name, tensor in state.items() if name != "output.weight"}
    refused(damaged, r"recognised as LlamaGen GPT .*1 missing: output\.weight", **sizes)
    of_text = {name.replace("embedding_table", "cap_proj.fc1"): tensor for name, tensor in state.items()}
    refused(of_text, r"nearest is the LlamaGen GPT, but it has no cls_embedding\.embedding_table\.weight", **sizes)


def test_tokens_on_a_line_have_no_published_layout(make_llamagen):
    assert LLAMAGEN_GPT.holds(make_llamagen(9).config)
    assert not LLAMAGEN_GPT.holds(make_llamagen(9, positions="line").config)
