"""Texts of the HTML report that do not depend on numbers."""

ALTS = {
    "accuracy": "Heat maps of accuracy by corruption and severity",
    "difference": "Heat maps of the difference in accuracy to the baseline",
    "severity": "Box plots of accuracy, NLL and ECE by severity",
    "reliability": "Reliability diagrams of clean and corrupted images",
    "uncertainty": "Entropies and mutual information against severity",
    "roc": "ROC curves of out-of-distribution detection",
    "selective": "Accuracy against the share of images answered",
    "examples": "Example images with predictions and their uncertainty",
}
"""Figure → what it shows, for those who cannot see it; tables have the numbers."""

CAPTIONS = {
    "accuracy": (
        "Each cell is the accuracy in percent under one corruption at one severity. "
        "Gaps separate noise, blur, weather and digital corruptions; corruptions with "
        "a star are extra and in no mean."
    ),
    "difference": (
        "Accuracy minus the baseline's in percentage points: blue cells are better "
        "than the baseline, red ones worse. Differences of the size of a cell's "
        "standard error can be chance."
    ),
    "severity": (
        "Boxes are quartiles over the benchmark's corruptions with the median as a "
        "line, whiskers reach the lowest and the highest corruption; diamonds are "
        "clean images."
    ),
    "reliability": (
        "Accuracy of the images in each of 15 bins of confidence, on clean images and "
        "on all corruptions of a severity together. On the dashed line confidence is "
        "right, below it the network is overconfident. Hollow points: fewer than 10 "
        "images. Below: the share of images in each bin, and the ECE of these bins, "
        "which is not the mean of the cells' ECE."
    ),
    "uncertainty": (
        "Means over the benchmark's corruptions; bands are their quartiles (drawn for "
        "up to 3 models). Expected entropy is the part that every posterior sample "
        "agrees on; mutual information is the samples' disagreement."
    ),
    "roc": (
        "Share of foreign images that a score finds against the share of the data "
        "set's own clean test images that it reports by mistake; every threshold is a "
        "point. The dashed line is chance."
    ),
    "selective": (
        "The most confident images are answered, the others left out; confidence is "
        "the largest class probability. A good ranking rises steeply to the left."
    ),
    "examples": (
        "A few test images, clean and corrupted, and foreign images. Below each: the "
        "predicted class and its probability for every model (at most 4), over a bar "
        "of the predictive entropy; the dark line is its part of mutual information."
    ),
}
"""Figure → the text below it."""

TERMS = {
    "accuracy": "share of images whose most probable class is the right one",
    "NLL": "negative log-likelihood of the right class, mean over images, in nats",
    "Brier score": "squared distance of the probabilities from the right answer, "
    "summed over classes",
    "ECE": "expected calibration error: mean gap between confidence and accuracy in 15 "
    "bins of equal width (Guo et al., 2017)",
    "cell": "one corruption at one severity",
    "error": "mean over corruptions of the mean error over severities",
    "mCE": "error of a corruption over the baseline's, mean over corruptions; 100 % is "
    "as good as the baseline (Hendrycks and Dietterich, 2019)",
    "temperature": "T in p^(1/T), normalised: above 1 makes predictions less confident",
    "predictive entropy": "of the averaged prediction, in nats: total uncertainty",
    "mutual information": "predictive entropy minus the samples' mean entropy: how "
    "much posterior samples disagree",
    "AUROC": "probability that a foreign image has the larger score; 0.5 is chance",
    "AUPR": "average precision of finding foreign images; chance is their share",
    "FPR95": "own images reported by mistake when 95 % of the foreign ones are found",
    "AURC": "mean error over all shares of images answered (Geifman et al., 2019); "
    "excess: beyond what a perfect ranking would leave",
}
"""Term → what it means."""
