"""Evaluates trained models on corrupted and out-of-distribution images; a report.

    python experiments/corruptions.py --run results/cifar10-ivon-s95

Without a model it takes the newest run under --out, or trains the smoke model first.
CIFAR-10-C comes from --corruptions-dir or from TFDS; where neither has it, corruptions
are made from the test images. On 2 CPU cores the laptop model predicts some 2,000
images a second and posterior sample.
It is `ssvi evaluate`, for a checkout.
"""

from ssvi_jax.core import command
from ssvi_jax.evaluation.shift.main import main

if __name__ == "__main__":
    command.run(main)
