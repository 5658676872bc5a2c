"""A comparison as comparison.json holds it, of made-up numbers."""

from ssvi_jax.evaluation.comparison import summary
from ssvi_jax.evaluation.comparison.runs import Run


def values(**changes):
    """The numbers of one run."""
    return {
        "accuracy": 0.8,
        "nll": 0.5,
        "ece": 0.02,
        "brier": 0.25,
        "mutual_information": 0.03,
        "mean_nll": 0.55,
        "corrupted_accuracy": 0.7,
        "corrupted_nll": 0.9,
        "corrupted_ece": 0.1,
        "corrupted_ece_if_calibrated": 0.07,
        "auroc_noise": 0.75,
        "weights_total": 1000,
        "weights_kept": 50,
        "state_bytes": 4_700_000,
        "model_bytes": 783_300,
        "train_flops": 4.66e14,
        "predict_flops": 202.3e6,
        "train_seconds": 1692.0,
        "predict_seconds": 0.001234,
        **changes,
    }


def comparison(*runs, failures=None):
    """From (method, seed, changed values) triples."""
    found = [Run(method, seed, values(**changes)) for method, seed, changes in runs]
    return {
        "about": {"command": "python made_up.py"},
        "methods": summary.aggregate(found),
        "failures": failures or {},
    }
