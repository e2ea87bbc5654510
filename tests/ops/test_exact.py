"""Every backend returns the indices of the definition: NumPy float64 brute force, ties to the lowest index."""

import numpy as np
import pytest
import torch

from robustok import ops
from robustok.core.random import PERTURB, keyed_words

from .table import DTYPES, SHAPES, SIMILARITIES, make, order

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
PERTURB_ALL = {"alpha": 1.0, "beta": 1.0, "seed": 3}


@shapes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_nearest(name, shape, dtype, similarity):
    z, codebook = make(shape, dtype)
    found = ops.vq_nearest(z, codebook, similarity=similarity, backend=name)
    assert found.dtype == torch.int64
    assert np.array_equal(found.flatten(), order(z, codebook, similarity)[:, :1].ravel())


@shapes
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_neighbors(name, shape, similarity):
    z, codebook = make(shape)
    found = ops.vq_neighbors(z, codebook, shape[-1], similarity=similarity, backend=name)
    assert np.array_equal(found.flatten(0, 1), order(z, codebook, similarity)[:, : shape[-1]])


@shapes
@pytest.mark.parametrize("neighbors", ["latent", "code"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_perturbed_codes_stand_at_the_rank_drawn(name, shape, neighbors, similarity):
    z, codebook = make(shape)
    B, L, _, _, delta = shape
    given = {"delta": delta, "neighbors": neighbors, "similarity": similarity, **PERTURB_ALL}
    result = ops.vq_perturb(z, codebook, backend=name, **given)
    w1 = keyed_words(3, PERTURB, torch.arange(B)[:, None], torch.arange(L))[1].flatten().tolist()
    ranks = [int(w) * delta // 2**32 for w in w1]
    orders = order(z if neighbors == "latent" else codebook[result.nearest], codebook, similarity)
    orders[:, :1] = result.nearest.view(-1, 1)  # a code may have a larger product with another than with itself
    assert result.indices.flatten().tolist() == [int(row[rank]) for row, rank in zip(orders, ranks, strict=True)]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_duplicate_codes_go_to_the_lowest_index(name, similarity):
    z, codes = make((1, 9, 6, 20, 1))
    codebook = codes.repeat(5, 1)  # each code five times, 20 apart
    orders = order(z, codebook, similarity)
    assert np.array_equal(ops.vq_nearest(z, codebook, similarity=similarity, backend=name).flatten(), orders[:, 0])
    found = ops.vq_neighbors(z, codebook, 13, similarity=similarity, backend=name)
    assert np.array_equal(found.flatten(0, 1), orders[:, :13])
    result = ops.vq_perturb(z, codebook, delta=100, similarity=similarity, backend=name, **PERTURB_ALL)
    reference = ops.vq_perturb(z, codebook, delta=100, similarity=similarity, backend="reference", **PERTURB_ALL)
    assert torch.equal(result.indices, reference.indices)


def test_identical_codes_are_ordered_by_index(name):
    z, _ = make((1, 3, 4, 1, 1))
    codebook = torch.ones(300, 4)
    assert (ops.vq_nearest(z, codebook, backend=name) == 0).all()
    assert torch.equal(ops.vq_neighbors(z, codebook, 5, backend=name), torch.arange(5).expand(1, 3, 5))


@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_integer_lattice_ties(name, similarity):
    """Small integers: most distances are shared by many codes, and float64 has them exactly."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randint(-3, 4, (1, 25, 3), generator=generator).float()
    codebook = torch.randint(-3, 4, (500, 3), generator=generator).float()
    orders = order(z, codebook, similarity)
    found = ops.vq_neighbors(z, codebook, 30, similarity=similarity, backend=name)
    assert np.array_equal(found.flatten(0, 1), orders[:, :30])
    assert np.array_equal(ops.vq_nearest(z, codebook, similarity=similarity, backend=name).flatten(), orders[:, 0])


@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_gaps_below_float32(name, similarity):
    """Two codes whose distances differ by less than float32 can tell: the float64 order decides."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(1, 60, 16, generator=generator)
    base = torch.randn(50, 16, generator=generator)
    codebook = torch.cat([base, base * (1 + 3e-7), base * (1 - 3e-7)])
    found = ops.vq_neighbors(z, codebook, 9, similarity=similarity, backend=name)
    assert np.array_equal(found.flatten(0, 1), order(z, codebook, similarity)[:, :9])


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-13, 1e-12, 1e18, 1e20, 1e30])
@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_scales_where_float32_underflows_or_overflows(name, scale, similarity):
    # where scores decide nothing, every code of a row is tried: Triton's interpreter takes a second for each row
    z, codebook = make((1, 5 if name == "triton" else 20, 5, 40, 4))
    check_order(name, z * scale, codebook * scale, similarity)


@pytest.mark.parametrize(
    ("z_scale", "code_scale"), [(1e10, 1e-10), (1e15, 1), (1e20, 1), (1e30, 1), (1e-20, 1), (1, 1e20)]
)
@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_lengths_so_far_apart_that_float64_rounds(name, z_scale, code_scale, similarity):
    z, codebook = make((1, 20, 4, 40, 4))
    check_order(name, z * z_scale, codebook * code_scale, similarity)


@pytest.mark.parametrize("scale", [1e-12, 1e-13, 1e-19, 1e-24, 1e-30])
def test_rows_too_short_to_be_normalised(name, scale):
    z, codebook = make((1, 20, 2, 40, 4))
    check_order(name, z * scale, codebook * scale, "cosine")
    check_order(name, z, codebook * scale, "cosine")
    check_order(name, z * scale, codebook, "cosine")


def test_the_largest_product_is_neither_the_nearest_code_nor_the_nearest_by_angle(name):
    """Codes of different lengths; a row with one code opposite to it has that one last."""
    z, codebook = torch.tensor([[[1.0, 0.2]]]), torch.tensor([[1.0, 0.2], [-9.0, 0.0], [1.5, 1.5], [1.2, 0.3]])
    found = {s: ops.vq_neighbors(z, codebook, 4, similarity=s, backend=name).tolist() for s in SIMILARITIES}
    assert found == {"cosine": [[[0, 3, 2, 1]]], "l2": [[[0, 3, 2, 1]]], "dot": [[[2, 3, 0, 1]]]}


def test_products_do_not_depend_on_the_length_of_the_row(name):
    """Powers of two, with which nothing is rounded."""
    z, codebook = make((1, 30, 24, 500, 40))
    scaled = z * 2.0 ** torch.arange(-15, 15)[:, None]
    for neighbors in (1, 40):
        first, second = (ops.vq_neighbors(x, codebook, neighbors, similarity="dot", backend=name) for x in (z, scaled))
        assert torch.equal(first, second)


def test_no_product_counts_where_nothing_is_different(name):
    """A zero row, and rows orthogonal to all codes: every product is 0, whatever its sign, and the order by index."""
    codebook = torch.zeros(70, 4)
    codebook[:, :2] = torch.randn(70, 2)
    z = torch.tensor([[[0.0, 0, 0, 0], [0, 0, 1, 2], [-0.0, 0, -1, 2], [0, 0, 1e-30, 0]]])
    assert (ops.vq_nearest(z, codebook, similarity="dot", backend=name) == 0).all()
    assert torch.equal(ops.vq_neighbors(z, codebook, 9, similarity="dot", backend=name)[0, 0], torch.arange(9))
    check_order(name, z, codebook, "dot")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_codes_that_are_not_finite_come_last(name, value):
    z, codebook = make((1, 40, 6, 90, 4))
    codebook[::7, 2] = value
    for similarity in SIMILARITIES:
        check_order(name, z, codebook, similarity)


def test_normalize_says_the_same_in_another_way(name):
    z, codebook = make((2, 9, 5, 60, 7))
    for normalize, similarity in ((True, "cosine"), (False, "l2")):
        first = ops.vq_neighbors(z, codebook, 7, normalize=normalize, backend=name)
        assert torch.equal(first, ops.vq_neighbors(z, codebook, 7, similarity=similarity, backend=name))
        given = {"delta": 20, "backend": name, **PERTURB_ALL}
        first = ops.vq_quantize(z, codebook, normalize=normalize, **given)
        second = ops.vq_quantize(z, codebook, normalize=not normalize, similarity=similarity, **given)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_order(name, z, codebook, similarity):
    """The nearest code, the first few, and the code at each rank drawn."""
    orders = order(z, codebook, similarity)
    found = ops.vq_nearest(z, codebook, similarity=similarity, backend=name)
    assert np.array_equal(found.flatten(), orders[:, 0])
    found = ops.vq_neighbors(z, codebook, 4, similarity=similarity, backend=name)
    assert np.array_equal(found.flatten(0, 1), orders[:, :4])
    given = {"delta": len(codebook), "similarity": similarity, **PERTURB_ALL}
    found = ops.vq_perturb(z, codebook, backend=name, **given).indices
    assert torch.equal(found, ops.vq_perturb(z, codebook, backend="reference", **given).indices)


LAYOUTS = {
    "channels-first": lambda z: z.transpose(1, 2).contiguous().transpose(1, 2),
    "sliced": lambda z: torch.cat([z, z], 2)[..., : z.shape[2]],
    "offset": lambda z: torch.cat([z.flatten()[:1], z.flatten()])[1:].view(z.shape),
    "expanded": lambda z: z[:1].expand(z.shape),
    "every-other": lambda z: z.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(name, layout):
    z, codebook = make((3, 7, 12, 90, 20))
    z = LAYOUTS[layout](z)
    arguments = {"alpha": 0.8, "beta": 1.0, "delta": 20, "seed": 1, "backend": name}
    strided = ops.vq_quantize(z, codebook.T.contiguous().T, **arguments)
    dense = ops.vq_quantize(z.contiguous(), codebook, **arguments)
    assert all(torch.equal(a, b) for a, b in zip(strided, dense, strict=True))


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 4, 12), (0, 12)])
def test_nearest_of_any_number_of_dimensions(name, shape):
    z, codebook = torch.randn(shape), torch.randn(33, 12)
    found = ops.vq_nearest(z, codebook, backend=name)
    assert found.shape == shape[:-1]
    assert np.array_equal(found.flatten(), order(z, codebook)[:, :1].ravel())
    assert ops.vq_neighbors(z, codebook, 4, backend=name).shape == (*shape[:-1], 4)


def test_widest_rows(name):
    z, codebook = make((1, 3, 768, 40, 1))
    assert np.array_equal(ops.vq_nearest(z, codebook, backend=name).flatten(), order(z, codebook)[:, 0])
