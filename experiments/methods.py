"""Trains methods over several seeds and compares them in one table.

    python experiments/methods.py --methods ssvi,rigl,deterministic --preset laptop

The same command continues what was stopped and trains nothing twice. Flags of
experiments/cifar10.py go to all runs; --verify compares a finished comparison with the
reference numbers and trains nothing.
It is `ssvi compare`, for a checkout.
"""

from ssvi_jax.core import command
from ssvi_jax.evaluation.comparison.main import main

if __name__ == "__main__":
    command.run(main)
