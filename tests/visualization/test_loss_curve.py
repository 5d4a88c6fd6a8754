"""The loss curve is a picture with every curve and baseline in it."""

import pytest

from keras_tfm.visualization import plot_loss_curve


def test_it_writes_a_picture_in_the_format_of_the_ending(tmp_path):
    losses = {"training": [5.0, 4.0], "validation": [5.1, 4.5]}
    plot_loss_curve(losses, tmp_path / "loss.svg", baselines={"unigram": 6.3})
    drawn = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert drawn.lstrip().startswith("<?xml")
    plot_loss_curve(losses, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_raises(tmp_path):
    with pytest.raises(ValueError, match=r"losses=\{'training': \[\]\}"):
        plot_loss_curve({"training": []}, tmp_path / "loss.png")
    assert not list(tmp_path.iterdir())
