"""The loss over the epochs of a training run, as a picture."""

import math
import os
from collections.abc import Mapping, Sequence

from keras_tfm.visualization.figures import new_figure, save


def plot_loss_curve(
    losses: Mapping[str, Sequence[float]], path: str | os.PathLike, baselines: Mapping[str, float] | None = None
) -> None:
    """Draws losses per epoch and saves the picture.

    Args:
        losses: label -> one loss per epoch, in nats per token, as in `History.history`.
        path: where to write; the ending chooses the format (.png, .svg, .pdf).
        baselines: label -> loss of a simpler model, drawn as a horizontal line.

    Raises:
        ValueError: if there is nothing to draw.
        ImportError: without matplotlib (`pip install ".[visualization]"`).

    Example:
        >>> history = model.fit(dataset, validation_data=validation, epochs=5).history
        >>> plot_loss_curve({"training": history["loss"], "validation": history["val_loss"]}, "loss.png")
    """
    if not any(len(values) for values in losses.values()):
        raise ValueError(f"`losses` must hold at least one epoch. Received: losses={dict(losses)!r}.")
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for label, values in losses.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=label)
    for label, value in (baselines or {}).items():
        axes.axhline(value, linestyle="--", linewidth=1, color="gray")
        axes.annotate(
            f"{label} (perplexity {math.exp(value):.0f})",
            (0.99, value),  # at the right, where curves have fallen
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="gray",
        )
    axes.set(xlabel="epoch", ylabel="loss (nats per token)", title="Loss per epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(losses))  # beside the curves, none of which it hides
    save(figure, path)
