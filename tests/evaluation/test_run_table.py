import pytest

from ssvi_jax.evaluation.run import table as report

SCORES = {"accuracy": 0.7831, "nll": 0.65123, "brier": 0.3021, "ece": 0.0121}
SUMMARY = {
    "dataset": "cifar10",
    "method": "ssvi",
    "model": "small_cnn",
    "backend": "cpu",
    "samples": 10,
    "sparsity": 0.95,
    "sparsity_prunable": 0.9521,
    "weights_total": 1_967_328,
    "weights_kept": 98_366,
    "train_minutes": 24.31,
    "state_bytes": 1_900_000,
    "state_bytes_dense_vi": 31_600_000,
    "train_step_flops": 1.5e10,
    "train_step_flops_dense_vi": 2.31e11,
    "predict_flops": 1.2e8,
    "predict_flops_dense_vi": 2.4e9,
    "test": {"mc": SCORES, "mean": SCORES | {"accuracy": 0.7712, "ece": 0.0334}},
    "model_file": {"bytes": 412_345, "bytes_dense_vi": 15_738_624},
}
ROWS = [
    "ssvi | small_cnn | cifar10 | cpu",
    "test set 10 samples mean network",
    "accuracy 78.31 % 77.12 %",
    "NLL (nats) 0.6512 0.6512",
    "Brier score 0.3021 0.3021",
    "ECE (15 bins) 0.0121 0.0334",
    "cost this run dense VI saved",
    "training state 1.9 MB 31.6 MB 16.6×",
    "training step 15.0 GFLOPs 231.0 GFLOPs 15.4×",
    "prediction of one example 120.0 MFLOPs 2.4 GFLOPs 20.0×",
    "sparsity 95.00 % of all weights, 95.21 % of prunable",
    "weights kept 98,366 of 1,967,328",
    "training time 24.3 min",
    "model file 412.3 kB, 38.2× smaller than dense VI (15.7 MB)",
]


def words(text):
    return [" ".join(line.split()) for line in text.splitlines() if line.strip("-")]


def test_every_row_of_a_sparse_run():
    table = report.summary_table(SUMMARY)
    assert words(table) == ROWS
    assert max(map(len, table.splitlines())) == 80
    assert not table.endswith("\n")


def test_columns_are_aligned():
    lines = report.summary_table(SUMMARY).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("test set"))
    assert len({len(line) for line in lines[start : start + 5]}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_a_deterministic_run_has_one_column_and_no_prunable_part():
    summary = SUMMARY | {
        "method": "deterministic",
        "samples": None,
        "sparsity": 0.0,
        "sparsity_prunable": None,
        "test": {"mean": SCORES},
        "model_file": {"bytes": 7_869_312},
    }
    table = words(report.summary_table(summary))
    assert "test set network" in table
    assert "accuracy 78.31 %" in table
    assert "sparsity 0.00 % of all weights" in table
    assert "model file 7.9 MB" in table


def test_a_run_on_corrupted_images_shows_both_test_sets():
    shifted = {
        "mc": SCORES | {"accuracy": 0.6},
        "mean": SUMMARY["test"]["mean"] | {"accuracy": 0.5},
    }
    summary = SUMMARY | {"train_corruption": "fog", "train_severity": 3}
    table = words(report.summary_table(summary | {"test_corrupted": shifted}))
    assert table[0] == f"{ROWS[0]} | trained on fog, severity 3"
    assert table[1:6] == ["test set, clean 10 samples mean network", *ROWS[2:6]]
    assert table[6:8] == [
        "test set, corrupted 10 samples mean network",
        "accuracy 60.00 % 50.00 %",
    ]
    assert table[8:] == ROWS[3:]


def test_two_classes_have_two_more_rows():
    scores = SCORES | {"auroc": 0.85312, "auprc": 0.4812}
    summary = SUMMARY | {"test": {"mc": scores, "mean": scores | {"auroc": 0.8}}}
    rows = [" ".join(r.split()) for r in report.summary_table(summary).splitlines()]
    assert "AUROC 0.8531 0.8000" in rows
    assert "AUPRC 0.4812 0.4812" in rows
    assert not any("AU" in line for line in report.summary_table(SUMMARY).splitlines())


def test_what_is_missing_is_left_out():
    assert words(report.summary_table({"dataset": "digits"})) == ["digits"]
    scores = {"mc": {"accuracy": 0.5, "nll": None}}
    table = words(report.summary_table({"dataset": "digits", "test": scores}))
    assert table[1:4] == ["test set sampled", "accuracy 50.00 %", "NLL (nats) -"]


def test_long_names_stay_within_80_columns():
    table = report.summary_table(SUMMARY | {"dataset": "digits (not CIFAR-10) " * 5})
    assert max(map(len, table.splitlines())) == 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (44_657_408, "44.7 MB"),
        (2.5e15, "2,500.0 TB"),
    ],
)
def test_bytes(value, text):
    assert report.format_bytes(value) == text


def test_flops():
    assert report.format_flops(2324) == "2.3 kFLOPs"
    assert report.format_flops(3.3e12) == "3.3 TFLOPs"


@pytest.mark.parametrize(
    ("larger", "smaller", "text"),
    [(183, 10, "18.3×"), (5, 5, "1.0×"), (1, 2, "0.5×"), (12345, 10, "1,234×")],
)
def test_ratio(larger, smaller, text):
    assert report.format_ratio(larger, smaller) == text


def test_ratio_of_nothing():
    assert report.format_ratio(1, 0) == "-"
