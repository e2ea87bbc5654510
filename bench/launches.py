"""What a call launches, recorded without a GPU: Triton's kernels with their arguments, and torch's operations.

Tensors are on the "meta" device, so that published sizes cost nothing. A launch is compiled to machine code for sm_90
as it would be on the device: with the constants, and the alignment of pointers and numbers, that it is given.
"""

import functools
import math
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}
OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
VIEWS = ("view", "expand", "slice", "select", "reshape", "unsqueeze", "squeeze", "transpose", "permute", "detach")
VIEWS += ("alias", "split", "chunk", "unbind", "empty", "t", "as_strided", "_unsafe_view", "unflatten")


class Launch(NamedTuple):
    """One launch of a Triton kernel."""

    kernel: JITFunction
    programs: int
    arguments: dict[str, Any]  # of the kernel, by name
    options: dict[str, Any]  # of the compiler

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__.strip("_").removesuffix("_kernel")

    @property
    def bytes(self) -> int:
        """Of all tensors, each read or written once; of rows that are normalised block by block, a block's."""
        tensors = {id(x): x for x in self.arguments.values() if isinstance(x, torch.Tensor)}
        found = sum(x.nbytes for x in tensors.values())
        if self.name == "normalize_rows":
            z = self.arguments["z"]
            found -= z.nbytes - self.arguments["out"].numel() * z.element_size()
        return found


class Operation(NamedTuple):
    """One operation of torch that launches a kernel."""

    name: str
    bytes: int  # read and written


class Recorded(TorchDispatchMode):
    """While it is entered, Triton's launches are written down and not made, and torch's operations are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Launch | Operation] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        of_host = not isinstance(found, torch.Tensor) or (found.dim() == 0 and not found.is_meta)  # a number
        if not of_host and name not in VIEWS and not name.startswith(("empty", "new_empty")):
            read = () if name.startswith("new_") else args  # a new tensor has the device of another, and reads nothing
            tensors = [x for x in torch.utils._pytree.tree_leaves((read, found)) if isinstance(x, torch.Tensor)]
            self.calls.append(Operation(name, sum(x.nbytes for x in {id(x): x for x in tensors}.values())))
        return found

    def take(self, kernel: JITFunction, *args, grid, warmup=False, **kwargs) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        arguments = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        defaults = {p.name: p.default for p in kernel.params if p.has_default}
        arguments = {name: (defaults | arguments)[name] for name in kernel.arg_names}
        grid = grid(arguments) if callable(grid) else grid
        self.calls.append(Launch(kernel, math.prod(grid), arguments, options))


@contextmanager
def recorded():
    """A `Recorded` that is entered."""
    run, record = JITFunction.run, Recorded()
    JITFunction.run = lambda kernel, *args, **kwargs: record.take(kernel, *args, **kwargs)
    try:
        with record:
            yield record
    finally:
        JITFunction.run = run


class Compiled(NamedTuple):
    """A kernel as it is launched, for sm_90."""

    cubin: bytes
    shared: int  # bytes of shared memory a program


def compiled(launch: Launch) -> Compiled:
    """What a launch runs."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        signature[parameter.name], is_aligned = _type_of(value, parameter.is_constexpr)
        if signature[parameter.name] == "constexpr":
            constants[parameter.name] = value
        if is_aligned:
            attributes[i,] = [["tt.divisibility", 16]]
    key = tuple(signature.items()), tuple(constants.items()), tuple(attributes), tuple(launch.options.items())
    return _compiled(launch.kernel, *key)


def _type_of(value: Any, is_constant: bool) -> tuple[str, bool]:
    """(Triton's name of an argument's type, whether it is known to be a multiple of 16)."""
    if is_constant or value is None or (isinstance(value, int) and value == 1):
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype], value.storage_offset() * value.element_size() % 16 == 0
    if isinstance(value, float):
        return "fp32", False
    return "i32" if value < 2**31 else "i64", value % 16 == 0


@functools.cache
def _compiled(kernel: JITFunction, signature, constants, aligned, options) -> Compiled:
    attributes = {place: [["tt.divisibility", 16]] for place in aligned}
    source = triton.compiler.ASTSource(kernel, dict(signature), dict(constants), attributes)
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(options))
    return Compiled(found.asm["cubin"], found.metadata.shared)
