"""Flow samplers on fields with known solutions; who an image is decides it; arguments out of range."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from robustok.core.errors import RunError, UserError
from robustok.model_configs import SiTConfig
from robustok.models.generators.flow import FlowGenerator
from robustok.samplers.paths import coefficients, score
from robustok.samplers.solvers import Interval, dormand_prince, euler, heun

SHAPE = SiTConfig(num_classes=3, num_latents=4, latent_width=2)
ALWAYS = Interval()


class KnownField(FlowGenerator):
    """The exact velocity of data drawn from a Gaussian, N(2 class - 2, 0.3^2) a class, N(0, 1.5^2) without one."""

    def __init__(self, config: SiTConfig = SHAPE):
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.sizes = []

    def velocity(self, z, t, classes):
        self.sizes.append(len(z))
        null = classes == self.num_classes
        mean = torch.where(null, 0.0, 2.0 * classes - 2)[:, None, None]
        std = torch.where(null, 1.5, 0.3)[:, None, None]
        at = coefficients(self.path, t[:, None, None])
        variance = (at.data * std) ** 2 + at.noise**2
        off = (z - at.data * mean) / variance
        data, noise = mean + at.data * std**2 * off, at.noise * off
        return at.data_slope * data + at.noise_slope * noise


@pytest.fixture
def model():
    return KnownField()


def circle(z, t, guided):
    """dz/dt turns pairs, at a speed that grows with t: z(0) is z(1) turned back by 2."""
    speed = 4 * t.view(-1, 1)
    return torch.stack([-z[:, 1], z[:, 0]], 1) * speed


def turned(z, angle):
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.stack([cosine * z[:, 0] - sine * z[:, 1], sine * z[:, 0] + cosine * z[:, 1]], 1)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence(solver, order):
    """Twice the steps divide the error by 2^order."""
    z = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    errors = [(solver(circle, z, 1.0, steps, ALWAYS) - turned(z, -2)).norm().item() for steps in (100, 200)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_dormand_prince_reaches_its_tolerance_for_each_image():
    """Steps of each image's own: a harder one beside it changes nothing, to the bit."""
    z = torch.tensor([[1.0, 0.5], [300.0, 2.0], [0.0, 0.1]], dtype=torch.float64)
    found = dormand_prince(circle, z, 1.0, 5, ALWAYS)
    torch.testing.assert_close(found, turned(z, -2), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[:1], dormand_prince(circle, z[:1], 1.0, 5, ALWAYS))
    exact = dormand_prince(circle, z, 1.0, 500, ALWAYS)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def test_dormand_prince_steps_end_where_guidance_does():
    """A velocity that jumps at 0.37: exact on both sides of it."""
    z = torch.ones(1, 1, dtype=torch.float64)

    def jump(z, t, guided):
        return torch.full_like(z, 7.0 if guided else 1.0)

    found = dormand_prince(jump, z, 1.0, 10, Interval(0.37, 0.6))
    assert found.item() == pytest.approx(1 - 7 * 0.23 - 0.77, abs=1e-12)


def test_dormand_prince_says_where_it_does_not_get_on():
    with pytest.raises(RunError, match=r"dopri5 does not get below t = 1"):
        dormand_prince(lambda z, t, guided: z * math.nan, torch.ones(1, 2, dtype=torch.float64), 1.0, 5, ALWAYS)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("solver", ["heun", "dopri5", "sde"])
def test_samples_have_the_distribution_of_the_data(path, solver):
    model = KnownField(replace(SHAPE, path=path))
    classes = torch.tensor([0, 2]).repeat_interleave(800)
    steps = 150 if solver == "sde" else 40
    z = model.generate(classes, seed=1, steps=steps, solver=solver, guidance_scale=1.0)
    for part, mean in zip(z.chunk(2), (-2, 2), strict=True):
        assert part.mean().item() == pytest.approx(mean, abs=0.02)
        assert part.std().item() == pytest.approx(0.3, abs=0.02)


def test_score_is_that_of_the_density(model):
    z, t = torch.randn(5, 4, 2, dtype=torch.float64), torch.tensor([0.1, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = score("linear", model.velocity(z, t, torch.ones(5, dtype=torch.int64)), z, t)
    variance = ((1 - t) * 0.3) ** 2 + t**2
    torch.testing.assert_close(found, -z / variance[:, None, None])


def test_guidance_is_computed_only_where_it_applies(model):
    classes = torch.tensor([0, 1])
    z = torch.randn(2, 4, 2)
    model.integrate(z, classes, steps=10, guidance_scale=2.0, guidance_interval=(0.25, 0.65))
    assert model.sizes == [2, 2, 2, 2, 4, 4, 4, 4, 2, 2]  # t = 1, 0.9, ..., 0.1
    unconditional = model.integrate(z, torch.tensor([3, 3]), steps=10)
    assert torch.equal(model.integrate(z, classes, steps=10, guidance_scale=0.0), unconditional)


@pytest.mark.parametrize("solver", ["euler", "dopri5", "sde"])
def test_an_image_is_decided_by_seed_and_id(model, solver):
    """In any batch, in any order; another seed or id gives another one."""
    settings = {"steps": 5, "solver": solver, "guidance_scale": 1.5}
    classes, ids = torch.tensor([0, 1, 2, 1]), torch.tensor([3, 2**40, 5, 0])
    whole = model.generate(classes, seed=1, sample_ids=ids, **settings)
    parts = [model.generate(classes[i], seed=1, sample_ids=ids[i], **settings) for i in torch.tensor([[2, 0], [3, 1]])]
    torch.testing.assert_close(torch.cat(parts), whole[[2, 0, 3, 1]], rtol=0, atol=1e-6)
    assert not torch.allclose(model.generate(classes, seed=2, sample_ids=ids, **settings), whole)
    assert not torch.allclose(model.generate(classes, seed=1, **settings)[:3], whole[:3])


@pytest.mark.parametrize("solver", ["euler", "sde"])
def test_kept_latents(model, solver):
    """keep_ratio 1 gives them back, 0 forgets them, between them the more is kept the nearer the result."""
    settings = {"seed": 1, "steps": 20, "solver": solver, "guidance_scale": 1.0}
    classes, kept = torch.tensor([0, 1, 2]), torch.randn(3, 4, 2)
    assert torch.equal(model.generate(classes, keep_latents=kept, keep_ratio=1.0, **settings), kept)
    free = model.generate(classes, **settings)
    torch.testing.assert_close(model.generate(classes, keep_latents=kept, keep_ratio=0.0, **settings), free)
    far = [
        (model.generate(classes, keep_latents=kept, keep_ratio=ratio, **settings) - kept).norm().item()
        for ratio in (0.5, 0.8, 0.99)
    ]
    assert far[0] > far[1] > far[2] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "rk4"}, r"solver: found 'rk4', expected one of euler, heun, dopri5, sde"),
        ({"steps": 0}, "steps: found 0, expected a whole number from 1 to 10000"),
        ({"steps": 2.5}, "steps: found 2.5"),
        ({"steps": 20000}, "steps: found 20000"),
        ({"guidance_scale": -1.0}, "guidance_scale: found -1.0"),
        ({"guidance_interval": (0.8, 0.3)}, r"guidance_interval: found \(0.8, 0.3\), expected two times LOW,HIGH"),
        ({"guidance_interval": (0.0, 2.0)}, "guidance_interval: found"),
        (
            {"keep_latents": torch.zeros(2, 4, 2), "keep_ratio": 1.5},
            r"keep_ratio: found 1.5, expected a share in \[0, 1\]",
        ),
        ({"keep_latents": torch.zeros(2, 3, 2)}, r"keep_latents: found \(2, 3, 2\), expected \(2, 4, 2\)"),
        ({"classes": torch.tensor([0, 3])}, r"classes: found \[3\], expected integers 0..2"),
        ({"sample_ids": torch.arange(3)}, "sample_ids"),
    ],
)
def test_arguments_out_of_range(model, change, message):
    settings = {"classes": torch.tensor([0, 1]), "seed": 0, "steps": 2, "solver": "euler", "guidance_scale": 1.0}
    with pytest.raises(UserError, match=message):
        model.generate(**(settings | change))


def test_integrate_draws_nothing(model):
    with pytest.raises(UserError, match="solver: found 'sde', expected one of euler, heun, dopri5"):
        model.integrate(torch.zeros(1, 4, 2), torch.tensor([0]), steps=2, solver="sde")


def test_guidance_without_class_dropout_warns():
    model = KnownField(replace(SHAPE, class_dropout=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sampler(steps=2, guidance_scale=1.0)
    with pytest.warns(UserWarning, match="guidance_scale = 2.0, but this generator was trained without class dropout"):
        model.sampler(steps=2, guidance_scale=2.0)
