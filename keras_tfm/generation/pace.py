"""How many tokens a stream yields at a time: few enough to read along, enough that pausing the loop costs little."""

import time
from typing import Any

from keras_tfm.arguments import as_integer

SECONDS_PER_PIECE = 0.1  # people read some five words a second
_FASTEST_GROWTH = 4  # from the first token, which is shown by itself, to full pieces
_TOKENS_BETWEEN_CLOCK_READINGS = 16


def tokens_between_looks(name: str, num_tokens: Any) -> int | None:
    """Tokens between two looks at a text, as the caller gave them in the argument `name`, checked."""
    note = f", or None for as many as take {SECONDS_PER_PIECE} seconds"
    return None if num_tokens is None else as_integer(name, num_tokens, 1, note)


class Pace:
    """Where the compiled loop comes back to Python.

    Args:
        last: int, the most new tokens of a row.
        tokens_per_piece: int >= 1, or None for as many as take `SECONDS_PER_PIECE`.
        seconds: float, after which the clock says stop, or None.
    """

    def __init__(self, last: int, tokens_per_piece: int | None, seconds: float | None):
        self.last = last
        self.is_timed = tokens_per_piece is None
        self.size = 1 if tokens_per_piece is None else tokens_per_piece
        self.shown = last if self.size >= last else 1
        self.until = self.num_tokens = 0
        self.begun = time.monotonic()
        self.deadline = None if seconds is None else self.begun + seconds

    def next(self) -> int:
        """Up to how many new tokens the loop decodes now."""
        ahead = self.last if self.deadline is None else self.until + _TOKENS_BETWEEN_CLOCK_READINGS
        until = min(self.shown, ahead)
        self.num_tokens, self.until, self.begun = until - self.until, until, time.monotonic()
        return until

    def is_late(self) -> bool:
        """Whether time has run out."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def is_piece(self) -> bool:
        """Whether a piece is due; to be asked once, before the reader takes its time."""
        if self.until < self.shown:
            return False
        if self.is_timed:
            fitting = self.num_tokens * SECONDS_PER_PIECE / max(time.monotonic() - self.begun, 1e-6)
            self.size = max(1, min(int(fitting), self.size * _FASTEST_GROWTH))
        self.shown = min(self.until + self.size, self.last)
        return True
