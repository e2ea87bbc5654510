"""SiT and its variants: any size, published files and back, what depends on what, and arguments that do not fit."""

from dataclasses import asdict, replace

import pytest
import torch

from robustok import load_generator
from robustok.checkpoints.writing import save
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.model_configs import SiTConfig
from robustok.models.generators.flow import draw_times
from robustok.models.generators.sit import SiT
from robustok.models.generators.sit_layers import rotations
from robustok.models.interfaces import Generator, TokenGenerator
from robustok.models.parameters import decayed_parameters
from robustok.models.rotary import rotate

SEQUENCE = SiTConfig(width=24, depth=3, heads=2, mlp_ratio=3.5, num_classes=5, num_latents=9, latent_width=6)
GRID = replace(SEQUENCE, grid=True, patch_size=3, num_latents=36, qk_norm=True, mlp_ratio=4.0)
LIGHTNING = replace(GRID, norm="rms", mlp="swiglu", rope=True)


def random_model(config: SiTConfig) -> SiT:
    torch.manual_seed(0)
    model = SiT(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


@pytest.fixture
def model():
    return random_model(SEQUENCE)


def inputs(model: SiT, count: int = 3):
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(count, *model.latent_shape, generator=draw)
    return z, torch.rand(count, generator=draw), torch.arange(count) % (model.num_classes + 1)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("config", [SEQUENCE, GRID], ids=["sequence", "grid"])
def test_published_file_of_another_size(config, prefix, tmp_path):
    """Written in the published layout and read back: the same network; ours, converted back to it: the same file."""
    model = random_model(config)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "ema": state, "opt": {}, "steps": 3}, tmp_path / "theirs.pt")
    heads = None if config.qk_norm else config.heads
    read = load_generator(tmp_path / "theirs.pt", num_heads=heads)
    assert read.config == config
    z, t, classes = inputs(model)
    assert torch.equal(read.velocity(z, t, classes), model.velocity(z, t, classes))
    convert([str(tmp_path / "theirs.pt"), str(tmp_path / "ours"), "--num_heads", str(config.heads)])
    convert([str(tmp_path / "ours"), str(tmp_path / "back.pt"), "--to", "upstream"])
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["ema"].keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back["ema"].items())


def test_files_that_do_not_fit(model, tmp_path):
    state = model.state_dict()

    def refused(message: str, changed: dict, **given):
        torch.save({"ema": changed}, tmp_path / "file.pt")
        with pytest.raises(UserError, match=message):
            load_generator(tmp_path / "file.pt", **given)

    refused(r"width 24 is no standard size .* give num_heads", state)
    refused("num_tokens: given 8, but the file says 9", state, num_heads=2, num_tokens=8)
    refused(
        "blocks.1.attn.proj.weight", {k: v for k, v in state.items() if k != "blocks.1.attn.proj.weight"}, num_heads=2
    )
    refused("1 missing: pos_embed", {k: v for k, v in state.items() if k != "pos_embed"}, num_heads=2)
    refused(
        r"nearest is the SiT generator on a sequence of latents, but it has no x_embedder\.weight",
        {k: v for k, v in state.items() if k != "x_embedder.weight"},
    )
    twice = state | {"final_layer.linear.weight": torch.zeros(12, 24), "final_layer.linear.bias": torch.zeros(12)}
    refused("12 outputs instead of 6: a network that also learns the variance", twice, num_heads=2)


@pytest.mark.parametrize("config", [SEQUENCE, GRID, LIGHTNING], ids=["sequence", "grid", "lightning"])
def test_our_checkpoints(config, tmp_path):
    model = random_model(config)
    state = model.state_dict()
    save(tmp_path / "sit", {"model": state, "ema": state}, {"config": {"kind": "sit", "config": asdict(config)}})
    read = load_generator(tmp_path / "sit")
    assert read.config == config and isinstance(read, Generator) and not isinstance(read, TokenGenerator)
    z, t, classes = inputs(model)
    assert torch.equal(read.velocity(z, t, classes), model.velocity(z, t, classes))


def test_a_new_model_predicts_nothing_and_learns():
    """adaLN-zero: the first output is 0; every parameter that learns gets a gradient after a step."""
    torch.manual_seed(0)
    model = SiT(LIGHTNING)
    z, t, classes = inputs(model)
    assert not model.velocity(z, t, classes).any()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(z, classes % 5, seed=1, sample_ids=torch.arange(3))[0].backward()
        optimizer.step()
    assert all(p.grad.any() for name, p in model.named_parameters() if "k_norm" not in name or "weight" in name)


def test_weight_decay_reaches_matrices_alone():
    model = SiT(LIGHTNING)
    decayed = {id(parameter) for parameter in decayed_parameters(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert {"x_embedder.proj.weight", "blocks.0.mlp.w12.weight", "final_layer.linear.weight"} <= names
    assert not any("norm" in name or "embedding_table" in name or name.endswith("bias") for name in names)


def test_rotary_positions_depend_on_distance_alone():
    """Inner products of turned queries and keys: the same for any two places that are equally far apart."""
    turns = rotations(LIGHTNING)  # 2 x 2 patches
    q, k = torch.randn(2, 1, 1, 1, 12, dtype=torch.float64).expand(-1, -1, -1, 4, -1)
    products = (rotate(q, *turns.double()) @ rotate(k, *turns.double()).mT)[0, 0]
    torch.testing.assert_close(products[0, 1], products[2, 3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(products[0, 2], products[1, 3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(products.diagonal(), (q * k).sum(-1)[0, 0], rtol=1e-5, atol=1e-6)
    assert (products[0, 1] - products[0, 2]).abs() > 1e-3 and (products[0, 1] - products[1, 0]).abs() > 1e-3


def test_normalisation_stands_in_the_config(tmp_path):
    """generate is on the tokenizer's scale: mean + std times what the network's own scale gives."""
    mean, std = (0.5, -1.0, 0.0, 2.0, 0.0, 0.0), (2.0, 1.0, 0.5, 1.0, 3.0, 1.0)
    plain, scaled = random_model(SEQUENCE), random_model(replace(SEQUENCE, latent_mean=mean, latent_std=std))
    settings = {"seed": 1, "steps": 4, "solver": "heun", "guidance_scale": 2.0}
    classes = torch.tensor([0, 3])
    own = plain.generate(classes, **settings)
    found = scaled.generate(classes, **settings)
    torch.testing.assert_close(found, own * torch.tensor(std) + torch.tensor(mean))
    torch.testing.assert_close(scaled.normalized(found), own)
    same = {"seed": 3, "sample_ids": torch.arange(2)}
    torch.testing.assert_close(scaled.loss(found, classes, **same)[0], plain.loss(own, classes, **same)[0])
    kept = scaled.generate(classes, keep_latents=found, keep_ratio=1.0, **settings)
    torch.testing.assert_close(kept, found)
    assert scaled.bfloat16().denormalized(own).dtype == torch.float32


def test_training_draws_belong_to_the_sample(model):
    """Loss of a batch is the mean of its images' losses, each with its own draws, whatever stands beside it."""
    z, _, classes = inputs(model, 4)
    ids, classes = torch.tensor([7, 1, 2**33, 4]), classes % 5
    whole = model.loss(z, classes, seed=5, sample_ids=ids)[0]
    single = [model.loss(z[i : i + 1], classes[i : i + 1], seed=5, sample_ids=ids[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(single).mean())


def test_training_times_and_dropped_classes(model, monkeypatch):
    ids = torch.arange(4000)
    uniform, lognormal = (draw_times(kind, "linear", 1, ids) for kind in ("uniform", "lognormal"))
    assert abs(uniform.mean() - 0.5) < 0.02 and abs(uniform.std() - 12**-0.5) < 0.01
    logits = lognormal.logit()
    assert abs(logits.mean()) < 0.05 and abs(logits.std() - 1) < 0.05
    seen = []
    monkeypatch.setattr(model, "velocity", lambda z, t, classes: seen.append(classes) or z)
    model.loss(torch.zeros(4000, 9, 6), torch.ones(4000, dtype=torch.int64), seed=1, sample_ids=ids)
    assert set(seen[0].tolist()) == {1, 5} and abs((seen[0] == 5).float().mean() - 0.1) < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "heads must divide width"),
        ({"num_latents": None}, "num_latents: found None"),
        ({"patch_size": 2}, "patch_size: found 2, expected 1 for a sequence"),
        ({"grid": True, "num_latents": 10}, "num_latents: found 10, expected a square grid"),
        ({"latent_mean": (0.0,), "latent_std": (1.0,)}, "latent_mean: found 1 numbers, expected latent_width = 6"),
        ({"latent_mean": (0.0,) * 6}, "both or neither"),
        ({"latent_mean": (0.0,) * 6, "latent_std": (1.0,) * 5 + (0.0,)}, "above 0"),
    ],
)
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        SiT(replace(SEQUENCE, **change))
