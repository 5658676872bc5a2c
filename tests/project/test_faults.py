"""A fault of each kind strikes a training; resumed, it equals an undisturbed one.

The long mode (`python -m tests.faults.run`) strikes 200 times, on disks that are full
or read-only too.
"""

import numpy as np
import pytest
from faults import pair, plans, strike

# The two undisturbed runs that all share take most of the time.
pytestmark = [pytest.mark.slow, pytest.mark.system]

LEFT_OUT = (*plans.NEED_MOUNT, *plans.NEED_PAIR)
QUICK = [kind for kind in plans.KINDS if kind not in LEFT_OUT]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with strike.Children(tmp_path_factory.mktemp("faults")) as children:
        yield strike.prepare(children)


@pytest.mark.parametrize("kind", QUICK)
def test_a_struck_and_resumed_run_equals_an_undisturbed_one(world, kind):
    rng = np.random.default_rng([7, QUICK.index(kind)])
    result = strike.strike(world, plans.KINDS[kind](rng, world.extent))
    assert result["problems"] == [], result


def test_when_one_of_two_processes_is_killed_the_other_ends_too(tmp_path):
    (kind,) = plans.NEED_PAIR
    with pair.Pair(tmp_path) as children:
        world = strike.prepare(children)
        plan = plans.KINDS[kind](np.random.default_rng(0), world.extent)
        result = strike.strike(world, plan)
    assert plan["process"] == 1
    assert result["problems"] == [], result
