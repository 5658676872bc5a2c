"""The benchmark's records as inputs, against a plain reading of its definition."""

import math

import mimic_stays
import numpy as np
import pytest

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.data import mimic, mimic_channels
from ssvi_jax.data.mimic_channels import CHANNELS

HEART, TOTAL = (
    list(CHANNELS).index(name) for name in ("Heart Rate", "Glascow coma scale total")
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return mimic_stays.write(tmp_path_factory.mktemp("mimic"))


def by_definition(table):
    """Every hour and channel by itself: its last value, the one before, or normal."""
    grid = []
    for hour in range(48):
        values, masks = [], []
        for channel, (normal, categories) in enumerate(CHANNELS.values(), start=1):
            seen = [
                (max(0, math.ceil(float(row[0]) - 1e-6) - 1), row[channel])
                for row in table
                if row[channel] and float(row[0]) <= 48 + 1e-6
            ]
            text = [text for bin_, text in seen if bin_ <= hour]
            text = text[-1] if text else normal
            values += [text == c for c in categories] if categories else [float(text)]
            masks.append(any(bin_ == hour for bin_, _ in seen))
        grid.append([*values, *masks])
    return np.array(grid, np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_a_stay_is_what_the_definition_says(tmp_path, seed):
    table = list(mimic_stays.rows(np.random.default_rng(seed), died=bool(seed)))
    got = mimic.read_stay(mimic_stays.write_stay(tmp_path / "s.csv", table))
    assert got.shape == (48, 76)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, by_definition(table))
    assert 0.05 < got[:, 59:].mean() < 0.8  # gaps, and not only gaps


def test_a_stay_without_a_row_is_normal(tmp_path):
    got = mimic.read_stay(mimic_stays.write_stay(tmp_path / "s.csv", []))
    np.testing.assert_array_equal(got[:, :59], np.tile(mimic_channels.NORMAL, (48, 1)))
    assert not got[:, 59:].any()


def one_value(channel, time, text):
    row = [time, *[""] * 17]
    row[1 + channel] = text
    return row


@pytest.mark.parametrize(
    ("time", "hour"),
    [("0", 0), ("0.5", 0), ("1.0", 0), ("1.000002", 1), ("47.5", 47), ("48.0", 47)],
)
def test_where_an_hour_ends(tmp_path, time, hour):
    path = mimic_stays.write_stay(tmp_path / "s.csv", [one_value(HEART, time, "120")])
    got = mimic.read_stay(path)
    place = mimic_channels.SLICES[HEART].start
    assert np.flatnonzero(got[:, 59 + HEART]).tolist() == [hour]
    np.testing.assert_array_equal(got[:, place], [86.0] * hour + [120.0] * (48 - hour))


def test_the_latest_value_of_an_hour_holds_and_later_hours_are_left_out(tmp_path):
    times = [("2.9", "90"), ("2.1", "70"), ("48.1", "300")]
    table = [one_value(HEART, *pair) for pair in times]
    got = mimic.read_stay(mimic_stays.write_stay(tmp_path / "s.csv", table))
    assert got[2:, mimic_channels.SLICES[HEART].start].tolist() == [90.0] * 46
    assert got[:, 59 + HEART].sum() == 1


@pytest.mark.parametrize("text", ["11", "11.0"])
def test_a_category_may_be_written_as_a_number(tmp_path, text):
    table = [one_value(TOTAL, "0", text)]
    got = mimic.read_stay(mimic_stays.write_stay(tmp_path / "s.csv", table))
    one_hot = got[0, mimic_channels.SLICES[TOTAL]]
    assert np.flatnonzero(one_hot).tolist() == [11 - 3]


def test_columns_may_come_in_any_order(tmp_path):
    table = list(mimic_stays.rows(np.random.default_rng(0), died=True))
    plain = mimic.read_stay(mimic_stays.write_stay(tmp_path / "a.csv", table))
    turned = [[*row[::-1], "extra"] for row in table]
    header = [*mimic_stays.HEADER[::-1], "Comment"]
    other = mimic.read_stay(mimic_stays.write_stay(tmp_path / "b.csv", turned, header))
    np.testing.assert_array_equal(plain, other)


def test_the_features_are_the_benchmarks():
    assert mimic_channels.NUM_FEATURES == 76
    assert mimic_channels.IS_NUMBER.sum() == 12
    categories = [len(c) for _, c in CHANNELS.values() if c]
    assert categories == [2, 8, 12, 13, 12]
    starts = [part.start for part in mimic_channels.SLICES]
    for start, (_, names) in zip(starts, CHANNELS.values(), strict=True):
        assert mimic_channels.IS_NUMBER[start] == (not names)


def test_the_data_set(root):
    got = data.load("mimic3", root)
    assert (got.name, got.num_classes, got.pixels) == ("mimic3", 2, False)
    assert got.test_images.shape == (8, 48, 76)
    assert got.test_images.dtype == np.float32
    assert got.test_labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert len(got.train_labels) + len(got.val_labels) == 24
    first = (root / "test" / "listfile.csv").read_text().splitlines()[1].split(",")[0]
    np.testing.assert_array_equal(
        got.test_images[0], mimic.read_stay(root / "test" / first)
    )
    assert "MIMIC-III" in got.source


def test_numbers_are_standardized_by_the_training_stays_and_the_rest_is_not(root):
    got = data.load("mimic3", root)
    flat = got.train_images.reshape(-1, 76).astype(np.float64)
    numbers = mimic_channels.IS_NUMBER
    np.testing.assert_allclose(got.mean[numbers], flat.mean(0)[numbers], rtol=1e-5)
    np.testing.assert_allclose(got.std[numbers], flat.std(0)[numbers], rtol=1e-4)
    assert set(got.mean[~numbers]) == {0.0}
    assert set(got.std[~numbers]) == {1.0}


def test_a_number_that_never_changes_keeps_its_scale():
    mean, std = mimic._moments(np.full((2, 48, 76), 5.0, np.float32))
    assert std.tolist() == [1.0] * 76
    assert mean[mimic_channels.SLICES[HEART]].tolist() == [5.0]


def stays_of(root, split, **options):
    """Names of the training or validation stays, in order."""
    train, val, _ = mimic._training_stays(root, **options)
    return list({"train": train, "val": val}[split])


def test_no_patient_is_in_training_and_validation(root):
    for seed in range(5):
        parts = [
            {s.split("_")[0] for s in stays_of(root, name, validation=0.3, seed=seed)}
            for name in ("train", "val")
        ]
        assert not parts[0] & parts[1]
        assert len(parts[0] | parts[1]) == 16
        assert len(parts[1]) == int(0.3 * 16)
    first = stays_of(root, "val", validation=0.3, seed=0)
    assert first == stays_of(root, "val", validation=0.3, seed=0)
    assert stays_of(root, "val", validation=0.0, seed=0) == []


def test_the_benchmarks_own_split_is_taken(tmp_path):
    root = mimic_stays.write(tmp_path, train=6, test=2)
    names = sorted(path.name for path in (root / "train").glob("*_timeseries.csv"))
    mimic_stays.write_list(root / "val_listfile.csv", {names[1]: 1, names[4]: 0})
    chosen = data.load("mimic3", root)
    assert len(chosen.train_labels) == 6  # one of the two lists alone is not a split
    rest = {name: 0 for i, name in enumerate(names) if i not in (1, 4)}
    mimic_stays.write_list(root / "train_listfile.csv", rest)
    chosen = data.load("mimic3", root)
    assert chosen.val_labels.tolist() == [1, 0]
    assert chosen.train_labels.tolist() == [0, 0, 0, 0]
    assert "val_listfile.csv" in chosen.source
    expected = mimic.read_stay(root / "train" / names[4])
    np.testing.assert_array_equal(chosen.val_images[1], expected)


@pytest.mark.parametrize("inside", ["mimic3", "in-hospital-mortality"])
def test_the_folder_may_lie_among_other_sets(tmp_path, monkeypatch, inside):
    mimic_stays.write(tmp_path / inside, train=4, test=1)
    assert len(data.load("mimic3", tmp_path).test_labels) == 1
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(data.load("mimic3").test_labels) == 1


def test_a_missing_folder_says_where_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"no train/listfile\.csv.*physionet"):
        data.load("mimic3", tmp_path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (one_value(HEART, "1", "fast"), "hour 1: Heart Rate is 'fast', allowed: a fin"),
        (one_value(HEART, "1", "nan"), "Heart Rate is 'nan', allowed: a finite number"),
        (one_value(TOTAL, "1", "16"), "Glascow coma scale total is '16.0', allowed: 3"),
        (one_value(HEART, "-1", "80"), "has Hours '-1', allowed: 0 or more"),
        (one_value(HEART, "nan", "80"), "has Hours 'nan', allowed: 0 or more"),
        (one_value(HEART, "", "80"), "has Hours '', allowed: 0 or more"),
        (["1", "80"], "line 2 has 2 columns, not 18"),
    ],
)
def test_damaged_stays_are_named(tmp_path, row, words):
    path = mimic_stays.write_stay(tmp_path / "stay.csv", [row])
    with pytest.raises(InputError, match=r"data_dir: .*stay\.csv") as caught:
        mimic.read_stay(path)
    assert words in str(caught.value)


def test_missing_columns_and_files_are_named(tmp_path):
    header = [n for n in mimic_stays.HEADER if n not in ("pH", "Weight")]
    path = mimic_stays.write_stay(tmp_path / "stay.csv", [], header)
    with pytest.raises(InputError, match="has no column Weight, pH"):
        mimic.read_stay(path)
    with pytest.raises(InputError, match=r"cannot read .*none\.csv"):
        mimic.read_stay(tmp_path / "none.csv")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read"):
        mimic.read_stay(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stay,y_true\n", "names no stay"),
        ("stay,y_true\na.csv,2\n", "y_true '2' for a.csv, allowed: 0, 1"),
        ("stay\na.csv\n", "has no column y_true"),
        ("stay,y_true\nmissing.csv,1\n", "cannot read"),
    ],
)
def test_damaged_lists_are_named(tmp_path, text, words):
    root = mimic_stays.write(tmp_path, train=4, test=2)
    (root / "test" / "listfile.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        data.load("mimic3", root)
