"""The settings of papers, each with the network, data set and method they are for.

What every one of them should reach, and what of it has been run, is in docs/recipes.md.
Imports nothing heavy, so that a command line can be parsed at once.
"""

import dataclasses
from typing import Literal

Preset = Literal[
    "auto",
    "paper",
    "laptop",
    "smoke",
    "ssvi-resnet18-cifar10",
    "ssvi-resnet18-cifar100",
    "rank1-wrn28-cifar10",
    "rank1-wrn28-cifar100",
    "rank1-resnet50-imagenet",
    "rank1-lstm-mimic3",
]
"""`presets.PRESETS`, `RECIPES` and "auto", written out for the command line's help."""

PAPER: dict[str, object] = {
    "model": "resnet18",
    "densities": "uniform",
    "epochs": 200,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "nesterov": False,
    "prior_std": 0.005,
    "kl_scale": 0.01,
    "mean_init": 0.01,
}
"""The training of SSVI's authors (arXiv 2402.11025) on CIFAR: the preset `paper`."""

WIDE_RESNET: dict[str, object] = {
    "model": "wrn28",
    "width": 10.0,
    "epochs": 250,
    "learning_rate": 0.1,
    "schedule": "steps",
    "warmup": 1 / 250,
    "decay_at": (0.4, 0.8, 0.9),
    "decay_factor": 0.2,
    "weight_decay": 2e-4,
}
"""WRN-28-10 of google/uncertainty-baselines, ``baselines/cifar/rank1_bnn.py``: the rate
falls after 80, 160 and 180 of 200 epochs, scaled to 250. Its l2 of 1e-4 is not halved
in the loss, so its gradient is that of a decay of 2e-4."""

RANK1: dict[str, object] = {
    "members": 4,
    "member_batch": "tile",
    "fast_init_std": 0.0,
    "fast_sign_probability": 0.5,
    "fast_sigma_init": 0.0316,
    "fast_prior_scale": 0.1,
    "kl_warmup": 0.8,
    "samples": 1,
}
"""The factors there: every member sees all 128 images, and the KL has its full weight
after 200 of 250 epochs."""

RESNET50: dict[str, object] = {
    "model": "resnet50",
    "epochs": 135,
    "batch_size": 1024,
    "learning_rate": 0.4,
    "schedule": "steps",
    "warmup": 5 / 90,
    "decay_at": (30 / 90, 60 / 90, 80 / 90),
    "decay_factor": 0.1,
    "weight_decay": 2e-4,
}
"""ResNet-50 there, ``baselines/imagenet/rank1_bnn.py``: 0.1 for 256 images a step;
warm-up and falls after 5, 30, 60 and 80 of 90 epochs, scaled to 135; l2 as above."""

RANK1_IMAGENET: dict[str, object] = {
    **RANK1,
    "fast_sign_probability": 0.75,
    "fast_prior_scale": 0.05,
    "kl_warmup": 90 / 135,
}
"""The factors there; the KL has its full weight after 90 epochs."""

LSTM: dict[str, object] = {
    "model": "lstm",
    "epochs": 20,
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "inner_steps": 50,
    "estimator": "weight_sample",
}
"""Ours: the paper's settings on MIMIC-III were not available. One draw of the weights
holds for a whole series (see `models.lstm`)."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One setting of a paper.

    Attributes:
      method: the method it is for.
      dataset: its data set.
      training: fields of `Config` that hold for other methods as well, so that they can
        be compared in the same training.
      own: fields that only its method has.
    """

    method: str
    dataset: str
    training: dict[str, object]
    own: dict[str, object] = dataclasses.field(default_factory=dict)


RECIPES: dict[str, Recipe] = {
    "ssvi-resnet18-cifar10": Recipe("ssvi", "cifar10", PAPER),
    "ssvi-resnet18-cifar100": Recipe("ssvi", "cifar100", PAPER),
    "rank1-wrn28-cifar10": Recipe("rank1", "cifar10", WIDE_RESNET, RANK1),
    "rank1-wrn28-cifar100": Recipe("rank1", "cifar100", WIDE_RESNET, RANK1),
    "rank1-resnet50-imagenet": Recipe(
        "rank1", "imagenet2012", RESNET50, RANK1_IMAGENET
    ),
    "rank1-lstm-mimic3": Recipe("rank1", "mimic3", LSTM, RANK1),
}
"""Preset → the setting of a paper."""
