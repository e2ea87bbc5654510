"""SiT generators against outputs of the published code (tests/golden_peers/sit): network, loss, samplers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from robustok import load_generator
from robustok.models.generators.flow import time_of
from robustok.models.generators.sit_layers import time_waves
from robustok.samplers.flow import FlowSampler, FlowSettings
from robustok.samplers.paths import interpolate, score
from robustok.samplers.solvers import SDE_LAST

GOLDEN = Path(__file__).parents[1] / "golden_peers" / "sit"


def recorded(name: str) -> dict:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


@pytest.fixture(scope="module")
def sequence():
    return load_generator(GOLDEN / "sit_tiny.pt", num_heads=4)


@pytest.fixture(scope="module")
def grid():
    return load_generator(GOLDEN / "sit2d_tiny_model.safetensors")


def test_velocity_of_a_sequence(sequence, near):
    known = recorded("sit_tiny_forward")
    z, t, classes = known["x_t"], known["t"], known["y"]
    with torch.no_grad():
        near(sequence.velocity(z, t, classes), known["velocity_ema"])
        near(sequence.velocity(z, t, torch.full_like(classes, 1000)), known["velocity_ema_null"])
        near(sequence.t_embedder(t), known["t_embed_ema"])
        trained = load_generator(GOLDEN / "sit_tiny.pt", weights="model", num_heads=4)
        near(trained.velocity(z, t, classes), known["velocity_model"])
    near(time_waves(t), known["t_frequency_embedding"])


def test_velocity_of_a_grid(grid, near):
    """As (B, D, H, W), and as the same latents row by row (B, L, D)."""
    known = recorded("sit2d_tiny_forward")
    with torch.no_grad():
        near(grid.velocity(known["x_t"], known["t"], known["y"]), known["velocity"])
        rows = grid.velocity(known["x_t"].flatten(2).mT, known["t"], known["y"])
    near(rows.mT.unflatten(2, (8, 8)), known["velocity"])


def test_positions_are_those_of_the_files(sequence, grid):
    """A new model of the same shape has the tables that the files hold."""
    for model in (sequence, grid):
        torch.testing.assert_close(
            type(model)(model.config).pos_embed, model.pos_embed, rtol=0, atol=5e-6
        )  # float32 angles


@pytest.mark.parametrize(("times", "path"), [("uniform", "linear"), ("lognormal", "linear"), ("lognormal", "cosine")])
def test_loss(sequence, near, monkeypatch, times, path):
    known = recorded("sit_tiny_loss")
    ours = {name.removeprefix(f"{times}_{path}_"): value for name, value in known.items()}
    monkeypatch.setattr(sequence, "path", path)
    t = time_of(times, path, ours["raw_draw"])
    near(t, ours["t"])
    near(interpolate(path, known["latent"], ours["noise"], t), ours["model_input"])
    with torch.no_grad():
        near(sequence.velocity_errors(known["latent"], ours["noise"], t, known["y"]), ours["loss_per_sample"])


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_score(near, path):
    known = recorded("sit_tiny_forward")
    near(score(path, known["velocity_ema"], known["x_t"], known["t"]), known[f"score_from_velocity_{path}"])


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("guidance", ["", "_cfg", "_cfg_interval"])
def test_ode(sequence, near, solver, guidance):
    known = recorded("sit_tiny_sampler")
    settings = settings_of(known, guidance)
    found = sequence.integrate(known["initial_noise"], known["y"], steps=6, solver=solver, **settings)
    near(found, known[f"ode_{solver}{guidance}"], 1e-3)


def test_many_steps(sequence, near):
    known = recorded("sit_tiny_sampler")
    near(sequence.integrate(known["initial_noise"], known["y"], steps=50), known["ode_euler_50steps"], 1e-3)


@pytest.mark.parametrize(
    ("name", "guidance", "path"),
    [
        ("sde", "", "linear"),
        ("sde_cfg", "_cfg", "linear"),
        ("sde_cfg_interval", "_cfg_interval", "linear"),
        ("sde_cosine_path", "", "cosine"),
    ],
)
def test_sde(sequence, near, monkeypatch, name, guidance, path):
    known = recorded("sit_tiny_sampler")
    monkeypatch.setattr(sequence, "path", path)
    sampler = FlowSampler(sequence, FlowSettings(6, "sde", **settings_of(known, guidance)))
    found = sampler.follow(known["initial_noise"], known["y"], noise=known["sde_step_noise"].double().__getitem__)
    near(found, known[name], 1e-3)


@pytest.mark.parametrize("name", ["ode_euler", "ode_euler_cfg", "ode_heun_cfg", "sde_cfg"])
def test_start_from_noised_latents(sequence, near, name):
    known = recorded("sit_tiny_sampler")
    start = known["t0"].item()
    z = interpolate("linear", known["clean_latent"], known["initial_noise"], torch.full((2,), start))
    near(z, known["sdedit_start"])
    solver, guidance = name.removeprefix("ode_").removesuffix("_cfg"), "_cfg" if name.endswith("_cfg") else ""
    sampler = FlowSampler(sequence, FlowSettings(6, solver, **settings_of(known, guidance)))
    found = sampler.follow(z, known["y"], start, known["sde_step_noise"].double().__getitem__)
    near(found, known[f"sdedit_{name}"], 1e-3)


def settings_of(known: dict, guidance: str) -> dict:
    settings = {"guidance_scale": known["cfg_scale"].item()} if guidance else {}
    if guidance.endswith("interval"):
        settings["guidance_interval"] = (known["guidance_low"].item(), known["guidance_high"].item())
    return settings


def test_the_last_step_of_the_sde_is_the_recorded_one():
    assert recorded("sit_tiny_sampler")["time_grid_sde"][-2].item() == pytest.approx(SDE_LAST)
