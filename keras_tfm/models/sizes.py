"""Sizes of models by name: a row of a builder's table, with the caller's numbers in place of the row's."""

from keras_tfm.arguments import as_integer


def size_of(table: dict, size: str | None, **numbers) -> dict:
    """Merges a named row and the numbers given.

    Args:
        table: name -> row, a dict of numbers.
        size: a name in `table`, or None.
        numbers: what replaces the row's numbers; None = as in the row.

    Returns:
        dict with every key of `numbers`.

    Raises:
        ValueError: for an unknown name, missing numbers, or numbers that are not positive.
    """
    if size is not None and size not in table:
        raise ValueError(f"`size` must be one of {sorted(table)}, or None with numbers. Received: size={size!r}.")
    given = {name: number for name, number in numbers.items() if number is not None}
    merged = {**table.get(size, {}), **given}
    missing = [name for name in numbers if name not in merged]
    if missing:
        raise ValueError(
            f"A model needs a size name or all of its numbers. Received: size={size!r} without {missing}. "
            f"Pass them, or one of {sorted(table)}."
        )
    return {**merged, **{name: as_integer(name, number, 1) for name, number in given.items()}}
