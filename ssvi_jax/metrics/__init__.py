"""Scores of predictions; those of classification here, others in their modules.

`detection` (foreign inputs), `selective` (refusing the unsure), `temperature`,
`uncertainty` (what is due to the weights), `diversity` (members), `corruption_error`
(mCE) and `cost` (FLOPs and bytes).
"""

from ssvi_jax.metrics.classification import (
    NUM_BINS,
    PROBABILITY_FLOOR,
    Reliability,
    StreamingMetrics,
    accuracy,
    adaptive_ece,
    brier,
    classwise_ece,
    ece,
    ece_if_calibrated,
    evaluate,
    nll,
    reliability,
)

__all__ = [
    "NUM_BINS",
    "PROBABILITY_FLOOR",
    "Reliability",
    "StreamingMetrics",
    "accuracy",
    "adaptive_ece",
    "brier",
    "classwise_ece",
    "ece",
    "ece_if_calibrated",
    "evaluate",
    "nll",
    "reliability",
]
