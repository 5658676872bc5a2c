"""scikit-learn's own checks of the estimators, all of them: some minutes.

    python benchmarks/sklearn_checks.py

They train some hundred networks. A test makes the few of these checks that look at what
only networks do; this makes all, after a change of `ssvi_jax/sklearn.py` or of
scikit-learn. The exit code is 1 if one fails.
"""

import sys
import time
from typing import Any

from sklearn.utils.estimator_checks import check_estimator

from ssvi_jax.sklearn import SparseBayesClassifier, SparseBayesRegressor

SMALL: dict[str, Any] = {"hidden": (16,), "epochs": 60, "sparsity": 0.5, "samples": 4}
"""Settings at which a check takes a second; what is checked does not depend on them."""


def say(check_name: str, status: str, exception: Any, **_: Any) -> None:
    """A line for every check, as it ends."""
    error = "" if exception is None else f": {exception!r:.300}"
    print(f"  {status:<7} {check_name}{error}", flush=True)


def main() -> int:
    """Runs all checks of both; the exit code."""
    failed = 0
    for kind in (SparseBayesClassifier, SparseBayesRegressor):
        print(kind.__name__, flush=True)
        begin = time.perf_counter()
        results = check_estimator(
            kind(**SMALL), on_fail=None, on_skip=None, callback=say
        )
        counts = [result["status"] for result in results]
        failed += counts.count("failed")
        numbers = ", ".join(f"{counts.count(s)} {s}" for s in sorted(set(counts)))
        seconds = time.perf_counter() - begin
        print(f"{kind.__name__}: {numbers} ({seconds:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
