"""The optional C++ kernels and the runtime; everything else is in pyproject.toml."""

from pathlib import Path

import jaxlib
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

KERNELS = Path("ssvi_jax/ops/csrc")
RUNTIME = Path("ssvi_jax/runtime")
LIBRARY = "ssvi_jax.runtime.libssvi"
# No -march and no -ffast-math: instruction sets are chosen at run time, and a sum must
# mean what it says. Contraction is what makes multiply-adds of a product and a sum.
FLAGS = [
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math"),
    *("-ffp-contract=fast", "-g0"),
]


class BuildOptional(build_ext):
    """Goes on without the kernels where they cannot be compiled, and says so."""

    def finalize_options(self) -> None:
        """Both libraries are compiled at once."""
        super().finalize_options()
        self.parallel = self.parallel or len(self.extensions)

    def get_ext_filename(self, fullname: str) -> str:
        """A library for C programs has a plain name, whatever Python compiles it."""
        if LIBRARY.endswith(fullname):
            return f"{fullname.replace('.', '/')}.so"
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        """Compiles, or prints one line."""
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            cause = str(error).splitlines()[0]
            kernels = "no compiled sparse kernels, slower on a CPU"
            what = "no ssvi_jax.runtime" if ext.name == LIBRARY else kernels
            print(f"ssvi_jax: {what} ({cause})")


def files(folder: Path, pattern: str) -> list[str]:
    """Paths of a folder's files, in order."""
    return sorted(str(path) for path in folder.glob(pattern))


setup(
    ext_modules=[
        Extension(
            "ssvi_jax.ops._sparse",
            sources=files(KERNELS, "*.cpp"),
            depends=files(KERNELS, "*.h"),
            include_dirs=[str(Path(jaxlib.__file__).parent / "include")],
            extra_compile_args=FLAGS,
            language="c++",
            optional=True,
        ),
        Extension(
            LIBRARY,
            # Nothing of JAX is in it, nor what trains.
            sources=[
                *files(RUNTIME / "csrc", "*.cpp"),
                *files(KERNELS, "isa_*.cpp"),
                *files(KERNELS, "machine.cpp"),
                *files(KERNELS, "planes.cpp"),
            ],
            depends=[
                *files(RUNTIME / "csrc", "*.h"),
                *files(RUNTIME / "include", "*.h"),
                *files(KERNELS, "*.h"),
            ],
            include_dirs=[str(RUNTIME / "include"), str(KERNELS)],
            extra_compile_args=[
                *FLAGS,
                *("-pthread", "-fvisibility=hidden", "-fvisibility-inlines-hidden"),
            ],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        ),
    ],
    cmdclass={"build_ext": BuildOptional},
)
