"""The table of an evaluation under shift."""

from ssvi_jax.evaluation.shift import table

KEYS = ("accuracy", "nll", "ece", "ece_if_calibrated")
SUMMARY = {name: 0.5 for key in KEYS for name in (key, f"corrupted_{key}")}


def run(label, *kinds):
    networks = {kind: {"summary": SUMMARY} for kind in kinds}
    return {"label": label, "headline": kinds[0], "networks": networks}


def lines_of(*runs):
    results = {"runs": runs, "samples": 10, "ood": []}
    return table.shift_table(results).splitlines()


def rows(*runs):
    lines = lines_of(*runs)[3:]
    return lines[: lines.index("-" * 80)]


def name_of(line):
    return line[:32].rstrip()


def test_what_fits_is_one_line():
    found = rows(run("ssvi, dense", "mc", "mean"), run("rigl, 95 % sparse", "mean"))
    names = [
        "ssvi, dense, 10 samples",
        "ssvi, dense, mean network",
        "rigl, 95 % sparse",
    ]
    assert [name_of(line) for line in found] == names
    assert {len(line) for line in found} == {32 + 6 * 7}


def test_labels_that_do_not_fit_are_kept_whole():
    label = "ssvi_ivon, 95 % sparse, σ × 0."
    first, second = f"{label}312", f"{label}45"
    found = rows(
        run(first, "mc", "mean"), run(second, "mc", "mean"), run(f"{label}71", "mean")
    )
    both = ["  10 samples", "  mean network"]
    assert [name_of(line) for line in found] == [
        *(first[:32].rstrip(), *both),
        *(second[:32].rstrip(), *both),
        *(f"{label}71", "  mean network"),
    ]
    assert [found[0], found[3], found[6]] == [first, second, f"{label}71"]
    assert max(map(len, found)) <= 80


def test_what_chance_alone_would_give_is_said_of_every_model():
    *_, head, line, rule = lines_of(run("ssvi, dense", "mc", "mean"))
    assert (
        head == "ECE to expect on as many images, by chance, if confidences were exact:"
    )
    assert line.split() == ["ssvi,", "dense", "0.500,", "corrupted", "0.500"]
    assert rule == "-" * 80
