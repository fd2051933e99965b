import numpy as np
import pytest

from avatar_gs.identity.curve import HEIGHT, LINE, WIDTH, loss_curve, smoothed


def test_stretches_are_averaged():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert smoothed([1.0, 3.0], 100) == [1.0, 3.0]


def test_a_falling_loss_falls_in_the_picture():
    picture = loss_curve(np.linspace(1.0, 0.1, 200).tolist())
    assert picture.shape == (HEIGHT, WIDTH, 3)
    rows, columns = np.nonzero((picture == LINE).all(-1))
    assert np.corrcoef(rows, columns)[0, 1] > 0.99, "rows count downwards"


@pytest.mark.parametrize("losses", [[0.5], [0.0, 0.0], [0.1] * 25])
def test_any_losses_can_be_drawn(losses):
    assert loss_curve(losses).shape == (HEIGHT, WIDTH, 3)
