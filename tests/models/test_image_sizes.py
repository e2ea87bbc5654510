"""Tokenizers and generators on images that are no squares, and at another size than their file says."""

from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

from robustok import load_tokenizer
from robustok.checkpoints.writing import save
from robustok.core.errors import UserError
from robustok.core.sizes import area
from robustok.model_configs import (
    ConvTokenizerConfig,
    ConvVAEConfig,
    GigaTokConfig,
    LlamaGenConfig,
    MAETokConfig,
    SiTConfig,
    TiTokConfig,
    TokenizerConfig,
)
from robustok.models.autoencoder import as_autoencoder
from robustok.models.frozen.hog import HOG_WIDTH, hog
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.generators.sit import SiT
from robustok.models.interfaces import is_discrete
from robustok.models.load import check_fits
from robustok.models.registry import FAMILIES, family_of, sizes_of_grid_tokens, sizes_of_latents
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.models.vit import join_patches
from tests.conftest import with_random_parameters

TALL = (24, 16)
VIT = TokenizerConfig(
    image_size=TALL, patch_size=8, width=16, depth=1, heads=2, layer_scale=None, codebook_size=32, code_width=4
)
CONV = ConvTokenizerConfig(
    **{"image_size": TALL, "widths": (32, 32, 32), "stem_width": 32, "attention": (2,), "blocks": 1},
    **{"decoder_blocks": 1, "feature_width": 32, "codebook_size": 32, "code_width": 4},
)
VAE = ConvVAEConfig(image_size=TALL, widths=(32, 32, 32), blocks=1)
MAETOK = MAETokConfig(image_size=TALL, patch_size=8, width=16, depth=1, heads=2, num_latents=5, latent_width=4)
ROTARY = replace(MAETOK, rotary=True, decoder_class_token=False, decoder_patch_size=4)


def random_tokenizer(config):
    torch.manual_seed(0)
    return with_random_parameters(family_of(config).build(config), 0.3)


def stored(model, folder):
    state = model.state_dict()
    document = {"kind": family_of(model).kind, "config": asdict(model.config)}
    save(folder, {"model": state, "ema": state}, {"config": document})
    return folder


def test_a_pair_of_equal_sides_is_the_number():
    assert replace(VIT, image_size=(24, 24)) == replace(VIT, image_size=24)
    assert replace(VIT, image_size=(24, 16)).image_size == (24, 16)


def test_patches_are_joined_row_by_row():
    pixels = torch.arange(3 * 24 * 16.0).view(1, 3, 24, 16)
    rows = [
        pixels[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(1, 2, 0).flatten()
        for row in range(3)
        for column in range(2)
    ]
    assert torch.equal(join_patches(torch.stack(rows)[None], (3, 2)), pixels)


@pytest.mark.parametrize("config", [VIT, CONV, VAE, MAETOK, ROTARY], ids=lambda c: type(c).__name__)
def test_tall_images_through_every_tokenizer(config, tmp_path):
    """A latent's place is its pixels' place, and a stored one comes back as it was."""
    model = random_tokenizer(config)
    images = torch.rand(2, 3, *TALL) * 2 - 1
    z = model.encode(images)
    assert z.shape[1:] == model.latent_shape and model.decode(z).shape == images.shape
    opened = load_tokenizer(stored(model, tmp_path / "stored"))
    assert opened.config == config
    if is_discrete(model):
        assert torch.equal(opened.detokenize(opened.tokenize(images)), model.detokenize(model.tokenize(images)))
    for wrong in (images.mT, images[..., :8]):
        with pytest.raises(ValueError, match="24"):
            model.encode(wrong)


@pytest.mark.parametrize(("config", "grid"), [(VIT, (3, 2)), (CONV, (6, 4)), (VAE, (6, 4))])
def test_a_tall_grid_as_an_autoencoder(config, grid):
    model = random_tokenizer(config)
    assert model.grid == grid and model.num_latents == area(grid)
    maps = as_autoencoder(model)
    images = torch.rand(2, 3, *TALL) * 2 - 1
    z = maps.encode(images).latents
    assert z.shape[2:] == grid
    assert torch.equal(z[:, :, 2, 1], model.encode(images)[:, 2 * grid[1] + 1])
    assert maps.decode(z).sample.shape == images.shape


def test_histograms_of_a_tall_grid_are_those_of_its_squares():
    """Patches away from the border do not know how large the image is."""
    image = torch.rand(1, 3, 24, 16)
    square = F.pad(image, (0, 8, 0, 0), mode="reflect")
    tall, whole = hog(image, (6, 4)).view(6, 4, HOG_WIDTH), hog(square, 6).view(6, 6, HOG_WIDTH)
    torch.testing.assert_close(tall[:, :3], whole[:, :3])
    with pytest.raises(ValueError, match="found 24 x 16 and 6 x 3 patches"):
        hog(image, (6, 3))


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize(("old", "new"), [(24, 32), (24, (32, 16)), ((24, 16), 16), ((24, 16), (16, 40))])
def test_positions_are_resampled_for_another_size(old, new, codebooks, tmp_path):
    """By torch's own bicubic interpolation of the table as a map, written out here."""
    config = replace(VIT, image_size=old, codebooks=codebooks)
    model = random_tokenizer(config)
    path = stored(model, tmp_path / "stored")
    resized = load_tokenizer(path, image_size=new)
    assert resized.image_size == new
    (rows, columns), (height, width) = (
        (s // 8 for s in (x, x)) if isinstance(x, int) else (s // 8 for s in x) for x in (old, new)
    )

    def by_hand(table):
        maps = table.view(rows, columns, -1).permute(2, 0, 1)[None]
        maps = F.interpolate(maps, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        return maps[0].permute(1, 2, 0).reshape(height * width, -1)

    before, after = model.state_dict(), resized.state_dict()
    for side in ("encoder", "decoder"):
        table, found = before.pop(f"{side}.vit.pos_embed"), after.pop(f"{side}.vit.pos_embed")
        torch.testing.assert_close(found[0], torch.cat([table[0, :1], by_hand(table[0, 1:])]), atol=1e-6, rtol=0)
    tokens, found = before.pop("encoder.latent_tokens")[0], after.pop("encoder.latent_tokens")[0]
    expected = torch.cat([by_hand(group) for group in tokens.chunk(codebooks)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    images = torch.rand(1, 3, 8 * height, 8 * width)
    assert resized.reconstruct(images).shape == images.shape


def test_fewer_latents_than_patches_keep_their_share(tmp_path):
    config = replace(VIT, image_size=(32, 16), patch_size=4, num_latents=8)
    model = random_tokenizer(config)
    assert model.grid == (4, 2)
    resized = load_tokenizer(stored(model, tmp_path / "stored"), image_size=(48, 16))
    assert (resized.grid, resized.config.num_latents) == ((6, 2), 12)
    with pytest.raises(ValueError, match="a grid of the shape of the patches, 8 x 4"):
        ViTTokenizer(replace(config, num_latents=9))


def test_sizes_that_a_file_cannot_be_used_at(tmp_path):
    scaled = replace(VIT, image_size=24, scales=(1, 3))
    for name, config, size, message in (
        ("maetok", MAETOK, 32, "image_size: found 32 x 32, but a maetok is of one size, 24 x 16 pixels"),
        ("scales", scaled, 32, "image_size: found 32 x 32: residual codes of 2 scales are those of one size"),
        ("vit", VIT, (24, 20), "image_size: found 24 x 20: image_size must be a multiple of patch_size"),
    ):
        path = stored(random_tokenizer(config), tmp_path / name)
        with pytest.raises(UserError, match=message):
            load_tokenizer(path, image_size=size)
        assert load_tokenizer(path, image_size=config.image_size).config == config


@pytest.mark.parametrize("config", [GigaTokConfig(image_size=(32, 16)), TiTokConfig(image_size=(32, 16))])
def test_families_of_published_files_take_squares_alone(config):
    with pytest.raises(ValueError, match=f"found 32 x 16, but a {family_of(config).kind} takes square images alone"):
        family_of(config).build(config)


def test_no_published_layout_holds_a_tall_tokenizer():
    for config in (VIT, VAE, MAETOK):
        assert not any(layout.holds(config) for layout in family_of(config).layouts)


def test_generators_know_rows_and_columns():
    """LlamaGen's and SiT's positions on a grid of 3 x 2 are those of its rows and columns in a square grid."""
    tokens = random_tokenizer(VIT)
    decided = sizes_of_grid_tokens(tokens, 5)
    assert decided == {"codebook_size": 32, "num_classes": 5, "num_tokens": 6, "rows": 3}
    assert "rows" not in sizes_of_grid_tokens(random_tokenizer(replace(VIT, image_size=24)), 5)
    shape = LlamaGenConfig(width=16, depth=1, heads=2, mlp_width=16)
    tall, square = (
        LlamaGen(replace(shape, **decided)),
        LlamaGen(replace(shape, **decided | {"rows": 3, "num_tokens": 9})),
    )
    for a, b in zip(tall.rotation(), square.rotation(), strict=True):
        places = [0, *(1 + 3 * row + column for row in range(3) for column in range(2))][:-1]
        assert torch.equal(a, b[places])
    assert FAMILIES["llamagen"].decided is sizes_of_grid_tokens
    check_fits(tokens, tall)

    latents = random_tokenizer(VAE)
    assert sizes_of_latents(latents, 5) == {"num_latents": 24, "latent_width": 4, "num_classes": 5, "rows": 6}
    flow = SiTConfig(width=16, depth=1, heads=2, num_classes=5, latent_width=4, grid=True, rope=True, patch_size=2)
    tall = with_random_parameters(SiT(replace(flow, num_latents=24, rows=6)), 0.3)
    square = SiT(replace(flow, num_latents=36))
    places = [3 * row + column for row in range(3) for column in range(2)]
    assert torch.equal(tall.pos_embed, square.pos_embed[:, places])
    assert torch.equal(tall.rotation, square.rotation[:, places])
    z, t, classes = torch.randn(2, 24, 4), torch.rand(2), torch.tensor([0, 4])
    maps = tall.velocity(z.mT.unflatten(2, (6, 4)), t, classes)
    assert torch.equal(maps.flatten(2).mT, tall.velocity(z, t, classes))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LlamaGen(LlamaGenConfig(num_tokens=6, rows=4, codebook_size=8, num_classes=2)), "rows: found 4"),
        (lambda: LlamaGen(LlamaGenConfig(num_tokens=6, codebook_size=8, num_classes=2)), "rows of another grid"),
        (lambda: SiT(SiTConfig(num_latents=6, rows=3, latent_width=2, num_classes=2)), "rows: found 3, expected none"),
        (lambda: SiT(SiTConfig(num_latents=6, rows=4, grid=True, latent_width=2, num_classes=2)), "a grid of 4 rows"),
    ],
)
def test_grids_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()
