import json

import pytest

from ssvi_jax.io.json_text import parse


@pytest.mark.parametrize("values", [{"a": [1, 2.5, None, True, "é"]}, [], 3, 1e308])
def test_what_json_writes_comes_back(values):
    text = json.dumps(values)
    assert parse(text) == parse(text.encode()) == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("NaN", "NaN is no number"),
        ('{"a": [-Infinity]}', "-Infinity is no number"),
        ("1e999", "1e999 is too large"),
        ("-" + "9" * 400 + ".0", "is too large"),
        ("9" * 5000, "limit"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"\x83", "codec can't decode"),
    ],
)
def test_whatever_is_wrong_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse(text)
