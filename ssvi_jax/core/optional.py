"""Packages that one part of the library needs and an installation may lack."""

import importlib
from typing import Any

from ssvi_jax.core.errors import InputError


def load(package: str, argument: str, extra: str) -> Any:
    """Imports a package when it is used.

    Args:
      package: what to import.
      argument: what needs it, for the error.
      extra: the group of this library's optional dependencies that brings it.

    Raises:
      InputError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        reason = str(error).split("\n")[0][:200]
        raise InputError(
            f"{argument}: needs the package {package}, which cannot be imported "
            f"({reason}); pip install 'ssvi_jax[{extra}]'."
        ) from error
