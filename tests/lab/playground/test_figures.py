import numpy as np

from avatar_gs.lab.playground.figures import plot_curves, smoothed, to_image


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_running_mean_leaves_out_nan():
    assert smoothed([]).shape == (0,)
    assert smoothed([1.0, 3.0]).tolist() == [1, 3]
    values = smoothed([np.nan, *[2.0] * 49])  # windows of two
    assert np.isnan(values[0]) and (values[1:] == 2).all()
    assert smoothed([0.0, 4.0] * 25)[1:].tolist() == [2.0] * 49


def test_each_figure_has_a_labelled_panel_with_a_line_for_each_method_that_has_it():
    ramp = [float(step) for step in range(60)]
    figure = plot_curves({"a": {"t": ramp}, "b": {"t": ramp[::-1], "only_b": [5.0] * 60}}, "title")
    first, second, third = figure.axes
    assert (first.get_title(), second.get_title()) == ("t", "only_b")
    assert first.get_xlabel() == second.get_xlabel() == "step"
    assert lines(first).keys() == {"a", "b"} and lines(second).keys() == {"b"}
    assert lines(first)["b"].get_color() == lines(second)["b"].get_color() != lines(first)["a"].get_color()
    assert not third.axison
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    image = to_image(figure)
    assert image.dtype == np.uint8 and len(np.unique(image.reshape(-1, 3), axis=0)) > 3


def test_a_figure_that_is_never_finite_has_no_points():
    figure = plot_curves({"a": {"t": [float("nan")] * 5}}, "")
    assert np.isnan(lines(figure.axes[0])["a"].get_ydata()).all()
    to_image(figure)
