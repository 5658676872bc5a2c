"""Commands start sooner: compiled programs are kept in the user's cache folder.

A program compiled for one kind of processor may not run on another, and home folders
are shared between machines: each kind has a folder of its own.
"""

import hashlib
import os
import platform
import re
from collections.abc import MutableMapping
from pathlib import Path

import platformdirs

MAX_BYTES = 2**30


def keep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Asks JAX to keep what it compiles; to be called before JAX is imported.

    XLA's own messages are left out, such as its alarm that a compilation is slow; what
    fails is an exception anyway. `$TF_CPP_MIN_LOG_LEVEL` = 0 brings them back.

    Where `$JAX_COMPILATION_CACHE_DIR` is set, everything stays as it is; where it is
    empty, nothing is kept. Programs that have not been used for the longest time make
    room for new ones, beyond 1 GiB.

    Args:
      environment: of this process.
    """
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    folder = platformdirs.user_cache_path("ssvi_jax") / f"compiled-{_processor()}"
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(MAX_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for name, value in settings.items():
        environment.setdefault(name, value)


def _processor() -> str:
    """Eight digits that tell kinds of processors apart."""
    kind = f"{platform.machine()} {platform.processor()}"
    table = Path("/proc/cpuinfo")
    if table.exists():
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", table.read_text(), re.M)
        kind += found[1] if found else ""
    return hashlib.sha256(kind.encode()).hexdigest()[:8]
