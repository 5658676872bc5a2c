"""The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import smoke_run

from ssvi_jax.ops import custom_calls

COMPILER = shlex.split(
    os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""
)
KERNELS = smoke_run.ROOT / "ssvi_jax" / "ops" / "csrc"
DRIVER = Path(__file__).parents[1] / "kernels" / "drive.cpp"
NUM_SHAPES = 300  # of each instruction set, with one thread and with two
FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-ffp-contract=fast", "-pthread"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{KERNELS}"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler"),
]


def compile_with_sanitizers(folder, *sources):
    """The program, of sources that are compiled side by side."""
    objects = [folder / f"{source.stem}.o" for source in sources]
    calls = [
        subprocess.Popen([*COMPILER, *FLAGS, "-c", source, "-o", target])
        for source, target in zip(sources, objects, strict=True)
    ]
    assert [call.wait() for call in calls] == [0] * len(calls)
    subprocess.run([*COMPILER, *FLAGS, *objects, "-o", folder / "program"], check=True)
    return folder / "program"


def test_every_pass_stays_within_its_arrays(tmp_path):
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    try:
        compile_with_sanitizers(tmp_path, empty)
    except (AssertionError, subprocess.CalledProcessError, OSError):
        pytest.skip(f"{COMPILER} has no sanitizers here")
    kernels = [path for path in KERNELS.glob("*.cpp") if path.name != "ffi.cpp"]
    program = compile_with_sanitizers(tmp_path, DRIVER, *kernels)
    done = subprocess.run([program, str(NUM_SHAPES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = done.stdout.split()
    assert "generic" in ran
    assert not custom_calls.available() or ran == custom_calls.instruction_sets()
