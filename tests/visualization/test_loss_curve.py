"""The loss curve is a picture with every curve and baseline in it."""

import matplotlib.figure
import numpy as np
import pytest

from keras_tfm.visualization import plot_loss_curve


def test_it_writes_a_picture_in_the_format_of_the_ending(tmp_path):
    losses = {"training": [5.0, 4.0], "validation": [5.1, 4.5]}
    plot_loss_curve(losses, tmp_path / "loss.svg", baselines={"unigram": 6.3})
    drawn = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert drawn.lstrip().startswith("<?xml")
    plot_loss_curve(losses, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    return figures


def of_positions():
    import position_encodings

    curve = np.array([60.0, 70.0, 120.0, 550.0])
    position_encodings.draw(dict.fromkeys(position_encodings.SCHEMES, curve), "perplexity.png")


@pytest.mark.parametrize("draw", [lambda: plot_loss_curve({"a": [5.0, 4.0], "b": [5.1, 4.5]}, "x.png"), of_positions])
def test_the_legend_hides_no_curve(draw, drawn):
    draw()
    (figure,) = drawn
    figure.draw_without_rendering()  # which lays it out
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_legend() is None
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_nothing_to_draw_raises(tmp_path):
    with pytest.raises(ValueError, match=r"losses=\{'training': \[\]\}"):
        plot_loss_curve({"training": []}, tmp_path / "loss.png")
    assert not list(tmp_path.iterdir())
