import numpy as np
import pytest
from matplotlib.colors import to_rgb

from avatar_gs.identity.curve import HEIGHT, LINE, WIDTH, loss_curve, smoothed


def test_stretches_are_averaged():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert smoothed([1.0, 3.0], 100) == [1.0, 3.0]


def test_a_falling_loss_falls_in_the_image():
    image = loss_curve(np.linspace(1.0, 0.1, 200).tolist())
    assert image.shape == (HEIGHT, WIDTH, 3)
    colour = np.round(np.array(to_rgb(LINE)) * 255)
    rows, columns = np.nonzero((np.abs(image - colour) < 24).all(-1))
    assert len(rows) > 100 and np.corrcoef(rows, columns)[0, 1] > 0.99, "rows count downwards"


@pytest.mark.parametrize("losses", [[0.5], [0.0, 0.0], [0.1] * 25])
def test_any_losses_can_be_plotted(losses):
    assert loss_curve(losses).shape == (HEIGHT, WIDTH, 3)
