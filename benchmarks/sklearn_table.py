"""A scikit-learn user's evening: tables, pipelines, a search, baselines beside it.

    python benchmarks/sklearn_table.py --out results/benchmarks

Breast cancer (569 rows of 30 columns, two classes) and diabetes (442 rows of 10, a
number), both real and part of scikit-learn. The sparse networks' sparsity is searched
by cross-validation on the training rows; a fifth of the rows is tested on once. Beside
them are what one would take instead. Writes sklearn_table.json and the calibration
curve, sklearn_table.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssvi_jax.io import run_log
from ssvi_jax.sklearn import SparseBayesClassifier, SparseBayesRegressor

SPARSITIES = [0.5, 0.9]


def searched(estimator: Any, scoring: str) -> GridSearchCV:
    """A pipeline whose sparsity is found by cross-validation in 3 parts."""
    name = f"{type(estimator).__name__.lower()}__sparsity"
    pipeline = make_pipeline(StandardScaler(), estimator)
    return GridSearchCV(pipeline, {name: SPARSITIES}, scoring=scoring, cv=3)


def classes(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of all classifiers, and the two curves of the sparse one and a forest."""
    x, y = load_breast_cancer(return_X_y=True)
    parts = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    x_train, x_test, y_train, y_test = parts
    sparse = SparseBayesClassifier(random_state=seed)
    models = {
        "SparseBayesClassifier": searched(sparse, "neg_log_loss"),
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegressionCV(Cs=10, scoring="neg_log_loss")
        ),
        "random forest": RandomForestClassifier(500, random_state=seed),
        "MLPClassifier": make_pipeline(
            StandardScaler(), MLPClassifier((128, 128), random_state=seed)
        ),
    }
    found, curves = {}, {}
    for name, model in models.items():
        model.fit(x_train, y_train)
        probs = model.predict_proba(x_test)
        found[name] = {
            "accuracy": float(metrics.accuracy_score(y_test, probs.argmax(axis=1))),
            "nll": float(metrics.log_loss(y_test, probs)),
            "brier": float(metrics.brier_score_loss(y_test, probs[:, 1])),
        }
        curve = calibration_curve(y_test, probs[:, 1], n_bins=5, strategy="quantile")
        curves[name] = [part.tolist() for part in curve]
    best = models["SparseBayesClassifier"].best_params_
    found["SparseBayesClassifier"] |= {k.partition("__")[2]: v for k, v in best.items()}
    return found, curves


def numbers(seed: int) -> dict[str, Any]:
    """Scores of all regressors; of those that have deviations the coverage too."""
    table: Any = load_diabetes(return_X_y=True)
    x, y = table
    parts = train_test_split(x, y, test_size=0.2, random_state=seed)
    x_train, x_test, y_train, y_test = parts
    sparse = SparseBayesRegressor(random_state=seed)
    scales: Any = np.ones(x.shape[1])
    kernel = ConstantKernel() * RBF(scales) + WhiteKernel()
    models = {
        "SparseBayesRegressor": searched(sparse, "neg_root_mean_squared_error"),
        "ridge regression": make_pipeline(
            StandardScaler(), RidgeCV(np.logspace(-3, 3, 25))
        ),
        "random forest": RandomForestRegressor(500, random_state=seed),
        "Gaussian process": make_pipeline(
            StandardScaler(),
            GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed),
        ),
        "MLPRegressor": make_pipeline(
            StandardScaler(),
            MLPRegressor(
                hidden_layer_sizes=(128, 128), max_iter=1000, random_state=seed
            ),
        ),
    }
    found = {}
    for name, model in models.items():
        model.fit(x_train, y_train)
        mean = model.predict(x_test)
        found[name] = {
            "rmse": float(metrics.root_mean_squared_error(y_test, mean)),
            "r2": float(metrics.r2_score(y_test, mean)),
        }
        if name in ("SparseBayesRegressor", "Gaussian process"):
            best = getattr(model, "best_estimator_", model)  # a search takes no flags
            mean, std = best.predict(x_test, return_std=True)
            inside = np.abs(y_test - mean) < 1.645 * std
            found[name]["coverage of 90 %"] = float(inside.mean())
    best = models["SparseBayesRegressor"].best_params_
    found["SparseBayesRegressor"] |= {k.partition("__")[2]: v for k, v in best.items()}
    return found


def draw(curves: dict[str, Any], path: Path) -> None:
    """The calibration curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.style.use("tableau-colorblind10")
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for (name, (true, predicted)), marker in zip(curves.items(), "osD^", strict=True):
        axes.plot(predicted, true, marker=marker, markersize=4, label=name)
    axes.set_xlabel("predicted probability of a benign tumour")
    axes.set_ylabel("fraction that is benign")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Trains, tests, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    cancer, curves = classes(asked.seed)
    found = {
        "scikit-learn": sklearn.__version__,
        **run_log.environment(),
        "breast cancer": cancer,
        "diabetes": numbers(asked.seed),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2) + "\n"
    (asked.out / "sklearn_table.json").write_text(text)
    draw(curves, asked.out / "sklearn_table.png")
    print(text)


if __name__ == "__main__":
    main()
