"""What is drawn for a token depends on the key, its row and its column alone."""

import numpy as np

from retentive.training.objectives.draws import RowDraws


def test_rows_and_columns_draw_the_same_however_they_are_cut():
    whole = RowDraws(key=(3, 0, 7, 1)).uniform(6, 9, 2)
    assert whole.shape == (6, 9, 2)
    assert ((whole >= 0) & (whole < 1)).all()
    for first in range(0, 6, 2):
        share = RowDraws(key=(3, 0, 7, 1), first_row=first).uniform(2, 5, 2)
        assert np.array_equal(share, whole[first : first + 2, :5])


def test_every_part_of_the_key_matters():
    keys = [(3, 0, 7, 1), (4, 0, 7, 1), (3, 1, 7, 1), (3, 0, 8, 1), (3, 0, 7, 2)]
    drawn = [RowDraws(key=key).uniform(1, 4).tobytes() for key in keys]
    assert len(set(drawn)) == len(keys)
