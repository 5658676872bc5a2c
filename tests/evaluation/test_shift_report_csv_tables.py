import copy
import csv

import fake_report
import pytest
from fake_report import BENCHMARK, Fake

from ssvi_jax.evaluation.shift.report import csv_tables

SMALL = Fake(runs=2, benchmark=BENCHMARK[:2], images=20)


def read_csv(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What results.json holds, and the rows of every table."""
    folder = tmp_path_factory.mktemp("tables")
    results = fake_report.write(folder, SMALL)
    paths = csv_tables.write_tables(folder)
    assert [path.stem for path in paths] == list(csv_tables.TABLES)
    assert {path.suffix for path in paths} == {".csv"}
    return results, {path.stem: read_csv(path) for path in paths}


def networks(results):
    return {
        (run["name"], kind): network
        for run in results["runs"]
        for kind, network in run["networks"].items()
    }


def same(row, scores):
    """Whether the row has exactly these scores, empty where there is none."""
    metrics = [*scores, "mutual_information", "logit_disagreement"]
    return all(
        row[name] == (repr(scores[name]) if name in scores else "")
        for name in metrics
        if name in row
    )


def test_cells_hold_every_digit_of_every_network(written):
    results, rows = written
    found = networks(results)
    assert {"mutual_information", "logit_disagreement"} <= rows["cells"][0].keys()
    # Clean, and 3 corruptions (one of them extra) at 5 severities.
    assert len(rows["cells"]) == len(found) * (1 + 3 * 5)
    for row in rows["cells"]:
        network = found[row["run"], row["network"]]
        if row["corruption"] == "clean":
            assert row["severity"] == "0"
            assert same(row, network["clean"])
        else:
            cells = network["cells"][row["corruption"]]
            assert same(row, cells[int(row["severity"]) - 1])
            inside = row["corruption"] in SMALL.benchmark
            assert row["benchmark"] == str(inside)


def test_summaries_say_what_each_run_is(written):
    results, rows = written
    assert len(rows["summary"]) == len(networks(results))
    for row in rows["summary"]:
        (run,) = (run for run in results["runs"] if run["name"] == row["run"])
        summary = run["networks"][row["network"]]["summary"]
        assert {name: float(row[name]) for name in summary} == summary
        assert row["label"] == run["label"]
        assert int(row["weights_kept"]) == run["weights_kept"]


def test_calibrated_models_have_their_factor(tmp_path, written):
    runs = copy.deepcopy(written[0]["runs"])
    runs[1]["sigma_factor"] = 1.5
    fake_report.write(tmp_path, SMALL, runs=runs)
    csv_tables.write_tables(tmp_path)
    for row in read_csv(tmp_path / "summary.csv"):
        assert row["sigma_factor"] == ("1.5" if row["run"] == runs[1]["name"] else "")


def test_detections_and_selections(written):
    results, rows = written
    found = networks(results)
    # Two sets; the sampled network has two more scores.
    assert len(rows["ood"]) == sum(2 * (2 + 2 * (kind == "mc")) for _, kind in found)
    for row in rows["ood"]:
        network = found[row["run"], row["network"]]
        areas = network["ood"][row["ood_set"]][row["score"]]
        assert {name: float(row[name]) for name in areas} == areas
    assert len(rows["selective"]) == len(found) * 2 * 5
    for row in rows["selective"]:
        chosen = found[row["run"], row["network"]]["selective"][row["set"]]
        assert float(row["aurc"]) == chosen["aurc"]
        accuracy = chosen["accuracy_at"][str(float(row["coverage"]))]
        assert float(row["accuracy"]) == accuracy


def test_temperatures_before_and_after(written):
    results, rows = written
    found = networks(results)
    assert len(rows["temperature"]) == len(found) * 3 * 2
    for row in rows["temperature"]:
        network = found[row["run"], row["network"]]
        fitted = network["temperature"]
        assert float(row["temperature"]) == fitted["value"]
        scaled = row["scaled"] == "True"
        source, prefix = {
            "val": (fitted["val_after" if scaled else "val_before"], ""),
            "clean": (fitted["clean"] if scaled else network["clean"], ""),
            "corrupted": ((fitted if scaled else network)["summary"], "corrupted_"),
        }[row["set"]]
        for score in ("accuracy", "nll", "brier", "ece"):
            assert float(row[score]) == source[prefix + score]


def test_tables_without_rows_are_a_header(tmp_path):
    fake_report.write(tmp_path, Fake(runs=1, benchmark=BENCHMARK[:1], ood=(), images=5))
    csv_tables.write_tables(tmp_path)
    text = (tmp_path / "ood.csv").read_text()
    assert text == "run,network,ood_set,score,auroc,aupr,fpr95\n"


def test_names_with_commas_quotes_and_lines_survive(tmp_path):
    name = 'a, "b"\nc \N{GRINNING FACE}'
    what = Fake(runs=1, benchmark=BENCHMARK[:1], ood=(), images=5, names=(name,))
    fake_report.write(tmp_path, what)
    csv_tables.write_tables(tmp_path)
    assert {row["run"] for row in read_csv(tmp_path / "cells.csv")} == {name}
