"""One strict session for all tests, the same on every machine."""

import gc
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything imports JAX or matplotlib. A GPU session sets JAX_PLATFORMS itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"
# Compiling is most of what the tests do; see `optimized`.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # A program in one part: the two workers keep the cores busy anyway.
    flags = "--xla_cpu_parallel_codegen_split_count=1"
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # The older way to compile fused loops: a third less of the suite's time. Newer
        # versions do not know the flag, and end the process.
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", flags)
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Checkpoints wait for the disk to have them: a tenth of the suite's time.
    if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4e9:
        os.environ.setdefault("TMPDIR", "/dev/shm")
        tempfile.tempdir = None  # where pytest has asked already
    # Compiled programs of this session, for the processes that tests start. An older
    # one's would let a test of what compiles, or of a resumed run, pass on old results.
    _compiled = tempfile.TemporaryDirectory(prefix="ssvi_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import pytest

# Here, where most programs differ, finding them costs more than it saves.
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
if os.environ["JAX_PLATFORMS"] != "cpu":
    # A GPU or TPU would round the operands of float32 products to 11 bits or fewer.
    jax.config.update("jax_default_matmul_precision", "highest")

# Tracing makes many objects: their collection is a tenth of the time at Python's 700.
gc.freeze()
gc.set_threshold(50_000, 20, 100)

hypothesis.settings.register_profile(
    "strict",
    deadline=None,  # the first example compiles
    derandomize="CI" in os.environ,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("strict")


_MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs are dropped when there are many.

    Each is some memory mappings. Linux allows a process 65,530, and XLA crashes on the
    next one.
    """
    yield
    if _MAPS.exists() and _MAPS.read_text().count("\n") > 35_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def cifar_dir() -> Path:
    """The folder with a prepared CIFAR-10; the test is skipped where there is none."""
    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("TFDS_DATA_DIR is not set: no prepared CIFAR-10")
    return Path(os.environ["TFDS_DATA_DIR"])


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs are compiled as a user's are, not in the least time."""
    name = "jax_disable_most_optimizations"
    jax.config.update(name, False)
    yield
    jax.config.update(name, os.environ.get(name.upper(), "0") != "0")
