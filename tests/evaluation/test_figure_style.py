import numpy as np
import pytest

from ssvi_jax.evaluation import figure_style as style


@pytest.mark.parametrize(
    ("largest", "scale", "text"),
    [
        (0.0, 1, "nats"),
        (999.0, 1, "nats"),
        (1000.0, 1e3, "$10^3$ nats"),
        (9.9e5, 1e3, "$10^3$ nats"),
        (2e7, 1e6, "$10^6$ nats"),
    ],
)
def test_units_are_powers_of_a_thousand(largest, scale, text):
    assert style.nats_unit(largest) == (scale, text)


def test_panels_have_the_size_asked_for():
    figure, axes = style.panels(3, width=4.0, height=2.5)
    assert len(axes) == 3
    np.testing.assert_allclose(figure.get_size_inches(), (12.0, 2.5))


def test_percent_ticks_show_the_digits_that_there_are():
    _, (ax,) = style.panels(1, width=4.0, height=3.0)
    style.percent_ticks(ax.yaxis)
    show = ax.yaxis.get_major_formatter()
    ticks = [0.0, 0.2, 0.225, 0.9925, 1.0]
    assert [show(tick) for tick in ticks] == ["0%", "20%", "22.5%", "99.25%", "100%"]


def test_epochs_are_marked_whole():
    _, (ax,) = style.panels(1, width=4.0, height=3.0)
    ax.plot([0, 3], [0, 1])
    style.whole_epochs(ax)
    ticks = ax.get_xticks()
    assert len(ticks) >= 3
    assert (ticks == np.round(ticks)).all()
