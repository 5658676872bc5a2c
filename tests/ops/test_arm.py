"""The C++ kernels and the runtime on Arm, compiled for it and run in an emulator."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import runtime_models
import smoke_run

from ssvi_jax import runtime

KERNELS = smoke_run.ROOT / "ssvi_jax" / "ops" / "csrc"
RUNTIME = smoke_run.ROOT / "ssvi_jax" / "runtime" / "csrc"
DRIVERS = Path(__file__).parents[1] / "kernels"
COMPILERS = [shutil.which(f"aarch64-linux-gnu-{name}") for name in ("g++", "gcc")]
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
NUM_SHAPES = 20  # with one thread and with two

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(
        not (all(COMPILERS) and EMULATOR),
        reason="there is no compiler for aarch64, or no qemu-aarch64",
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A function of sources that gives the command of the program made of them."""
    folder = tmp_path_factory.mktemp("arm")
    flags = ["-O2", "-pthread", f"-I{KERNELS}", f"-I{RUNTIME}"]
    flags += [f"-I{runtime.include_folder()}"]
    kernels = [path for path in KERNELS.glob("*.cpp") if path.name != "ffi.cpp"]

    def compiled(source):
        target = folder / f"{source.stem}.o"
        if not target.exists():
            of_c = source.suffix == ".c"
            language = ["-std=c99"] if of_c else ["-std=c++17", "-ffp-contract=fast"]
            call = [COMPILERS[of_c], *flags, *language, "-c", source, "-o", target]
            subprocess.run(call, check=True)
        return target

    def made(name, *sources):
        objects = [compiled(source) for source in (*sources, *kernels)]
        call = [COMPILERS[0], "-static", "-pthread", *objects, "-o", folder / name]
        subprocess.run(call, check=True)
        return [EMULATOR, folder / name]

    return made


def ran(command, *arguments):
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_passes_have_the_sums_of_a_plain_loop(program):
    command = program("drive", DRIVERS / "drive.cpp")
    assert ran(command, str(NUM_SHAPES)) == ["generic"]


def test_draws_are_normal(program):
    sources = [DRIVERS / "drive_draws.cpp", *RUNTIME.glob("draws*.cpp")]
    moments = ran(program("draws", *sources))
    assert [float(word) for word in moments] == pytest.approx([0, 1, 0, 3], abs=0.05)


@pytest.mark.skipif(not runtime.library_path().exists(), reason="no runtime to compare")
@pytest.mark.parametrize("kind", ["mlp", "cnn", "vision transformer"])
def test_the_runtime_predicts_what_it_does_here(program, kind, tmp_path):
    page = (smoke_run.ROOT / "docs" / "deploy.md").read_text()
    (text,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    source = tmp_path / "classify.c"
    source.write_text(text)
    module, shape = runtime_models.KINDS[kind]
    x = runtime_models.inputs(shape, 2)
    runtime_models.fitted(module, x).save(tmp_path / "model.ssvi")
    x[0].tofile(tmp_path / "input.f32")
    command = program("classify", source, *RUNTIME.glob("*.cpp"))
    label, *scores = ran(command, tmp_path / "model.ssvi", tmp_path / "input.f32")
    first = np.asarray(x[:1], np.float32)
    want = runtime.load(tmp_path / "model.ssvi").predict(first, samples=10, seed=0)
    assert int(label) == want.labels[0]
    found = [want.probabilities.max(), want.entropy[0], want.mutual_information[0]]
    assert list(map(float, scores)) == pytest.approx(found, abs=2e-6)
