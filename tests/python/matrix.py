"""Matrices of cases. A commit needs each row and each column once, a release all of them."""

import pytest

# Places in the list of members of the fixture `secured`, a coordinator and a node each: they are served by different code.
PAIRS = ((0, 3), (1, 4), (2, 3))


def matrix(rows, columns):
    """Pairs of a row and a column for `parametrize`. The short form goes down the diagonals: each row once, and each column if
    there are as many rows; all others have the mark `release`."""
    rows, columns = list(rows), list(columns)
    return [
        pytest.param(row, column, id=f"{row}-{column}", marks=[] if at % len(columns) == across else pytest.mark.release)
        for at, row in enumerate(rows)
        for across, column in enumerate(columns)
    ]


def for_release(*values, **options):
    """A case that repeats another one in a longer form: one value for each parameter."""
    return pytest.param(*values, marks=pytest.mark.release, **options)
