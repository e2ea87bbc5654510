"""How a quantity is annealed in training. Time may be in epochs or in steps: the same unit for all arguments."""


def anneal_ratio(time: float, *, start: float, end: float, end_ratio: float) -> float:
    """1 until `start`, linear down to `end_ratio` at `end`, then `end_ratio`; a step function where start = end."""
    if time < start:
        return 1.0
    if time >= end:
        return end_ratio
    return 1.0 - (1.0 - end_ratio) * (time - start) / (end - start)
