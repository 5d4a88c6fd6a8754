"""What the labs share: a comparison that says how close two computations are, and a folder for pictures."""

import pathlib
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1]))  # the other examples, on which some labs build


def same(what, by_hand, by_library, tolerance=1e-5):
    """Prints how far two answers lie apart; raises if that is more than sums in another order explain."""
    by_hand, by_library = np.asarray(by_hand, "float64"), np.asarray(by_library, "float64")
    if by_hand.shape != by_library.shape:
        raise AssertionError(f"{what}: shapes {by_hand.shape} by hand and {by_library.shape} by the library")
    distance = np.abs(by_hand - by_library).max()
    if not distance <= tolerance:
        raise AssertionError(f"{what}: {distance:.2g} apart, more than {tolerance}")
    print(f"{what}: by hand and by the library the same, {distance:.1g} apart at most")


def folder_of(path):
    """The folder for a lab's pictures, made if it is not there."""
    folder = pathlib.Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
