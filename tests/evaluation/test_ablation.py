"""experiments/ablation.py: what its variants change, and its table."""

import runpy
from pathlib import Path

import jax
import numpy as np

from ssvi_jax.networks import whitening
from ssvi_jax.networks.models import airbench
from ssvi_jax.training import presets
from ssvi_jax.training.run_config import Config

SCRIPT = Path(__file__).parents[2] / "experiments" / "ablation.py"
ablation = runpy.run_path(str(SCRIPT))
VARIANTS, RECIPE = ablation["VARIANTS"], ablation["RECIPE"]


def base() -> Config:
    return presets.defaults("laptop", "cifar10", "ssvi_ivon")


def test_every_variant_changes_one_thing_of_the_recipe():
    asked = ablation["Command"](seeds=2, out=Path("o"))
    configs = ablation["configurations"](asked, base())
    assert [seed for _, seed in configs] == [0] * len(VARIANTS) + [1] * len(VARIANTS)
    recipe = configs[RECIPE, 1].values()
    for name, variant in VARIANTS.items():
        own = configs[name, 1].values()
        changed = {key for key in own if own[key] != recipe[key]} - {"out"}
        assert changed == set(variant.settings)
        assert own["out"] == Path("o") / "runs" / f"{name}-1"


def kernel() -> np.ndarray:
    return np.asarray(airbench._identity_first(jax.random.key(0), (3, 3, 4, 6)))


def test_patches_take_a_part_away_and_put_it_back():
    network = airbench.airbench(10)
    images = np.random.default_rng(0).normal(size=(20, 8, 8, 3))
    state = {airbench.FILTERS: {"whiten": {"filters": np.zeros((2, 2, 3, 24))}}}

    def parts() -> tuple[bool, bool, bool]:
        found = whitening.whitened(state, images)[airbench.FILTERS]["whiten"]
        identity = kernel()[1, 1, :, :4]
        return (
            bool(np.any(found["filters"])),
            network.dirac and np.array_equal(identity, np.eye(4)),
            network.fast_statistics,
        )

    assert parts() == (True, True, True)
    for place, name in enumerate(("no_whitening", "no_identity", "no_gathering")):
        with VARIANTS[name].patch():
            assert parts() == tuple(k != place for k in range(3))
    assert parts() == (True, True, True)


def test_the_table_pairs_seeds():
    found = {
        RECIPE: [
            {"epochs": 3.0, "accuracy": 0.80, "nll": 0.6},
            {"epochs": 3.0, "accuracy": 0.90, "nll": 0.4},
        ],
        "sqrt_erk": [
            {"epochs": 2.0, "accuracy": 0.79, "nll": 0.7},
            {"epochs": 2.0, "accuracy": 0.87, "nll": 0.5},
        ],
    }
    *_, recipe, other = ablation["table"](found).splitlines()
    assert recipe == "| nothing | 3.0 | 85.0 ± 5.0 |  | 0.500 ± 0.100 |  |"
    cells = [cell.strip() for cell in other.split("|")[1:-1]]
    assert cells[1:4] == ["2.0", "83.0 ± 4.0", "-2.0 ± 1.0"]
    assert cells[4:] == ["0.600 ± 0.100", "+0.100 ± 0.000"]


def test_one_seed_has_no_error():
    assert ablation["estimate"]([0.5]) == (0.5, None)
