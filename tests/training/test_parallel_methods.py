"""Methods on several devices, each in parts of a batch, against one device at once."""

import os
import subprocess
import sys
from pathlib import Path

import method_steps
import numpy as np
import pytest
from eight_devices import ENVIRONMENT

from ssvi_jax.methods import METHODS

QUICK = ("masked_bnn", "rank1", "ssvi_ensemble", "ssvi_ivon", "mc_dropout")
ALIKE = (  # steps of rigl and svd, of rank1, of the ensembles and of ssvi_ivon
    *("set", "static", "magnitude"),
    *("ssvi_ivon_ensemble", "ssvi_ivon_mixture", "ssvi_mixture"),
    *("batch_ensemble", "ivon"),
)
SLOW = tuple(name for name in METHODS if name not in (*QUICK, *ALIKE))


def check(names, out):
    """Runs the methods in a process of 8 devices and compares all that comes out."""
    script = Path(method_steps.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(out), *names],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as arrays:
        saved = dict(arrays)
    compared = 0
    for path, found in saved.items():
        name, devices, leaf = path.split("|", 2)
        if devices == "1":
            continue
        expected = saved[f"{name}|1|{leaf}"]
        np.testing.assert_allclose(found, expected, 1e-3, 1e-5, err_msg=path)
        compared += 1
    assert compared > 10 * len(names)


def test_methods_on_eight_devices_are_those_of_one(tmp_path):
    check(QUICK, tmp_path / "out.npz")


@pytest.mark.slow
@pytest.mark.system
def test_so_are_the_others(tmp_path):
    check(SLOW, tmp_path / "out.npz")
