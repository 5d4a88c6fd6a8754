"""The logit lens: what a language model would write if it stopped after each block."""

from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from keras_tfm.arguments import require
from keras_tfm.models import Inspection, LanguageModel
from keras_tfm.types import PathLike, Tensor
from keras_tfm.visualization.figures import labels_of, new_figure, save


def logit_lens(model: LanguageModel, inspection: Inspection) -> np.ndarray:
    """Probabilities of the next token, read off the embedding and off each block's hidden states.

    Each goes through the final norm and the head of the model, which learned to read the last ones only: early rows say
    less than they may know.

    Args:
        model: `CausalLM` or `Seq2SeqLM`.
        inspection: of the same model.

    Returns:
        float32 (L + 1, B, T, V). The last row is the model's own answer.

    Raises:
        TypeError: for a model that does not write.

    Example:
        >>> probabilities = logit_lens(model, model.inspect([token_ids]))
        >>> probabilities[:, 0, -1].argmax(axis=-1)  # the likeliest next token after each block

    Reference:
        nostalgebraist 2020, "interpreting GPT: the logit lens"
    """
    if not isinstance(model, LanguageModel):
        raise TypeError(f"`model` must be a `CausalLM` or a `Seq2SeqLM`, which write. Received: {model!r:.80}.")
    norm = model.writing_stack.final_norm
    rows = []
    for state in inspection.hidden_states:
        logits = model.project(state if norm is None else norm(state))
        rows.append(ops.convert_to_numpy(ops.softmax(ops.cast(logits, "float32"), axis=-1)))
    return np.stack(rows)


def plot_logit_lens(
    probabilities: Tensor, tokens: Sequence[str], path: PathLike, token_of: Callable[[int], str], title: str = ""
) -> None:
    """Draws a table: a column for each token that was read, and from below up the likeliest next after each block.

    Args:
        probabilities: float (L + 1, T, V), of one text: `logit_lens(...)[:, 0]`.
        tokens: T str, those that were read.
        path: where to write; the ending chooses the format (.png, .svg, .pdf).
        token_of: id -> str, such as `tokenizer.id_to_token`.
        title: of the picture.

    Raises:
        ValueError: if tokens and probabilities do not fit. ImportError: without matplotlib.
    """
    probabilities = np.asarray(probabilities)
    require(probabilities.ndim == 3, "`probabilities` must have shape (L + 1, T, V)", shape=probabilities.shape)
    num_rows, length, _ = probabilities.shape
    tokens = labels_of("tokens", tokens, length)
    likeliest, chances = probabilities.argmax(axis=-1), probabilities.max(axis=-1)  # (L + 1, T)
    words = [labels_of("token_of", [token_of(int(i)) for i in row], length) for row in likeliest]
    width = 0.085 * max(map(len, (*tokens, *(word for row in words for word in row)))) + 0.25
    figure = new_figure(max(width, 0.6) * length + 2.2, 0.3 * num_rows + 1.6)
    axes = figure.add_subplot()
    image = axes.imshow(chances, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for i, row in enumerate(words):
        for j, word in enumerate(row):
            color = "white" if chances[i, j] > 0.6 else "black"
            axes.text(j, i, word, ha="center", va="center", fontsize=8, color=color, parse_math=False)
    axes.set_xticks(range(length), tokens, fontsize=8, parse_math=False)
    axes.set_yticks(range(num_rows), ["embedding", *(f"block {i}" for i in range(num_rows - 1))], fontsize=8)
    axes.tick_params(length=0)
    axes.set(xlabel="token that was read", title=title or "Likeliest next token")
    figure.colorbar(image, label="probability")
    save(figure, path)
