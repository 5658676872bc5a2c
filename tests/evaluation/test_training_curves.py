import csv
import json
import runpy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import smoke_run
from matplotlib.colors import to_hex
from PIL import Image

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.run import training_curves

SCRIPT = smoke_run.ROOT / "experiments" / "curves.py"
EPOCHS = 3
SHIFT = {"train_corruption": "fog", "train_severity": 3}


def scores(accuracy):
    return {"accuracy": accuracy, "nll": 1 - accuracy}


def write_run(folder, *, shift=None, kl=9000.0, tests=True, **changes):
    """A finished run: two phases an epoch; on corrupted test images always worse."""
    lines = []
    for step in range(1, 2 * EPOCHS + 1):
        lines.append({"event": "phase", "step": step, "epoch": step / 2, "kl": kl})
        if step % 2 == 0:
            epoch = {"event": "epoch", "epoch": step // 2, "val": scores(0.9)}
            if tests:
                epoch["test"] = scores(0.1 * step)
                epoch |= {"test_corrupted": scores(0.09 * step)} if shift else {}
            lines.append(epoch)
    summary = {"dataset": "digits", "method": "ssvi", "model": "mlp", "sparsity": 0.95}
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (folder / "summary.json").write_text(json.dumps(summary | (shift or {}) | changes))
    return folder


@pytest.fixture
def pair(tmp_path):
    """A clean and a foggy run."""
    return write_run(tmp_path / "a"), write_run(tmp_path / "b", shift=SHIFT, kl=8000.0)


def lines_of(ax) -> list[tuple[str, str, list[float]]]:
    return [
        (to_hex(line.get_color()), line.get_linestyle(), list(line.get_ydata()))
        for line in ax.get_lines()
    ]


def legend_of(figure) -> Any:
    (legend,) = figure.legends
    return legend


def test_every_curve_is_drawn_in_its_runs_colour_and_domains_style(pair):
    runs = training_curves.read(pair)
    figure = training_curves.figure(runs, ["accuracy", "kl", "nll"])
    accuracy, kl, nll = map(lines_of, figure.axes)
    blue, red = (colour.lower() for colour in training_curves.COLOURS[:2])
    for found, value in ((accuracy, lambda a: a), (nll, lambda a: 1 - a)):
        (one, own, other) = found
        assert [line[:2] for line in found] == [(blue, "-"), (red, "-"), (red, "--")]
        # Own domain: clean for the clean run, foggy for the foggy one.
        for line, scale in ((one, 0.1), (own, 0.09), (other, 0.1)):
            expected = [value(scale * step) for step in (2, 4, 6)]
            np.testing.assert_allclose(line[2], expected)
    assert [line[:2] for line in kl] == [(blue, "-"), (red, "-")]
    np.testing.assert_allclose(kl[0][2], np.full(6, 9.0))
    assert "10^3" in figure.axes[1].get_ylabel()


def test_the_legend_tells_runs_and_domains(pair):
    runs = training_curves.read(pair)
    figure = training_curves.figure(runs, ["accuracy"])
    legend = legend_of(figure)
    assert [text.get_text() for text in legend.get_texts()] == [
        "trained on clean images",
        "trained on fog, severity 3",
        "tested on the same domain",
        "tested on clean images",
    ]
    colours = [to_hex(line.get_color()) for line in legend.get_lines()]
    assert colours[:2] == [colour.lower() for colour in training_curves.COLOURS[:2]]
    # No second kind of line, no words on it.
    assert len(legend_of(training_curves.figure(runs, ["kl"])).get_texts()) == 2
    assert len(legend_of(training_curves.figure(runs[:1], ["nll"])).get_texts()) == 1


@pytest.mark.parametrize("quantities", [["accuracy"], ["accuracy", "kl", "nll"]])
def test_the_legend_stays_inside_the_figure(tmp_path, quantities):
    kinds = [None, SHIFT, SHIFT | {"train_corruption": "elastic_transform"}]
    folders = [
        write_run(tmp_path / f"digits-ssvi-{i}", shift=shift, sparsity=i / 10)
        for i, shift in enumerate(kinds * 2)
    ]
    figure = training_curves.figure(training_curves.read(folders), quantities)
    figure.draw_without_rendering()
    box = legend_of(figure).get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert all(box.y1 <= ax.get_window_extent().y0 for ax in figure.axes)


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ([{}], ["trained on clean images"]),
        ([{}, {}], ["trained on clean images (r0)", "trained on clean images (r1)"]),
        (
            [{}, {"method": "deterministic", "sparsity": 0.0}],
            [
                "trained on clean images: ssvi mlp, 95 % sparse",
                "trained on clean images: deterministic mlp, dense",
            ],
        ),
        (
            [{"sparsity": 0.9}, {"shift": SHIFT, "sparsity": 0.95}],
            [
                "trained on clean images: ssvi mlp, 90 % sparse",
                "trained on fog, severity 3: ssvi mlp, 95 % sparse",
            ],
        ),
    ],
)
def test_labels_say_what_sets_runs_apart(tmp_path, changes, labels):
    folders = [write_run(tmp_path / f"r{i}", **c) for i, c in enumerate(changes)]
    assert [run.label for run in training_curves.read(folders)] == labels


def test_a_folders_name_is_no_formula(tmp_path):
    folders = [write_run(tmp_path / name) for name in (r"$\nothing{$", "b")]
    runs = training_curves.read(folders)
    paths = training_curves.write(runs, tmp_path / "out")
    assert all(path.stat().st_size for path in paths)


def test_a_run_without_a_posterior_has_no_kl(tmp_path):
    point = write_run(tmp_path / "point", kl=0.0, method="deterministic", sparsity=0.0)
    paths = training_curves.write(training_curves.read([point]), tmp_path / "out")
    names = ["accuracy.png", "test_loss.png", "side_by_side.png", "curves.csv"]
    assert [path.name for path in paths] == names
    runs = training_curves.read([point, write_run(tmp_path / "sparse")])
    kl = training_curves.figure(runs, ["kl"])
    # The second run keeps its colour where the first has no line.
    assert [line[0] for line in lines_of(kl.axes[0])] == [
        training_curves.COLOURS[1].lower()
    ]
    assert len(legend_of(kl).get_texts()) == 1


def test_the_command_writes_figures_and_numbers(pair, tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    out = tmp_path / "new" / "figures"
    flags = [part for folder in pair for part in ("--run", folder)]
    outcome = smoke_run.call(main, *flags, "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    pictures = ["accuracy", "kl", "test_loss", "side_by_side"]
    names = [*(f"{name}.png" for name in pictures), "curves.csv"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(f"wrote {out / name}" in outcome.out for name in names)
    sizes = []
    for name in pictures:
        with Image.open(out / f"{name}.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] == sizes[2]
    assert sizes[3][0] > 2 * sizes[0][0]
    with (out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * EPOCHS + 2 * 2 * EPOCHS + 2 * 2 * EPOCHS
    expected = {
        "run": "b",
        "trained_on": "fog/3",
        "quantity": "accuracy",
        "tested_on": "fog/3",
        "epoch": "2",
        "value": "0.36",
    }
    assert expected in rows
    assert {row["tested_on"] for row in rows if row["run"] == "a"} == {"clean", ""}
    assert [r["epoch"] for r in rows if r["quantity"] == "kl"][:3] == [
        "0.5",
        "1",
        "1.5",
    ]


def test_a_run_without_test_curves_is_refused(tmp_path):
    folder = write_run(tmp_path / "a", tests=False)
    with pytest.raises(InputError, match=r"a has no test curves; train with --test-ev"):
        training_curves.read([folder])
    main = runpy.run_path(str(SCRIPT))["main"]
    outcome = smoke_run.call(main, "--run", folder, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "--test-every 1" in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InputError, match="--run: got 0 folders, allowed: 1 to 6"):
        training_curves.read([])
    one = write_run(tmp_path / "one")
    with pytest.raises(InputError, match="--run: got 7 folders, allowed: 1 to 6"):
        training_curves.read([one] * 7)
    other = write_run(tmp_path / "other", dataset="cifar10")
    with pytest.raises(InputError, match="got runs on cifar10, digits, allowed: one"):
        training_curves.read([one, other])
    with pytest.raises(InputError, match=r"summary\.json is missing"):
        training_curves.read([tmp_path / "nothing"])
    with pytest.raises(InputError, match=r"--out: cannot create .*summary\.json"):
        training_curves.write(training_curves.read([one]), one / "summary.json")


def test_help_loads_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: print({'jax', 'numpy', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
