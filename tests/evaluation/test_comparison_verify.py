import json

import pytest
from fake_comparison import comparison

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison import verify

RUNS = [("ssvi", s, {"accuracy": a}) for s, a in enumerate((0.80, 0.83, 0.86))]


@pytest.mark.parametrize(
    ("value", "outside"),
    [(0.8, False), (0.75, False), (0.85, False), (0.7499, True), (0.8501, True)],
)
def test_a_value_may_be_as_far_off_as_its_tolerance(value, outside):
    found = comparison(("ssvi", 0, {"accuracy": value}))
    wrong = verify.check(found, {"ssvi": {"accuracy": (0.8, 0.0500000001)}})
    assert wrong == [("ssvi", "accuracy", value, 0.8, 0.0500000001)] * outside


def test_what_is_missing_or_not_a_number_is_outside():
    found = comparison(("ssvi", 0, {"nll": float("nan")}))
    expected = {
        "rigl": {"accuracy": (0.8, 1.0)},
        "ssvi": {"auroc_svhn": (0.5, 1.0), "nll": (0.5, 1.0), "ece": (0.02, 0.0)},
    }
    wrong = verify.check(found, expected)
    names = [(row.method, row.metric) for row in wrong]
    assert names == [("rigl", "accuracy"), ("ssvi", "auroc_svhn"), ("ssvi", "nll")]
    assert [row.value for row in wrong[:2]] == [None, None]


def test_tolerances_by_hand(tmp_path):
    rank1 = [("rank1", s, {"accuracy": a}) for s, a in enumerate((0.80, 0.82))]
    posterior = {"disagreement_auroc_noise": 0.6}
    found = comparison(*RUNS, *rank1, ("rigl", 0, posterior))
    path = verify.write(tmp_path / "a" / "reference.json", verify.reference(found))
    expected = verify.read_reference(path)
    # Variances of 0.0009 with 2 degrees of freedom and 0.0002 with 1: 0.002 / 3.
    tolerance = 4 * (2 * 0.002 / 3) ** 0.5
    assert expected["ssvi"]["accuracy"] == pytest.approx((0.83, tolerance / 3**0.5))
    assert expected["rank1"]["accuracy"] == pytest.approx((0.81, tolerance / 2**0.5))
    assert expected["rigl"]["accuracy"] == pytest.approx((0.8, tolerance))
    assert expected["rigl"]["nll"][1] == 0.03  # the least there is
    assert expected["rigl"]["auroc_noise"] == (0.75, 0.02)
    assert expected["rigl"]["disagreement_auroc_noise"] == (0.6, 0.02)
    assert expected["rigl"]["weights_kept"] == (50, 0.5)
    assert not {"train_seconds", "predict_seconds"} & expected["rigl"].keys()
    assert verify.check(found, expected) == []
    alone = verify.reference(comparison(("rigl", 0, {})))["methods"]["rigl"]
    assert alone["accuracy"] == {"value": 0.8, "tolerance": 0.01}


def test_the_table_names_what_is_outside():
    found = comparison(("ssvi", 0, {}))
    expected = {"ssvi": {"accuracy": (0.9, 0.01), "brier": (0.25, 0.01)}, "x": {}}
    wrong = verify.check(found, expected)
    lines = verify.table(wrong, 2).splitlines()
    assert lines[0] == "1 of 2 numbers are outside"
    assert lines[4].split() == ["ssvi", "accuracy", "0.8", "0.9", "0.01"]
    assert max(map(len, lines)) == 80
    assert "missing" in verify.table(verify.check(found, {"x": {"a": (1, 1)}}), 1)
    assert verify.table([], 2) == "all 2 numbers are within their tolerances"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ([], 'no "methods"'),
        ({"methods": {}}, "no number in it"),
        ({"methods": {"ssvi": {}}}, "no number in it"),
        ({"methods": {"ssvi": {"nll": 3}}}, "a value and a tolerance"),
        ({"methods": {"ssvi": {"nll": {"value": 1}}}}, "a value and a tolerance"),
        ({"methods": {"ssvi": 3}}, "a value and a tolerance"),
    ],
)
def test_a_damaged_reference_is_refused_with_advice(tmp_path, content, words):
    path = tmp_path / "reference.json"
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        verify.read_reference(path)
    assert "--write-reference" in str(error.value)
