"""The C++ kernels and the runtime under the sanitizers of addresses and behaviour."""

import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forged_models
import pytest
import runtime_models
import smoke_run

from ssvi_jax import runtime
from ssvi_jax.ops import custom_calls

COMPILER = shlex.split(
    os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""
)
KERNELS = smoke_run.ROOT / "ssvi_jax" / "ops" / "csrc"
RUNTIME = smoke_run.ROOT / "ssvi_jax" / "runtime" / "csrc"
DRIVERS = Path(__file__).parents[1] / "kernels"
NUM_SHAPES = 300  # of each instruction set, with one thread and with two
NUM_MUTATIONS = 60  # of each file: of its bytes, and behind a right checksum
FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-ffp-contract=fast", "-pthread"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *(f"-I{folder}" for folder in (KERNELS, RUNTIME, runtime.include_folder())),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler"),
]


def compiled(folder, *sources, options=()) -> list[Path]:
    """Objects of sources, of which two at a time are compiled."""

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        call = [*COMPILER, *FLAGS, *options, "-c", source, "-o", target]
        subprocess.run(call, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))


def linked(folder, *objects) -> Path:
    program = folder / "program"
    subprocess.run([*COMPILER, *FLAGS, *objects, "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> list[Path]:
    """The kernels, compiled with sanitizers."""
    folder = tmp_path_factory.mktemp("kernels")
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    try:
        linked(folder, *compiled(folder, empty))
    except (subprocess.CalledProcessError, OSError):
        pytest.skip(f"{COMPILER} has no sanitizers here")
    return compiled(folder, *(p for p in KERNELS.glob("*.cpp") if p.name != "ffi.cpp"))


def test_every_pass_stays_within_its_arrays(kernels, tmp_path):
    program = linked(tmp_path, *compiled(tmp_path, DRIVERS / "drive.cpp"), *kernels)
    done = subprocess.run([program, str(NUM_SHAPES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = done.stdout.split()
    assert "generic" in ran
    assert not custom_calls.available() or ran == custom_calls.instruction_sets()


def test_draws_are_the_same_bits_on_every_instruction_set(kernels, tmp_path):
    sources = [DRIVERS / "drive_draws.cpp", *RUNTIME.glob("draws*.cpp")]
    # As users have it: only then a compiler contracts what it may.
    objects = compiled(tmp_path, *sources, options=["-O3"])
    program = linked(tmp_path, *objects, *kernels)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    moments = [float(word) for word in done.stdout.split()]
    # Of 2²⁰ standard normal numbers, within five standard errors.
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert moments[:2] == pytest.approx([0, 1], abs=0.007)


def test_no_model_file_makes_the_runtime_leave_its_arrays(kernels, tmp_path):
    sources = [DRIVERS / "open.cpp", *RUNTIME.glob("*.cpp")]
    program = linked(tmp_path, *compiled(tmp_path, *sources), *kernels)
    arguments = []
    for kind in ("cnn", "vision transformer", "lstm"):
        path = tmp_path / f"{kind}.ssvi"
        module, shape = runtime_models.KINDS[kind]
        runtime_models.fitted(module, runtime_models.inputs(shape, 2)).save(path)
        arguments += [path, *forged_models.apart(path, tmp_path)]
    done = subprocess.run(
        [program, str(NUM_MUTATIONS), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": "allocator_may_return_null=1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, accepted, _, refused = done.stdout.split()
    # Forged files get far: some are accepted, and most are not.
    assert int(accepted) > 5
    assert int(refused) > 4 * NUM_MUTATIONS
