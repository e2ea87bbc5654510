"""What this machine can do, or what a file holds: python -m robustok.doctor [--tokenizer FILE] [--json]

Versions, devices, threads, the compiled extension, and for each kind of device which backend the operations take there
and why not the others; which decode attention was measured to be fastest on this machine's GPUs. Exit code 0, also
where only the plain backends can run.

With --tokenizer instead: as what the file was recognised, the tokenizer's sizes, where its weights come from, how well
it gives some images back, and whether these seem to be in another range of values than the one it declares. Exit code
0 whatever was found, 2 where the file cannot be opened.
"""

import importlib.metadata
import json
import os
import platform
import sys

from .core.cli import run_verb
from .core.errors import UserError
from .core.options import add_tokenizer_sizes, tokenizer_sizes, verb_parser
from .core.text import say

_PACKAGES = ("torch", "triton", "numpy", "safetensors", "flash-attn")


def main(argv: list[str]) -> int:
    """Prints the report and returns 0. Raises UserError for a tokenizer or images that cannot be opened."""
    from .report.tokenizer_file import describe_tokenizer, examine_tokenizer

    parser = verb_parser("doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a tokenizer to look at: our checkpoint or a published file"
    )
    parser.add_argument(
        "--images", help="what it is to give back, as for evaluate (default: two photographs of scikit-learn's)"
    )
    add_tokenizer_sizes(parser)
    options = parser.parse_args(argv)
    if options.tokenizer is None and options.images is not None:
        raise UserError(f"--images: found {options.images} without --tokenizer, which is to give them back")
    if options.tokenizer is None:
        found, describe = examine(), _describe
    else:
        found = examine_tokenizer(options.tokenizer, options.images, **tokenizer_sizes(options))
        describe = describe_tokenizer
    if options.json:
        print(json.dumps(found, indent=1))  # ASCII, and any name comes back out of it
    else:
        say(describe(found))
    return 0


def examine() -> dict:
    """Everything the report says, as JSON types."""
    import torch

    from .core.device import untested_devices
    from .core.version import __version__
    from .ops.decoding.appending import choices_file
    from .ops.decoding.measured_choice import read_choices
    from .ops.vq.backends import registry
    from .ops.vq.backends.cpp_backend import CppBackend

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "robustok": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": {"built_for": torch.version.cuda, "devices": [_device(i) for i in range(torch.cuda.device_count())]},
        "untested": untested_devices(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "extension": CppBackend().describe(),
        "backends": {
            device: {"auto": registry.choose("auto", torch.device(device)).name}
            | {name: reason or "can run" for name, reason in registry.reasons(torch.device(device)).items()}
            for device in devices
        },
        "attention": read_choices(choices_file()),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(index: int) -> dict:
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = f"{properties.major}.{properties.minor}"
    return {"name": properties.name, "memory_bytes": properties.total_memory, "capability": capability}


def _describe(found: dict) -> str:
    packages = ", ".join(f"{name} {version or 'not installed'}" for name, version in found["packages"].items())
    gpus = [f"{gpu['name']} ({gpu['memory_bytes'] / 2**30:.0f} GiB)" for gpu in found["cuda"]["devices"]]
    lines = [
        f"robustok {found['robustok']}, Python {found['python']}, {found['platform']}",
        packages,
        f"GPU: {', '.join(gpus) or 'none that torch can use'}; torch built for CUDA {found['cuda']['built_for']}",
        *(f"untested: {sentence}" for sentence in found["untested"]),
        f"CPU: {found['cores']} cores, torch uses {found['threads']} threads",
        f"compiled extension: {found['extension']}",
    ]
    for device, backends in found["backends"].items():
        lines.append(f"operations on {device} tensors take the backend {backends['auto']}")
        lines += [f"    {name:10}{verdict}" for name, verdict in backends.items() if name != "auto"]
    for caches, measured in found["attention"].items():
        lines.append(f"decode attention on {caches}: {measured['taken']}")
        lines += [
            f"    {name:12}{value if isinstance(value, str) else f'{value:.4f} ms'}"
            for name, value in measured.items()
            if name != "taken"
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_verb(main))
