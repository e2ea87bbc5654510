"""Packages of the wheel, and its two compiled extensions from csrc/.

robustok._C, the host backend, is built wherever there is a C++ compiler. robustok._cuda is built where nvcc is found
too, or as ROBUSTOK_CUDA=0 (never) or 1 (always, or fail) says. What does not build is left out, and said so.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# The definition of distance must not contract to fused multiply-add; the scoring loops ask for it by name.
CXX_FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden"]
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xptxas=-v", "-Xcompiler=-fPIC"]  # -v: registers and spills of every kernel
ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",  # what newer devices compile for themselves
]


def find_nvcc() -> str | None:
    """Path of nvcc; None where CUDA is not to be built."""
    wish = os.environ.get("ROBUSTOK_CUDA", "")
    if wish not in ("", "0", "1"):
        sys.exit(f"ROBUSTOK_CUDA: found {wish!r}, expected 0 (no CUDA), 1 (CUDA or fail) or nothing")
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if wish == "1" and nvcc is None:
        sys.exit("ROBUSTOK_CUDA=1, but nvcc is neither on PATH nor in CUDA_HOME/bin")
    return None if wish == "0" else nvcc


def run_nvcc(*arguments: str) -> None:
    done = subprocess.run([NVCC, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        raise CompileError(f"nvcc {' '.join(arguments)} failed")


class BuildExtensions(build_ext):
    """Compiles the sources of an extension side by side; those in CUDA with nvcc, which then also links."""

    def build_extension(self, ext):
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(lambda source: self.compile(source, ext.include_dirs), ext.sources))
        if ext.name == "robustok._cuda":
            run_nvcc("-shared", "-cudart=static", *objects, "-o", str(target))
        else:
            self.compiler.link_shared_object(objects, str(target), libraries=ext.libraries, target_lang="c++")

    def compile(self, source: str, include_dirs: list[str]) -> str:
        if source.endswith(".cu"):
            target = str(Path(self.build_temp, Path(source).name + ".o"))
            run_nvcc(*NVCC_FLAGS, *ARCHITECTURES, "-c", source, "-o", target)
            return target
        return self.compiler.compile([source], self.build_temp, include_dirs=include_dirs, extra_postargs=CXX_FLAGS)[0]


def extensions() -> list[Extension]:
    include_dirs = ["csrc", pybind11.get_include()]
    host = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    built = [Extension("robustok._C", host, include_dirs=include_dirs, libraries=["pthread"], optional=True)]
    if NVCC is None:
        print("robustok: left out robustok._cuda: no nvcc, or ROBUSTOK_CUDA=0", flush=True)
        return built
    device = sorted(str(path) for path in Path("csrc/cuda").iterdir() if path.suffix in (".cpp", ".cu"))
    optional = os.environ.get("ROBUSTOK_CUDA") != "1"
    return [*built, Extension("robustok._cuda", device, include_dirs=include_dirs, optional=optional)]


NVCC = find_nvcc()
setup(
    packages=[*find_packages(include=["robustok", "robustok.*"]), "robustok.kernels", "robustok.configs"],
    package_dir={"robustok.kernels": "kernels", "robustok.configs": "configs"},
    package_data={"robustok.configs": ["*.yaml"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtensions},
)
