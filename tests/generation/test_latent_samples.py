"""A generator of latents at scale: shards of latents, the same whoever makes them; images; what is refused."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from robustok import load_generator, load_tokenizer, sample
from robustok.checkpoints import writing as checkpoints
from robustok.core.errors import UserError
from robustok.data.latents import open_latents
from robustok.data.transforms import to_uint8
from robustok.evaluate import main as evaluate
from robustok.generation.batches import GeneratedImages
from robustok.generation.classes import class_list
from robustok.model_configs import MAETokConfig, SiTConfig
from robustok.models.load import check_fits, take_statistics
from robustok.models.registry import FAMILIES

N, SETTINGS = 7, {"steps": 3, "solver": "heun", "guidance_scale": 2.0, "guidance_interval": (0.2, 0.9)}
SHAPE = MAETokConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_latents=4, latent_width=3)
FLOW = SiTConfig(width=16, depth=1, heads=2, num_classes=3, num_latents=4, latent_width=3)
FLOW_STATISTICS = {"latent_mean": (1.0, 0.0, -1.0), "latent_std": (2.0, 1.0, 0.5)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a small flow generator and of a continuous tokenizer whose latents it makes."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for kind, config in (("maetok", SHAPE), ("sit", replace(FLOW, **FLOW_STATISTICS))):
        model = FAMILIES[kind].build(config)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.2)
        weights = {"model": model.state_dict(), "ema": model.state_dict()}
        checkpoints.save(folder / kind, weights, {"config": {"kind": kind, "config": asdict(config)}})
    return folder


def arguments(models) -> list[str]:
    options = {"generator": models / "sit", "n": N, "batch_size": 2, "shard_images": 4, "seed": 6, "device": "cpu"}
    options |= {"steps": 3, "solver": "heun", "guidance_scale": 2.0, "guidance_interval": "0.2,0.9"}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def test_shards_of_latents_and_images(models, tmp_path, capsys):
    """Image i is what the generator makes by itself; a shard that is lost is made again, the same."""
    argv = [*arguments(models), "--tokenizer", str(models / "maetok"), "--output", str(tmp_path), "--save", "npy"]
    sample.main(argv)
    classes = class_list(N, 3)
    expected = load_generator(models / "sit").generate(classes, seed=6, **SETTINGS)
    found = open_latents(tmp_path / "tokens")
    torch.testing.assert_close(found.read(torch.arange(N)), expected, rtol=0, atol=1e-5)
    assert found.manifest["latent_shape"] == [4, 3] and torch.equal(found.labels, classes)
    images = to_uint8(load_tokenizer(models / "maetok").decode(expected)).permute(0, 2, 3, 1).int()
    assert (torch.from_numpy(np.load(tmp_path / "images.npy")).int() - images).abs().max() <= 1
    before = (tmp_path / "tokens/shard-00001/latents.npy").read_bytes()
    for path in (tmp_path / "tokens/shard-00001").iterdir():
        path.unlink()
    (tmp_path / "tokens/shard-00001").rmdir()
    (tmp_path / "tokens/manifest.json").unlink()
    sample.main(argv)
    assert (tmp_path / "tokens/shard-00001/latents.npy").read_bytes() == before
    assert "3 images in" in capsys.readouterr().out


def test_a_stream_of_images(models):
    generator, tokenizer = load_generator(models / "sit"), load_tokenizer(models / "maetok")
    stream = GeneratedImages(generator, tokenizer, per_class=2, seed=1, name="sit", **SETTINGS)
    (images,) = stream
    latents = generator.generate(torch.tensor([0, 0, 1, 1, 2, 2]), seed=1, **SETTINGS)
    assert torch.equal(images, to_uint8(tokenizer.decode(latents)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--top_k", "5"], r"--top_k: this generator is not sampled with that; it has --guidance_scale, --steps"),
        (["--solver", "rk4"], "solver: found 'rk4'"),
        (["--steps", "0"], "steps: found 0"),
    ],
)
def test_options_that_do_not_belong(models, tmp_path, option, message):
    with pytest.raises(UserError, match=message):
        sample.main([*arguments(models), "--output", str(tmp_path / "out"), *option])
    drive = ["generator", str(models / "sit"), "--tokenizer", str(models / "maetok"), "--reference", "digits"]
    with pytest.raises(UserError, match=message):
        evaluate([*drive, "--output", str(tmp_path / "out"), *option])


def test_a_generator_and_a_tokenizer_must_fit(models, checkpoint):
    sit, maetok = load_generator(models / "sit"), load_tokenizer(models / "maetok")
    rar, tokenizer = load_generator(checkpoint / "rar"), load_tokenizer(checkpoint / "tokenizer")
    check_fits(maetok, sit)
    check_fits(tokenizer, rar)
    with pytest.raises(UserError, match=r"the generator \(sit\) makes latents, but the tokenizer decodes tokens"):
        check_fits(tokenizer, sit)
    with pytest.raises(UserError, match=r"makes tokens, but the tokenizer \(maetok\) has no codebook"):
        check_fits(maetok, rar)
    other = FAMILIES["sit"].build(replace(FLOW, num_latents=5))
    with pytest.raises(UserError, match="the generator makes 5 x 3 latents, the tokenizer has 4 x 3"):
        check_fits(maetok, other)


def test_a_published_generator_takes_the_scale_that_its_tokenizer_names():
    """One that was trained here keeps its own."""
    tokenizer = FAMILIES["maetok"].build(replace(SHAPE, latent_mean=0.5, latent_std=2.0))
    plain = FAMILIES["sit"].build(FLOW)
    ours = FAMILIES["sit"].build(replace(FLOW, **FLOW_STATISTICS))
    for generator in (plain, ours):
        take_statistics(generator, tokenizer)
    z = torch.randn(2, 4, 3)
    torch.testing.assert_close(plain.denormalized(z), 2 * z + 0.5)
    assert ours.config.latent_mean == FLOW_STATISTICS["latent_mean"]
