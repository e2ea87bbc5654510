"""Which operations a piece of code asks torch for: on a GPU each launches kernels, and waits in the queue for them."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

# These give a tensor another shape, or make room for one, and launch nothing.
NOTHING = {"alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute", "select", "slice", "split"}
NOTHING |= {"split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view"}
NOTHING |= {"_reshape_alias", "empty", "empty_like", "empty_permuted", "empty_strided", "is_same_size", "new_empty"}
NOTHING |= {"new_empty_strided", "_record_function_enter_new", "_record_function_exit"}


class Operations(TorchDispatchMode):
    """Counts the operations by name, those of backward passes as well."""

    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in NOTHING:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))
