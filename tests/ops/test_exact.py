"""Every backend returns the indices of the definition: NumPy float64 brute force, ties to the lowest index."""

import numpy as np
import pytest
import torch

from robustok import ops
from robustok.core.random import PERTURB, keyed_words

from .table import DTYPES, SHAPES, make, order

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
PERTURB_ALL = {"alpha": 1.0, "beta": 1.0, "seed": 3}


@shapes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_nearest(name, shape, dtype, normalize):
    z, codebook = make(shape, dtype)
    found = ops.vq_nearest(z, codebook, normalize=normalize, backend=name)
    assert found.dtype == torch.int64
    assert np.array_equal(found.flatten(), order(z, codebook, normalize)[:, :1].ravel())


@shapes
def test_neighbors(name, shape):
    z, codebook = make(shape)
    found = ops.vq_neighbors(z, codebook, shape[-1], backend=name)
    assert np.array_equal(found.flatten(0, 1), order(z, codebook, True)[:, : shape[-1]])


def ranks_of(perturbed, orders) -> np.ndarray:
    """At which rank of its row's order each perturbed index stands."""
    return (orders == perturbed.indices.flatten().numpy()[:, None]).argmax(1)


@shapes
@pytest.mark.parametrize("neighbors", ["latent", "code"])
def test_perturbed_codes_stand_at_the_rank_drawn(name, shape, neighbors):
    z, codebook = make(shape)
    B, L, _, _, delta = shape
    result = ops.vq_perturb(z, codebook, delta=delta, neighbors=neighbors, backend=name, **PERTURB_ALL)
    w1 = keyed_words(3, PERTURB, torch.arange(B)[:, None], torch.arange(L))[1].flatten().tolist()
    expected = [int(w) * delta // 2**32 for w in w1]
    query = z if neighbors == "latent" else codebook[result.nearest]
    assert ranks_of(result, order(query, codebook, True)).tolist() == expected


@pytest.mark.parametrize("normalize", [True, False])
def test_duplicate_codes_go_to_the_lowest_index(name, normalize):
    z, codes = make((1, 9, 6, 20, 1))
    codebook = codes.repeat(5, 1)  # each code five times, 20 apart
    orders = order(z, codebook, normalize)
    assert np.array_equal(ops.vq_nearest(z, codebook, normalize=normalize, backend=name).flatten(), orders[:, 0])
    found = ops.vq_neighbors(z, codebook, 13, normalize=normalize, backend=name)
    assert np.array_equal(found.flatten(0, 1), orders[:, :13])
    result = ops.vq_perturb(z, codebook, delta=100, normalize=normalize, backend=name, **PERTURB_ALL)
    reference = ops.vq_perturb(z, codebook, delta=100, normalize=normalize, backend="reference", **PERTURB_ALL)
    assert torch.equal(result.indices, reference.indices)


def test_identical_codes_are_ordered_by_index(name):
    z, _ = make((1, 9, 4, 1, 1))
    codebook = torch.ones(300, 4)
    assert (ops.vq_nearest(z, codebook, backend=name) == 0).all()
    assert torch.equal(ops.vq_neighbors(z, codebook, 5, backend=name), torch.arange(5).expand(1, 9, 5))


def test_integer_lattice_ties(name):
    """Small integers: most distances are shared by many codes, and float64 has them exactly."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randint(-3, 4, (1, 25, 3), generator=generator).float()
    codebook = torch.randint(-3, 4, (500, 3), generator=generator).float()
    orders = order(z, codebook, False)
    found = ops.vq_neighbors(z, codebook, 30, normalize=False, backend=name)
    assert np.array_equal(found.flatten(0, 1), orders[:, :30])
    assert np.array_equal(ops.vq_nearest(z, codebook, normalize=False, backend=name).flatten(), orders[:, 0])


def test_gaps_below_float32(name):
    """Two codes whose distances differ by less than float32 can tell: the float64 order decides."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(1, 60, 16, generator=generator)
    base = torch.randn(50, 16, generator=generator)
    codebook = torch.cat([base, base * (1 + 3e-7), base * (1 - 3e-7)])
    found = ops.vq_neighbors(z, codebook, 9, normalize=False, backend=name)
    assert np.array_equal(found.flatten(0, 1), order(z, codebook, False)[:, :9])


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-13, 1e-12, 1e18, 1e20, 1e30])
def test_scales_where_float32_underflows_or_overflows(name, scale):
    z, codebook = make((1, 20, 5, 40, 4))
    check_order(name, z * scale, codebook * scale, normalize=False)


@pytest.mark.parametrize(
    ("z_scale", "code_scale"), [(1e10, 1e-10), (1e15, 1), (1e20, 1), (1e30, 1), (1e-20, 1), (1, 1e20)]
)
def test_lengths_so_far_apart_that_float64_rounds(name, z_scale, code_scale):
    z, codebook = make((1, 20, 4, 40, 4))
    check_order(name, z * z_scale, codebook * code_scale, normalize=False)


@pytest.mark.parametrize("scale", [1e-12, 1e-13, 1e-19, 1e-24, 1e-30])
def test_rows_too_short_to_be_normalised(name, scale):
    z, codebook = make((1, 20, 2, 40, 4))
    check_order(name, z * scale, codebook * scale, normalize=True)
    check_order(name, z, codebook * scale, normalize=True)
    check_order(name, z * scale, codebook, normalize=True)


def check_order(name, z, codebook, normalize):
    """The nearest code, the first few, and the code at each rank drawn."""
    orders = order(z, codebook, normalize)
    found = ops.vq_nearest(z, codebook, normalize=normalize, backend=name)
    assert np.array_equal(found.flatten(), orders[:, 0])
    found = ops.vq_neighbors(z, codebook, 4, normalize=normalize, backend=name)
    assert np.array_equal(found.flatten(0, 1), orders[:, :4])
    given = {"delta": len(codebook), "normalize": normalize, **PERTURB_ALL}
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
    assert np.array_equal(found.flatten(), order(z, codebook, True)[:, :1].ravel())
    assert ops.vq_neighbors(z, codebook, 4, backend=name).shape == (*shape[:-1], 4)


def test_widest_rows(name):
    z, codebook = make((1, 3, 768, 40, 1))
    assert np.array_equal(ops.vq_nearest(z, codebook, backend=name).flatten(), order(z, codebook, True)[:, 0])
