"""What the command lines of the examples have in common."""

import argparse


def positive(text: str) -> int:
    """A number of steps, tokens or characters; argparse refuses 0 and less before anything is loaded."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A number that may be 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}. Received: {number}.")
    return number
