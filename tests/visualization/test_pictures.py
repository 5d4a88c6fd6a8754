"""Pictures are drawn of what arrays say, with the tokens beside them; what does not fit is refused by name."""

import matplotlib.figure
import numpy as np
import pytest

from keras_tfm.layers import (
    AlibiBias,
    FeedForward,
    PositionEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    SinusoidalEmbedding,
)
from keras_tfm.ops import relative_position_buckets
from keras_tfm.visualization import (
    attention_rollout,
    logit_lens,
    plot_attention,
    plot_embeddings,
    plot_heads,
    plot_logit_lens,
    plot_positions,
    principal_components,
    t_sne,
    write_projector,
)
from tests.models import tiny, tiny_seq2seq

RNG = np.random.default_rng(0)
WEIGHTS = RNG.dirichlet(np.ones(5), size=(3, 6, 4)).astype("float32")  # (L, N, T, S)
QUERIES, KEYS = ["a", "\n", "$x$", "d"], ["v", "w", "x", "y", "z"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, laid out."""
    figures = []

    def keep(figure, *args, **options):
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


def panels(figure):
    """The axes that show an image, without the bar of colors."""
    return [axes for axes in figure.axes if axes.images and axes.get_visible()]


def test_heat_maps_show_each_heads_weights_with_the_tokens_beside_them(drawn):
    plot_attention(WEIGHTS[0], QUERIES, "x.png", key_tokens=KEYS, title="Block 0")
    maps = panels(drawn[0])
    for axes, weights in zip(maps, WEIGHTS[0], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["a", "⏎", "$x$", "d"]
    assert [label.get_text() for label in maps[-1].get_xticklabels()] == KEYS
    assert all(axes.images[0].norm.vmax == WEIGHTS[0].max() for axes in maps)  # heads can be compared


def test_the_overview_has_a_map_for_each_head_of_each_block(drawn):
    plot_heads([WEIGHTS[0], WEIGHTS[1, :2]], "x.png")
    assert len(panels(drawn[0])) == 6 + 2


def test_pictures_of_attention_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(
        ValueError, match=r"`tokens` must hold a str for each of the 4 places.* Received: tokens='abcd'"
    ):
        plot_attention(WEIGHTS[0], "abcd", tmp_path / "x.png", key_tokens=KEYS)
    with pytest.raises(ValueError, match=r"`tokens` must hold a str for each of the 5 places"):
        plot_attention(WEIGHTS[0], QUERIES, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"`weights` must have shape \(N, T, S\).* Received: shape=\(3, 6, 4, 5\)"):
        plot_attention(WEIGHTS, QUERIES, tmp_path / "x.png", key_tokens=KEYS)
    with pytest.raises(ValueError, match=r"`attention_weights` must hold a block's at least"):
        plot_heads([], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_rollout_is_the_product_of_the_papers_matrices():
    weights = RNG.dirichlet(np.ones(4), size=(3, 2, 5, 4))  # (L, B, N, T, T)
    rollout = attention_rollout(list(weights))
    for b, answer in enumerate(rollout):
        first, second, third = (0.5 * block[b].mean(axis=0) + 0.5 * np.eye(4) for block in weights)
        np.testing.assert_allclose(answer, third @ second @ first, atol=1e-6)
    np.testing.assert_allclose(rollout.sum(axis=-1), 1.0, atol=1e-6)
    with pytest.raises(ValueError, match=r"over the sequence itself\. Received: shapes=\[\(6, 4, 5\)"):
        attention_rollout(list(WEIGHTS))


@pytest.mark.parametrize(
    "layer",
    [
        SinusoidalEmbedding(16),
        PositionEmbedding(20, 8),
        RotaryEmbedding(),
        RotaryEmbedding(interleaved=True, rotary_dim=8),
        AlibiBias(6),
        RelativePositionBias(4, bidirectional=False),
    ],
    ids=lambda layer: layer.name,
)
def test_every_position_layer_is_drawn_as_it_computes(layer, drawn):
    plot_positions(layer, "x.png", num_positions=32, head_dim=16)
    (figure,) = drawn
    if isinstance(layer, RotaryEmbedding):
        cosines = figure.axes[0].images[0].get_array()
        np.testing.assert_allclose(cosines[:, 0], np.cos(np.arange(32)), atol=1e-5)  # the first turns by 1 a position
        assert figure.axes[1].lines[0].get_ydata()[0] == pytest.approx(1.0)
    elif isinstance(layer, AlibiBias):
        steepest = figure.axes[0].lines[0].get_ydata()
        np.testing.assert_allclose(steepest, -0.25 * np.arange(32), atol=1e-6)
    elif isinstance(layer, RelativePositionBias):
        distances, buckets = figure.axes[0].lines[0].get_data()
        np.testing.assert_array_equal(buckets, relative_position_buckets(distances.astype("int32"), 32, 128, False))
    else:
        assert figure.axes[0].images[0].get_array().shape == ((32, 16) if layer.name.startswith("sin") else (20, 8))


def test_another_layer_has_no_positions_to_draw():
    with pytest.raises(TypeError, match=r"`layer` must be one of `SinusoidalEmbedding`, .* Received: <FeedForward"):
        plot_positions(FeedForward(8), "x.png")


def test_principal_components_keep_the_greatest_differences():
    directions = np.linalg.qr(RNG.normal(size=(7, 7)))[0][:2]
    points = RNG.normal(size=(30, 2)) * [5.0, 1.0]
    found = principal_components(points @ directions + 3.0)
    centered = points - points.mean(axis=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(centered, axis=1), atol=1e-4)
    assert found[:, 0].var() > 10 * found[:, 1].var()
    assert (found[np.abs(found).argmax(axis=0), [0, 1]] > 0).all()
    with pytest.raises(ValueError, match=r"`num_components` must be at most.* Received: num_components=8"):
        principal_components(np.ones((30, 7)), 8)


def test_t_sne_keeps_two_groups_apart():
    pytest.importorskip("sklearn", reason="t-SNE is scikit-learn's, which is not installed")
    vectors = np.concatenate([RNG.normal(size=(12, 5)), RNG.normal(size=(12, 5)) + 20])
    points = t_sne(vectors)
    within = np.linalg.norm(points[:12] - points[:12].mean(axis=0), axis=1).max()
    assert np.linalg.norm(points[:12].mean(axis=0) - points[12:].mean(axis=0)) > within


def test_points_have_their_labels_and_groups_their_colors(drawn):
    plot_embeddings(RNG.normal(size=(4, 2)), QUERIES, "x.png", groups=["u", "u", "v", "v"])
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["a", "⏎", "$x$", "d"]
    assert [len(points.get_offsets()) for points in axes.collections] == [2, 2]
    with pytest.raises(ValueError, match=r"`labels` must hold a str for each of the 4 places"):
        plot_embeddings(RNG.normal(size=(4, 2)), ["a"], "x.png")


def test_the_projector_gets_a_line_for_each_vector(tmp_path):
    vectors = RNG.normal(size=(4, 3)).astype("float32")
    write_projector(tmp_path / "run", vectors, ["a\tb", "c\nd", "", "é"])
    rows = [line.split("\t") for line in (tmp_path / "run" / "vectors.tsv").read_text().splitlines()]
    np.testing.assert_allclose(np.array(rows, float), vectors, rtol=1e-5)
    lines = (tmp_path / "run" / "metadata.tsv").read_text(encoding="utf-8").split("\n")
    assert lines == ["a⇥b", "c⏎d", " ", "é", ""]
    assert 'tensor_path: "vectors.tsv"' in (tmp_path / "run" / "projector_config.pbtxt").read_text()


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_the_last_row_of_the_logit_lens_is_the_models_answer(kind):
    if kind == "decoder":
        model, inputs = tiny.make("gemma2"), tiny.batch()[0]  # with a final norm, capped logits, a scaled embedding
    else:
        model, inputs = tiny_seq2seq.make("transformer"), tiny_seq2seq.batch()[0]
    inspection = model.inspect(inputs)
    lens = logit_lens(model, inspection)
    assert lens.shape == (len(inspection.hidden_states), *inspection.outputs.shape)
    odds = np.exp(inspection.outputs - inspection.outputs.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(lens[-1], odds / odds.sum(axis=-1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(lens.sum(axis=-1), 1.0, atol=1e-5)


def test_the_logit_lens_is_drawn_from_below_up(drawn):
    probabilities = RNG.dirichlet(np.ones(7), size=(3, 4))
    plot_logit_lens(probabilities, QUERIES, "x.png", token_of="stuvw\n$".__getitem__)
    axes = drawn[0].axes[0]
    likeliest = ["stuvw⏎$"[i] for i in probabilities.argmax(axis=-1).ravel()]
    assert [text.get_text() for text in axes.texts] == likeliest
    assert axes.get_ylim()[0] < axes.get_ylim()[1]
    with pytest.raises(TypeError, match=r"which write\. Received: <FeedForward"):
        logit_lens(FeedForward(8), None)
