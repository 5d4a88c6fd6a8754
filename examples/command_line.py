"""What the command lines of the examples have in common."""

import argparse


def positive(text: str) -> int:
    """A number of steps, tokens or characters; argparse refuses 0 and less before anything is loaded."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Received: {number}.")
    return number
