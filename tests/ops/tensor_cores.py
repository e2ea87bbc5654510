"""Products as tensor cores may compute them, for the bounds on the error of scores; in NumPy, step by step."""

import numpy as np

ROUNDED_DOWN = 1 + 2.0**-11 - 2.0**-20  # by float16 and tf32, nearly as far as can be
LOST = 2.0**-11.5 * (1 - 2.0**-9)  # its square is just below 2**-23, and cut off beside 1
STEP = 4  # products that are added at once: the fewest that any generation adds


def multiply(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """total (n, m) plus a (n, D) times b (D, m), all float32 or less: each step cuts off its terms at 23 bits below the
    largest of them, and their sum to 24 bits."""
    for d in range(0, a.shape[1], STEP):
        products = a[:, d : d + STEP, None].astype(np.float64) * b[None, d : d + STEP]
        terms = np.concatenate([total[:, None].astype(np.float64), products], 1)
        terms = cut(terms, np.abs(terms).max(1, keepdims=True)).sum(1)
        total = cut(terms, np.abs(terms)).astype(np.float32)
    return total


def cut(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    unit = np.exp2(np.maximum(np.frexp(largest)[1] - 24.0, -149))
    return np.trunc(x / unit) * unit


def multiply_tf32_parts(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The same of float32 in two parts each, but for the product of the low ones, which are cut off to tf32."""
    (a_high, a_low), (b_high, b_low) = (_tf32_parts(x) for x in (a, b))
    small = multiply(a_high, b_low, multiply(a_low, b_high, np.zeros_like(total)))
    return total + multiply(a_high, b_high, small)


def _tf32_parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def bits(x, more):
        return ((np.ascontiguousarray(x).view(np.uint32) + np.uint32(more)) & np.uint32(0xFFFFE000)).view(np.float32)

    high = bits(x, 0x1000)
    return high, bits(x - high, 0)
