import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ssvi_jax import metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.run import figures

NUM_EPOCHS, PHASES = 4, 3


def events(kind):
    lines = []
    for step in range(1, NUM_EPOCHS * PHASES + 1):
        phase = {"event": "phase", "step": step, "epoch": step / PHASES, "seconds": 1.0}
        phase |= {"accuracy": 1 - 1 / (step + 1), "nll": 2 / step}
        if kind != "deterministic":
            phase |= {"kl": 9e5 / step}
        if kind == "sparse":
            phase |= {"iou_first": 1 / step, "iou_previous": 1 - 0.3 / step}
        lines.append(phase)
        if step % PHASES == 0:
            val = {"accuracy": 1 - 1.5 / (step + 1), "nll": 2.2 / step}
            lines.append({"event": "epoch", "epoch": step // PHASES, "val": val})
    return lines


def summary(kind, num_layers=21):
    density = 0.05 if kind == "sparse" else 1.0
    sizes = [1000 * (i + 1) for i in range(num_layers)]
    content = {
        "sparsity": 1 - density,
        "layers": [
            {
                "path": f"ResNetBlock_{i}/Conv_0/kernel",
                "size": size,
                "kept": round(density * size),
                "density": density,
            }
            for i, size in enumerate(sizes)
        ],
    }
    if kind != "deterministic":
        counts = [0, 1, 4, 5, 0, 0]
        edges = [-3, -2, -1, 0, 1, 2, 3]
        content["snr_histogram"] = {"edges_log10": edges, "counts": counts}
    return content


def predictions(kind, n=200):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    probs = rng.dirichlet(np.full(10, 0.1), n).astype(np.float32)
    arrays = {"mean_probs": probs, "labels": labels}
    if kind != "deterministic":
        arrays["mc_probs"] = (probs + 0.1) / 2
    return arrays


def write_run(folder, kind):
    lines = map(json.dumps, events(kind))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps(summary(kind)))
    np.savez(folder / "predictions.npz", **predictions(kind))


def drawn(figure: Figure | None) -> Any:
    """The figure, with artists untyped: each is of the class that drew it."""
    assert figure is not None
    return figure


def lines_of(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


@pytest.mark.parametrize("kind", ["sparse", "dense", "deterministic"])
def test_writes_the_figures_that_a_run_has(tmp_path, kind):
    write_run(tmp_path, kind)
    names = ["curves", "reliability", "masks"]
    names += [] if kind == "deterministic" else ["snr"]
    paths = figures.make_figures(tmp_path)
    assert paths == [tmp_path / "figures" / f"{name}.png" for name in names]
    for path in paths:
        assert path.stat().st_size < 300_000
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert figures.make_figures(tmp_path) == paths  # figures can be made again


def test_curves_show_the_recorded_numbers():
    accuracy, nll, kl = drawn(figures.curves(events("sparse"))).axes
    train = [(e["epoch"], e["accuracy"]) for e in events("sparse") if "accuracy" in e]
    np.testing.assert_allclose(lines_of(accuracy)["training batches"], train)
    val = [(e["epoch"], e["val"]["nll"]) for e in events("sparse") if "val" in e]
    np.testing.assert_allclose(lines_of(nll)["validation"], val)
    # 900,000 nats at the first phase, drawn in thousands.
    assert kl.get_lines()[0].get_ydata()[0] == pytest.approx(900)
    assert "10^3" in kl.get_ylabel()


def test_test_scores_are_drawn_where_they_were_taken():
    lines = events("sparse")
    lines[-1]["test"] = {"accuracy": 0.5, "nll": 1.0}
    lines[-1]["test_corrupted"] = {"accuracy": 0.25, "nll": 2.0}
    found = lines_of(drawn(figures.curves(lines)).axes[0])
    np.testing.assert_allclose(found["test"], [[NUM_EPOCHS, 0.5]])
    np.testing.assert_allclose(found["test, corrupted"], [[NUM_EPOCHS, 0.25]])


def test_accuracies_between_whole_percents_are_not_rounded():
    ends = (0.174, 0.342)
    lines = [{"event": "phase", "epoch": e, "accuracy": ends[e]} for e in (0, 1)]
    ax = drawn(figures.curves(lines)).axes[0]
    for tick in ax.get_yticks():
        text = ax.yaxis.get_major_formatter()(tick)
        assert float(text.rstrip("%")) == pytest.approx(100 * tick)


def test_missing_and_null_values_are_skipped():
    lines = [{"event": "phase", "epoch": 1.0, "accuracy": 0.5, "kl": None}]
    lines += [{"event": "resume", "epoch": 1.0, "accuracy": 0.1}]
    (accuracy,) = drawn(figures.curves(lines)).axes
    np.testing.assert_allclose(lines_of(accuracy)["training batches"], [[1, 0.5]])
    assert len(drawn(figures.curves(events("deterministic"))).axes) == 2
    assert figures.curves([]) is None


def test_reliability_shows_both_networks_and_their_ece():
    data = predictions("sparse")
    figure = drawn(figures.reliability(data))
    titles = [part.get_suptitle() for part in figure.subfigs]
    scores = [
        metrics.ece(data[name], data["labels"]) for name in data if "probs" in name
    ]
    assert titles == [
        f"posterior samples: ECE {scores[1]:.4f}",
        f"mean network: ECE {scores[0]:.4f}",
    ]
    # The hatched gap reaches from the accuracy to the mean confidence of each bin.
    bins = metrics.reliability(data["mean_probs"], data["labels"])
    filled = bins.count > 0
    bars = figure.subfigs[1].axes[0].patches[filled.sum() :]
    ends = [bar.get_y() + bar.get_height() for bar in bars]
    np.testing.assert_allclose(ends, bins.confidence[filled])


def test_reliability_of_one_network_and_of_none():
    assert len(drawn(figures.reliability(predictions("deterministic"))).subfigs) == 1
    assert figures.reliability({}) is None


def test_masks_name_every_layer_and_show_the_churn():
    density, churn = drawn(figures.masks(events("sparse"), summary("sparse"))).axes
    names = [label.get_text() for label in density.get_yticklabels()]
    assert names == [f"ResNetBlock_{i}/Conv_0" for i in range(21)]
    np.testing.assert_allclose([bar.get_width() for bar in density.patches], 0.05)
    assert density.get_title(loc="left") == "11,550 of 231,000 weights kept (5.00%)"
    np.testing.assert_allclose(lines_of(churn)["first mask"][0], [1 / PHASES, 1.0])
    np.testing.assert_allclose(lines_of(churn)["previous mask"][0, 1], 0.7)


@pytest.mark.parametrize("kind", ["dense", "deterministic"])
def test_a_dense_run_is_called_not_sparse(kind):
    (density,) = drawn(figures.masks(events("sparse"), summary(kind))).axes
    title = density.get_title(loc="left")
    assert title == "Not sparse: all 231,000 weights are kept"


def test_layer_labels_do_not_overlap():
    figure = drawn(figures.masks(events("sparse"), summary("sparse")))
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y1


def test_snr_shows_shares_and_the_median():
    (ax,) = drawn(figures.snr(summary("sparse"))).axes
    # 1, 4 and 5 of 10: half of them below 10^0.
    assert "median 1" in lines_of(ax)
    assert ax.get_xlim() == (-2, 1)
    np.testing.assert_allclose(ax.patches[0].get_data().values[1:4], [0.1, 0.4, 0.5])


def test_snr_without_a_posterior():
    assert figures.snr(summary("deterministic")) is None
    empty = {"snr_histogram": {"edges_log10": [0, 1], "counts": [0]}}
    assert figures.snr(empty) is None


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing"):
        figures.make_figures(tmp_path)


def test_pyplot_is_never_imported():
    code = (
        "import sys, ssvi_jax.evaluation.run.figures; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
