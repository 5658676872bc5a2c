"""Trains a sparse Bayesian network on CIFAR-10 and reports what it knows.

    python experiments/cifar10.py --sparsity 0.95

CIFAR-10 is used where it is prepared (or can be downloaded), else the embedded digits.
On 2 CPU cores the laptop preset takes about half an hour on CIFAR-10 and a minute on
the digits; see results/ for the numbers to expect.
It is `ssvi train`, for a checkout.
"""

from ssvi_jax.core import command
from ssvi_jax.evaluation.run.main import main

if __name__ == "__main__":
    command.run(main)
