"""A cycle model of the GPU kernels: an estimate, not a measurement, and made without a GPU.

    python bench/model.py

Calls of the published sizes are recorded (launches.py) and their kernels compiled for sm_90; cycles.py says what a
launch takes. Sampling is bytes of caches and weights, products, and launches. Expect +-30 %. Figures of it are for
finding what is slow; they are never results.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cycles import CLOCK, COPY, LAUNCH, LOAD, PRODUCTS, seconds
from bench.launches import Launch, recorded
from robustok.model_configs import RARConfig
from robustok.models.generators.rar import RAR
from robustok.ops.decoding.step_linear import MOST_ROWS
from robustok.ops.vq.backends.triton_backend import TritonBackend
from robustok.ops.vq.types import Draw

NODE = 1.2e-6  # seconds from one kernel of a replayed graph to the next
WAIT = 2 * LOAD / CLOCK  # seconds of a kernel that has next to nothing to do: it reads, and where it read to
SMALL_PRODUCTS = 0.6  # share of the product rate that a decoding step's few rows reach

N, L, K, D, DELTA = 262_144, 256, 4096, 64, 100
MOST = {"P1": 0.40, "P2": 0.6, "P3": 1.5, "P4": 0.15}  # milliseconds


class Goal(NamedTuple):
    name: str
    wanted: float
    unit: str
    found: float


def call(run) -> tuple[float, list[tuple[str, dict]]]:
    """Seconds of a call, and its launches."""
    with recorded() as record:
        run()
    found = []
    for x in record.calls:
        if isinstance(x, Launch):
            found.append((x.name, seconds(x)))
        else:
            found.append((x.name, {"bytes": x.bytes / COPY, "all": x.bytes / COPY + LAUNCH}))
    return sum(each["all"] for _, each in found), found


def operations() -> dict[str, tuple[float, list]]:
    """P1 to P4."""
    z, codebook, backend = torch.empty(N // L, L, D, device="meta"), torch.empty(K, D, device="meta"), TritonBackend()

    def draw(beta: float) -> Draw:
        numbers = torch.tensor(1.0, dtype=torch.float64), torch.tensor(DELTA), torch.tensor(0)
        return Draw(*numbers, torch.empty(N // L, dtype=torch.int64, device="meta"), int(beta * N // L))

    return {
        "P1": call(lambda: backend.nearest(z, codebook, "cosine")),
        "P2": call(lambda: backend.quantize(z, codebook, draw(0.1), "latent", "cosine")),
        "P3": call(lambda: backend.quantize(z, codebook, draw(1.0), "latent", "cosine")),
        "P4": call(lambda: backend.neighbors(codebook[None], codebook, DELTA, "cosine")),
    }


def attention_share(width: int, places: int) -> float:
    """P8: the share of the copy rate at which 1,024 streams of 16 heads read their caches."""
    from robustok.kernels.attention import decode_attention

    keys, values = (torch.empty(1024, 16, places, width, dtype=torch.bfloat16, device="meta") for _ in range(2))
    query, last = keys[:, :, :1], torch.empty(1024, 1, dtype=torch.int64, device="meta")
    with recorded() as record:
        decode_attention(query, keys, values, last)
    (launch,) = (x for x in record.calls if isinstance(x, Launch))
    replayed = seconds(launch)["all"] - LAUNCH  # in a graph the next one is launched meanwhile
    return 2 * keys.nbytes / COPY / replayed


def kernels_a_layer() -> float:
    """Of a compiled decoding step: each product, the attention, and each run of other operations between them."""
    counts = []
    for depth in (1, 2):
        shape = {"width": 32, "heads": 2, "mlp_width": 64, "codebook_size": 64, "num_classes": 8, "num_tokens": 12}
        model = RAR(RARConfig(depth=depth, **shape)).eval()
        with torch.no_grad():
            decoder = model.decoder(2)
            decoder.start(torch.tensor([1, 8]))
            decoder.prepare(1)
            with recorded() as record:
                decoder.step(torch.tensor([1, 1]), torch.tensor([1]))
        own = ["linear" in x.name or "mm" in x.name or "attention" in x.name for x in record.calls]
        counts.append(sum(own) + sum(not now and (i == 0 or own[i - 1]) for i, now in enumerate(own)))
    return counts[1] - counts[0]


def images_per_second(width: int, batch: int, layer_kernels: float) -> float:
    """P6, P7: RAR of 24 layers, guided, bfloat16, 256 tokens, on modulation that is looked up."""
    depth, rows, share = 24, 2 * batch, attention_share(width // 16, 257)
    with torch.device("meta"):
        config = RARConfig(width, depth, 16, 4 * width, codebook_size=K, num_classes=1000, num_tokens=L)
        caches = RAR(config).bfloat16().cache_bytes(2) * batch
    weights = depth * 12 * width**2 + 2 * width * K  # the head is float32
    table = 2 * (6 * depth + 2) * width * rows  # modulation, a row a stream
    moved = L * (2 * weights + 2 * table + 16 * depth * rows * width * 2)
    products = L * 2 * weights * rows / (SMALL_PRODUCTS * PRODUCTS)
    whole = caches / (share * COPY) + max(products, L * 2 * weights / COPY) + (moved / COPY)
    return batch / (whole + L * NODE * (depth * layer_kernels + 4))


def replayed(run) -> float:
    """Seconds of a call's launches in a replayed graph, where each is launched while the one before it runs."""
    with recorded() as record:
        run()
    return sum(seconds(x)["all"] - LAUNCH + NODE for x in record.calls if isinstance(x, Launch))


def linear_layers(width: int, rows: int, is_fused: bool) -> float:
    """Seconds of the linear layers of a RAR layer and of what stands around them but attention, for few rows.

    Fused, or apart: then products come from the same kernel without the rest, because the machine code of a library's
    is not at hand, and residual with norm (twice) and activation are kernels of their own.
    """
    from robustok.kernels.linear import linear

    new = partial(torch.empty, dtype=torch.bfloat16, device="meta")
    x, hidden, modulation = new(rows, width), new(rows, 4 * width), new(3, 8, width)
    normed, added, active = {}, {}, {}
    if is_fused:
        picked = {"picked": torch.empty(rows, dtype=torch.int64, device="meta")}
        normed = {"factor": modulation[0], "shift": modulation[1], "epsilon": 1e-6} | picked
        added, active = {"residual": x, "gate": modulation[2]} | picked, {"gelu": True}

    def run() -> None:
        linear(x, new(3 * width, width), new(3 * width), **normed)
        linear(x, new(width, width), new(width), **added)
        linear(x, new(4 * width, width), new(4 * width), **normed, **active)
        linear(hidden, new(width, 4 * width), new(width), **added)

    return replayed(run) + (0 if is_fused else 3 * (NODE + WAIT))


def latency(width: int) -> float:
    """P9: seconds for one image of RAR of 24 layers, guided, bfloat16, 256 tokens."""
    from robustok.kernels.attention import decode_attention

    keys = torch.empty(2, 16, L // 2 + 1, width // 16, dtype=torch.bfloat16, device="meta")
    last = torch.empty(2, 1, dtype=torch.int64, device="meta")
    layer = linear_layers(width, 2, is_fused=True) + replayed(
        lambda: decode_attention(keys[:, :, :1], keys, keys, last)
    )
    around = 7 * (NODE + WAIT) + 4 * K * width / COPY  # embedding, modulation, norm, head in float32, sampling
    return L * (24 * layer + around)


def main() -> None:
    found, layer = operations(), kernels_a_layer()
    goals = [Goal(name, most, "ms", 1e3 * found[name][0]) for name, most in MOST.items()]
    goals += [Goal("P6", 310, "images/s", images_per_second(1024, 256, layer))]
    goals += [Goal("P7", 430, "images/s", images_per_second(768, 256, layer))]
    goals += [
        Goal(f"P8, width {width}, {places} places", 0.88, "of the copy rate", attention_share(width, places))
        for width in (48, 64)
        for places in (129, 257)
    ]
    goals += [Goal("P9", 80, "ms", 1e3 * latency(768))]
    linears = {
        f"linear layers, width {width}, {rows} rows, {name}": 1e6 * linear_layers(width, rows, name == "fused")
        for width in (768, 1024)
        for rows in (2, 8, MOST_ROWS)
        for name in ("fused", "apart")
    }
    if "--json" in sys.argv:
        print(json.dumps({goal.name: goal.found for goal in goals} | linears))
        return
    print("Estimate by a cycle model of one H200, +-30 %: not measured.\n")
    for goal in goals:
        print(f"{goal.name:24} goal {goal.wanted:7.2f}   estimate {goal.found:8.3f}  {goal.unit}")
    print(f"\nkernels a layer of a compiled decoding step of many images: {layer:.0f}; of few, fused, microseconds:")
    for name, microseconds in linears.items():
        print(f"{name:50} {microseconds:8.1f}")
    print("\nlaunches, microseconds, and their two limits")
    for name, (_, launches) in found.items():
        for kernel, limits in launches:
            two = sorted(((v, k) for k, v in limits.items() if k != "all"), reverse=True)[:2]
            print(
                f"{name}  {kernel:20} {1e6 * limits['all']:8.1f}   " + ", ".join(f"{k} {1e6 * v:.1f}" for v, k in two)
            )


if __name__ == "__main__":
    main()
