"""Where the loop comes back, with a clock that only goes when told to."""

import numpy as np
import pytest

from keras_tfm.generation import pace
from keras_tfm.generation.pace import Pace, tokens_between_looks


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def stops(pace, clock, seconds_per_token=0.0, seconds_per_call=0.0):
    """(tokens, whether they are shown) at which the loop comes back."""
    found, written = [], 0
    while written < pace.last:
        until = pace.next()
        clock.now += (until - written) * seconds_per_token + seconds_per_call
        written = until
        found.append((until, pace.is_piece()))
    return found


@pytest.mark.parametrize(
    ("last", "size", "expected"), [(10, 4, [1, 5, 9, 10]), (3, 1, [1, 2, 3]), (8, 8, [8]), (8, 9, [8]), (1, 1, [1])]
)
def test_pieces_of_a_given_size(clock, last, size, expected):
    assert stops(Pace(last, size, None), clock) == [(until, True) for until in expected]


def test_pieces_of_a_tenth_of_a_second(clock):
    shown = [until for until, _ in stops(Pace(200, None, None), clock, seconds_per_token=0.002)]
    assert shown == [1, 5, 21, 71, 121, 171, 200]


def test_slow_models_show_each_token(clock):
    assert stops(Pace(4, None, None), clock, seconds_per_token=3.0) == [(i, True) for i in (1, 2, 3, 4)]


def test_the_readers_time_does_not_count(clock):
    pace = Pace(100, None, None)
    for expected in (1, 5, 21):
        assert pace.next() == expected
        clock.now += 0.01
        assert pace.is_piece()
        clock.now += 60  # the reader reads


def test_a_deadline_is_looked_at_between_pieces(clock):
    pace = Pace(40, 40, seconds=1.0)
    assert stops(pace, clock, seconds_per_token=0.03) == [(16, False), (32, False), (40, True)]
    assert pace.is_late()
    assert not Pace(40, 40, seconds=None).is_late()


def test_pieces_keep_their_time_where_a_deadline_cuts_them_in_two(clock):
    shown = [until for until, is_shown in stops(Pace(200, None, 60.0), clock, seconds_per_token=0.004) if is_shown]
    sizes = np.diff(shown)[2:-1]
    assert len(sizes) >= 6
    assert abs(sizes - 25).max() <= 1  # 0.1 s at 0.004 s a token


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_another_size_is_an_error_that_names_it(size):
    with pytest.raises(ValueError, match="`tokens_per_piece` must be an integer of at least 1, or None"):
        tokens_between_looks("tokens_per_piece", size)


def test_numpys_integers_are_sizes():
    assert [tokens_between_looks("tokens_per_piece", size) for size in (None, 3, np.int64(3))] == [None, 3, 3]
