import pytest
from fake_report import HOSTILE
from matplotlib.figure import Figure

from ssvi_jax.evaluation.run_style import COLOURS, colour, drawable, line_look, readable


@pytest.mark.parametrize("name", HOSTILE)
def test_names_become_one_short_line_without_formulas(name):
    shown = drawable(name)
    assert "\n" not in shown
    assert len(shown.replace(r"\$", "$")) <= 48
    figure = Figure()
    text = figure.text(0, 0.5, shown)
    figure.draw_without_rendering()  # a formula that is not one would raise
    assert not text.get_text().count("$") - text.get_text().count(r"\$")


def test_names_keep_both_ends():
    assert drawable("a" * 60 + "z" * 60).startswith("aaaa")
    assert drawable("a" * 60 + "z" * 60).endswith("zzzz")
    assert drawable("ssvi, 95 % sparse") == "ssvi, 95 % sparse"
    assert drawable("\u4e2d\ud800\x00") == "???"
    assert drawable(" \n") == "?"


def test_lines_take_the_width_that_is_asked_for():
    lines = drawable("ssvi, 95 % sparse (cifar10-laptop-s95)", 48, 26).splitlines()
    assert lines == ["ssvi, 95 % sparse", "(cifar10-laptop-s95)"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fog/3", "fog, severity 3"),
        ("gaussian_noise", "gaussian noise"),
        ("ood/cifar100", "cifar100"),
        ("max_probability", "max probability"),
    ],
)
def test_names_for_people(name, words):
    assert readable(name) == words


def test_more_runs_than_colours_differ_by_their_lines():
    looks = {tuple(line_look(i).items()) for i in range(4 * len(COLOURS))}
    assert len(looks) == 4 * len(COLOURS)
    assert colour(len(COLOURS)) == COLOURS[0]
