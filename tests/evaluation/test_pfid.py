"""pFID against the definition written out, setting by setting, with vq_perturb."""

import pytest
import torch

from robustok import vq_nearest, vq_perturb
from robustok.data.transforms import from_uint8, to_uint8
from robustok.evaluation import FeatureStatistics, delta_set, frechet_distance, perturbing, pfid, quick_pfid
from robustok.evaluation.explaining import codebook_usage
from robustok.evaluation.perturbing import CLEAN, codes_of, device_of, perturbed_images, perturbed_indices
from robustok.evaluation.pfid import ALPHAS, quick_settings
from robustok.model_configs import TokenizerConfig
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer


def distance(restored, images, features) -> float:
    sides = [FeatureStatistics(12).update(features(x).features) for x in (restored, images)]
    return frechet_distance(*sides)


@pytest.mark.parametrize(
    ("size", "deltas"),
    [
        (16384, (200, 280, 360)),
        (8192, (100, 140, 180)),
        (4096, (50, 70, 90)),
        (1024, (10, 15, 20)),
        (2048, (25, 35, 45)),
        (32768, (400, 560, 720)),
        (256, (3, 4, 6)),
        (16, (1, 1, 1)),
    ],
)
def test_neighbour_sets_scale_with_the_codebook(size, deltas):
    assert delta_set(size) == deltas


@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("normalize", [True, False, None])
def test_indices_are_those_of_vq_perturb_at_every_setting(tokenizer, images, neighbors, normalize):
    """A tokenizer says `normalize`, as a user's own may, or `similarity`."""
    tokenizer.normalize = normalize
    compared = {"similarity": "dot"} if normalize is None else {"normalize": normalize}
    if normalize is None:
        tokenizer.similarity = "dot"
    ids = torch.arange(1000, 1060)
    settings = [(0.0, 1), (0.9, 3), (0.5, 20), (1.0, 48), (0.3, 1)]
    latents = tokenizer.encode(from_uint8(images))
    found = dict(perturbed_indices(tokenizer, images, settings, 7, ids, neighbors))
    assert list(found) == settings
    for (alpha, delta), indices in found.items():
        same = vq_perturb(
            latents,
            tokenizer.codebook,
            alpha=alpha,
            beta=1.0,
            delta=delta,
            seed=7,
            sample_ids=ids,
            neighbors=neighbors,
            **compared,
        )
        assert torch.equal(indices, same.indices), (alpha, delta)
    assert not torch.equal(found[0.9, 3], found[0.0, 1])


def test_unperturbed_tokens_may_be_compared_in_another_way(tokenizer, images, pixels):
    """The mixture that published figures of IBQ may be of: perturbed among the largest products, else the nearest."""
    tokenizer.similarity = "dot"
    ids, latents = torch.arange(60), tokenizer.encode(from_uint8(images))
    settings = [(0.6, 12), (0.0, 1), (1.0, 12)]
    dot = dict(perturbed_indices(tokenizer, images, settings, 7, ids))
    mixed = dict(perturbed_indices(tokenizer, images, settings, 7, ids, unperturbed="l2"))
    nearest = vq_nearest(latents, tokenizer.codebook, similarity="l2")
    assert torch.equal(mixed[0.0, 1], nearest) and not torch.equal(nearest, dot[0.0, 1])
    assert torch.equal(mixed[1.0, 12], dot[1.0, 12])
    kept = mixed[0.6, 12] == nearest
    assert torch.equal(mixed[0.6, 12][~kept], dot[1.0, 12][~kept]) and 0.3 < kept.float().mean() < 0.6
    given = {"alphas": (0.6,), "deltas": (12,), "seed": 7, "batch_size": 25}
    plain, variant = (
        pfid(tokenizer, images, pixels, **given),
        pfid(tokenizer, images, pixels, unperturbed="l2", **given),
    )
    restored = to_uint8(tokenizer.decode(codes_of(tokenizer, mixed[0.6, 12])))
    assert variant.mean == pytest.approx(distance(restored, images, pixels), rel=1e-9) != pytest.approx(plain.mean)


def test_memory_for_neighbours_only_splits_the_work(tokenizer, images, monkeypatch):
    ids = torch.arange(60)
    whole = dict(perturbed_indices(tokenizer, images, [(0.8, 9)], 0, ids))
    monkeypatch.setattr(perturbing, "NEIGHBOR_BYTES", 8 * 16 * 9 * 7)
    assert torch.equal(dict(perturbed_indices(tokenizer, images, [(0.8, 9)], 0, ids))[0.8, 9], whole[0.8, 9])


def test_every_cell_is_the_distance_of_its_reconstructions(tokenizer, images, pixels):
    found = pfid(tokenizer, images, pixels, deltas=(5, 12), seed=3, batch_size=25)
    assert set(found.table) == {(alpha, delta) for alpha in ALPHAS for delta in (5, 12)}
    latents = tokenizer.encode(from_uint8(images))
    for (alpha, delta), value in found.table.items():
        moved = vq_perturb(latents, tokenizer.codebook, alpha=alpha, beta=1.0, delta=delta, seed=3)
        restored = to_uint8(tokenizer.decode(codes_of(tokenizer, moved.indices)))
        assert value == pytest.approx(distance(restored, images, pixels), rel=1e-9)
    clean = to_uint8(tokenizer.decode(codes_of(tokenizer, moved.nearest)))
    assert found.rfid == pytest.approx(distance(clean, images, pixels), rel=1e-9)
    assert found.mean == pytest.approx(sum(found.table.values()) / 10)
    assert found.count == 60


def test_the_protocol_has_15_settings_and_encodes_once(tokenizer, images, pixels):
    found = pfid(tokenizer, images, pixels, deltas=(2, 5, 9))
    assert len(found.table) == 15
    assert tokenizer.encoded == 60


def test_batches_of_any_size_give_the_same(tokenizer, images, pixels):
    seen = []
    whole = pfid(tokenizer, images, pixels, alphas=(0.9,), deltas=(9,), batch_size=60)
    parts = pfid(tokenizer, images.split([1, 30, 29]), pixels, alphas=(0.9,), deltas=(9,), progress=seen.append)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9)
    assert seen == [1, 31, 60]


def test_stronger_perturbation_scores_worse(tokenizer, images, pixels):
    codes = codes_of(tokenizer, tokenizer.tokenize(from_uint8(images)))
    images = to_uint8(tokenizer.decode(codes))  # which it gives back exactly
    found = pfid(tokenizer, images, pixels, alphas=(0.1, 1.0), deltas=(2, 48))
    assert found.rfid == pytest.approx(0, abs=1e-6)
    assert found.rfid < found.table[0.1, 2] < found.table[1.0, 2] < found.table[1.0, 48]


def test_quick_estimate_takes_three_balanced_settings_of_the_first_images(tokenizer, images, pixels):
    assert quick_settings(16384) == ((0.9, 200), (0.7, 280), (0.5, 360))
    quick = quick_pfid(tokenizer, images, pixels, max_images=40, batch_size=25)
    assert quick.count == 40
    full = pfid(tokenizer, images[:40], pixels)
    for setting, value in quick.table.items():
        assert value == pytest.approx(full.table[setting], rel=1e-9)


def test_the_global_generator_is_untouched(tokenizer, images, pixels):
    state = torch.get_rng_state()
    pfid(tokenizer, images[:10], pixels, alphas=(0.5,), deltas=(3,))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_judged_is_refused(tokenizer, images, pixels):
    with pytest.raises(ValueError, match="found 1, expected at least two"):
        pfid(tokenizer, images[:1], pixels)
    with pytest.raises(ValueError, match="neighbors: found 'far'"):
        pfid(tokenizer, images, pixels, neighbors="far")
    del tokenizer.codebook
    with pytest.raises(ValueError, match="needs a tokenizer with a codebook"):
        pfid(tokenizer, images, pixels)


def test_a_users_tokenizer_may_call_a_part_of_it_quantizer(tokenizer, images, pixels):
    expected = pfid(tokenizer, images, pixels)
    tokenizer.quantizer = torch.nn.Identity()
    assert pfid(tokenizer, images, pixels) == expected


def test_a_tokenizer_that_cannot_be_perturbed_is_only_reconstructed(tokenizer, images, pixels):
    tokenizer.perturbable = "none"
    tokenizer.detokenize = lambda tokens: tokenizer.decode(codes_of(tokenizer, tokens))
    found = dict(perturbed_images(tokenizer, images, [CLEAN], 0, torch.arange(60)))
    assert torch.equal(found[CLEAN], to_uint8(tokenizer.detokenize(tokenizer.tokenize(from_uint8(images)))))
    with pytest.raises(ValueError, match="pFID, is not defined"):
        pfid(tokenizer, images, pixels)
    with pytest.raises(ValueError, match="found another kind"):
        list(perturbed_indices(tokenizer, images, [CLEAN], 0, torch.arange(60)))


def test_a_tokenizer_says_where_it_computes(tokenizer):
    assert device_of(tokenizer) == torch.device("cpu")  # where its codebook is
    tokenizer.device = torch.device("meta")
    assert device_of(tokenizer) == torch.device("meta")


def test_a_tokenizer_with_several_codebooks_reconstructs_by_itself(pixels):
    torch.manual_seed(0)
    shape = TokenizerConfig(image_size=16, width=32, depth=1, heads=2, codebook_size=32, code_width=4, codebooks=2)
    product = ViTTokenizer(shape).eval()
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = pfid(product, images, pixels, alphas=(0.8,), deltas=(6,), seed=2, batch_size=15)
    restored = to_uint8(product.reconstruct(from_uint8(images), alpha=0.8, delta=6, seed=2))
    assert found.table[0.8, 6] == pytest.approx(distance(restored, images, pixels), rel=1e-9)
    assert int(codebook_usage(product, images.split(15)).counts.sum()) == 40 * 4 * 2
    with pytest.raises(ValueError, match="found another kind"):
        dict(perturbed_indices(product, images, [(0.8, 6)], 0, torch.arange(40)))
