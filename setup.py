"""Packages of the wheel, and its two compiled extensions from csrc/, built with ninja.

robustok._C, the host backend, is built wherever there is a C++ compiler. robustok._cuda is built where nvcc is found
too, or as ROBUSTOK_CUDA=0 (never) or 1 (always, or fail) says. What does not build is left out, and said so.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from ninja.ninja_syntax import Writer
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# The definition of distance must not contract to fused multiply-add; the scoring loops ask for it by name.
# With OpenMP, because its threads are those that torch computes with.
CXX_FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-fopenmp"]
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


class BuildExtensions(build_ext):
    """Builds each extension with ninja: side by side, and what has changed only."""

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        folder = Path(self.get_finalized_command("build").build_base, ext.name)
        for path in (target.parent, folder):
            path.mkdir(parents=True, exist_ok=True)
        plan = folder / "build.ninja"
        with plan.open("w") as file:
            self.write_plan(Writer(file), ext, folder, target)
        done = subprocess.run([sys.executable, "-m", "ninja", "-f", plan], stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        if done.returncode:
            print(f"robustok: left out {ext.name}: it did not compile", flush=True)
            target.unlink(missing_ok=True)  # of older sources
            raise CompileError(f"ninja -f {plan} failed")

    def copy_extensions_to_source(self):
        """For a build in place; what it left out goes, for it would be imported though it is of older sources."""
        super().copy_extensions_to_source()
        asked_for = {ext.name for ext in self.extensions}
        for name in ("robustok._C", "robustok._cuda"):
            built = Path(self.get_ext_filename(name))
            if name not in asked_for or not Path(self.build_lib, built).exists():
                Path("robustok", built.name).unlink(missing_ok=True)

    def write_plan(self, plan: Writer, ext: Extension, folder: Path, target: Path) -> None:
        cxx, link = [*self.compiler.compiler_so_cxx, *CXX_FLAGS], self.compiler.linker_so_cxx
        if ext.language == "cuda":
            link = [NVCC, "-shared", "-cudart=static"]
            self.add_compiler(plan, ".cu", [NVCC, *NVCC_FLAGS, *ARCHITECTURES])
        self.add_compiler(plan, ".cpp", cxx)
        plan.rule("link", f"{shlex.join([*link, *ext.extra_link_args])} $in -o $out", description="link $out")
        plan.variable("builddir", str(folder))
        # Where Python and pybind11 are changes with the environment of a build; the bindings alone need to know.
        python = shlex.join(f"-I{path}" for path in (*self.compiler.include_dirs, *ext.include_dirs))
        objects = [str(folder / f"{Path(source).name}.o") for source in ext.sources]
        for source, out in zip(map(Path, ext.sources), objects, strict=True):
            plan.build(
                out, source.suffix[1:], str(source), variables={"python": python if source.stem == "bindings" else ""}
            )
        plan.build(str(target), "link", objects)

    def add_compiler(self, plan: Writer, suffix: str, command: list[str]) -> None:
        line = f"{shlex.join(command)} -Icsrc $python -MMD -MF $out.d -c $in -o $out"
        plan.rule(suffix[1:], line, depfile="$out.d", deps="gcc", description="compile $in")


def extensions() -> list[Extension]:
    include_dirs = [pybind11.get_include()]
    host = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    built = [Extension("robustok._C", host, include_dirs=include_dirs, extra_link_args=["-fopenmp"], optional=True)]
    if NVCC is None:
        print("robustok: left out robustok._cuda: no nvcc, or ROBUSTOK_CUDA=0", flush=True)
        return built
    device = sorted(str(path) for path in Path("csrc/cuda").iterdir() if path.suffix in (".cpp", ".cu"))
    optional = os.environ.get("ROBUSTOK_CUDA") != "1"
    return [*built, Extension("robustok._cuda", device, include_dirs=include_dirs, language="cuda", optional=optional)]


NVCC = find_nvcc()
setup(
    packages=[*find_packages(include=["robustok", "robustok.*"]), "robustok.kernels", "robustok.configs"],
    package_dir={"robustok.kernels": "kernels", "robustok.configs": "configs"},
    package_data={
        "robustok": ["py.typed"],
        "robustok.configs": ["*.yaml", "benchmarks/*.yaml", "recipes/*.yaml", "study/*.yaml"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtensions},
)
