"""The optional C++ kernels; everything else is in pyproject.toml."""

from pathlib import Path

import jaxlib
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

SOURCES = Path("ssvi_jax/ops/csrc")
# No -march and no -ffast-math: instruction sets are chosen at run time, and a sum must
# mean what it says. Contraction is what makes multiply-adds of a product and a sum.
FLAGS = [
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math"),
    *("-ffp-contract=fast", "-g0"),
]


class BuildOptional(build_ext):
    """Goes on without the kernels where they cannot be compiled, and says so."""

    def build_extension(self, ext: Extension) -> None:
        """Compiles, or prints one line."""
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            cause = str(error).splitlines()[0]
            print(f"ssvi_jax: no compiled sparse kernels, slower on a CPU ({cause})")


setup(
    ext_modules=[
        Extension(
            "ssvi_jax.ops._sparse",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            include_dirs=[str(Path(jaxlib.__file__).parent / "include")],
            extra_compile_args=FLAGS,
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildOptional},
)
