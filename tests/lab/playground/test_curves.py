import numpy as np

from avatar_gs.lab.playground.curves import COLORS, PANEL, PAPER, curves_picture, smoothed


def has(picture, color):
    return bool((picture == color).all(-1).any())


def test_a_running_mean_leaves_out_what_is_missing():
    assert smoothed([]).shape == (0,)
    assert smoothed([1.0, 3.0]).tolist() == [1, 3]
    values = smoothed([np.nan, *[2.0] * 49])  # windows of two
    assert np.isnan(values[0]) and (values[1:] == 2).all()
    assert smoothed([0.0, 4.0] * 25)[1:].tolist() == [2.0] * 49


def test_a_panel_for_each_figure_and_a_line_for_each_method_that_has_it():
    ramp = [float(step) for step in range(60)]
    picture = curves_picture({"a": {"t": ramp}, "b": {"t": ramp[::-1], "only_b": [5.0] * 60}}, "title")
    assert picture.shape[1] == 3 * PANEL[0]
    first, second, third = (picture[60:, i * PANEL[0] : (i + 1) * PANEL[0]] for i in range(3))
    assert has(first, COLORS[0]) and has(first, COLORS[1])
    assert not has(second, COLORS[0]) and has(second, COLORS[1])
    assert (third == PAPER).all()


def test_a_figure_that_is_never_finite_has_an_empty_panel():
    picture = curves_picture({"a": {"t": [float("nan")] * 5}}, "")
    assert (picture[60:] == PAPER).all()
