"""Questions about contexts in which the answer stands."""

import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.data.labels import check_equally_many, packer_of, warn_of_cut
from keras_tfm.data.token_rows import BLOCK, TokenRows
from keras_tfm.tokenizers import WordPieceTokenizer


def answer_span_dataset(
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[str],
    answer_starts: Sequence[int],
    tokenizer: WordPieceTokenizer,
    sequence_length: int,
    batch_size: int,
    stride: int | None = None,
    length_buckets: bool = True,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of [CLS] question [SEP] context [SEP] with the places of the answer's first and last token, for `fit`.

    A context that is too long is shown in several rows, each of which begins `stride` tokens before the end of the one
    before (see `SentencePacker.windows`). In rows that do not hold the whole answer, and where there is none, both
    places are 0, that of [CLS].

    Args:
        questions: N strings; a question keeps its first (T - 3) // 2 tokens, with a warning.
        contexts: N strings.
        answers: N strings, each a part of its context; "" where there is no answer.
        answer_starts: N integers, the character of the context (as Python counts) at which the answer begins; any
            number where there is none.
        tokenizer: `WordPieceTokenizer` with [PAD], [CLS] and [SEP].
        sequence_length: int, T, at least 5.
        batch_size: int, B. The last batch of an epoch may have fewer rows.
        stride: int, tokens that a row shares with the one before; answers of up to so many tokens are whole in some
            row. Default: a quarter of T, or the most that fits.
        length_buckets, shuffle, seed: see `text_label_dataset`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels): a dict as that of `text_label_dataset`,
        and a dict of "start" and "end", int32 (B,), the places of the first and the last token of the answer.

    Raises:
        ValueError: if the lists are not equally long, an answer is not where it should be, or a number is out of
            range.

    Example:
        >>> context = "Romeo loves Juliet."
        >>> tokenizer = keras_tfm.tokenizers.WordPieceTokenizer.train([context, "Who?"] * 9, 45)
        >>> dataset = answer_span_dataset(["Who?"], [context], ["Juliet"], [12], tokenizer, 16, 1)
        >>> inputs, labels = next(iter(dataset))
        >>> labels["start"].numpy(), labels["end"].numpy()
        (array([6], dtype=int32), array([6], dtype=int32))
    """
    packer = packer_of(tokenizer, sequence_length, smallest=5)
    stride = packer.default_stride if stride is None else stride
    num_questions = check_equally_many(
        questions=questions, contexts=contexts, answers=answers, answer_starts=answer_starts
    )
    spans = np.array(
        [_byte_span(*row) for row in zip(range(num_questions), contexts, answers, answer_starts, strict=True)]
    )
    num_shown = num_cut = 0

    def blocks():
        nonlocal num_shown, num_cut
        for start in range(0, num_questions, BLOCK):
            block = slice(start, start + BLOCK)
            num_long = np.count_nonzero(
                tokenizer(list(questions[block]), add_special_tokens=False).row_lengths() > packer.question_room
            )
            num_cut += int(num_long)
            inputs, rows, starts, ends = packer.windows(list(questions[block]), list(contexts[block]), stride)
            first, last, is_whole = _places(starts.numpy(), ends.numpy(), spans[block][rows.numpy()])
            num_shown += len(np.unique(rows.numpy()[is_whole]))
            yield inputs, {}, {"start": first, "end": last}

    rows = TokenRows.from_blocks(blocks(), tokenizer.pad_token_id, sequence_length)
    what = f"questions, of which {packer.question_room} tokens are read,"
    warn_of_cut(num_cut, num_questions, sequence_length, what)
    if lost := np.count_nonzero(spans[:, 1]) - num_shown:
        warnings.warn(
            f"{lost} of {num_questions} answers are whole in no row. Pass a larger `stride` or `sequence_length`; "
            f"they are {stride} and {sequence_length}.",
            stacklevel=2,
        )
    return rows.dataset(
        lambda inputs, _, row: (inputs, {"start": row["start"], "end": row["end"]}),
        batch_size,
        length_buckets,
        shuffle,
        seed,
    )


def _byte_span(row: int, context: str, answer: str, start: int) -> tuple[int, int]:
    """Where the answer starts and ends in the bytes of its context, without white space around it; (0, 0) for none."""
    if not answer.strip():
        return 0, 0
    start = as_integer(f"answer_starts[{row}]", start, least=0)
    found = context[start : start + len(answer)]
    if found != answer:
        elsewhere = context.find(answer)
        raise ValueError(
            "Each answer must stand in its context at the character that `answer_starts` tells. "
            f"Received: {answer!r}, but at {start} stands {found!r}, in row {row}. "
            + (f"It stands at {elsewhere}." if elsewhere >= 0 else "The context does not hold it.")
        )
    start += len(answer) - len(answer.lstrip())
    first = len(context[:start].encode())
    return first, first + len(answer.strip().encode())


def _places(starts: np.ndarray, ends: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first and last token of each row's answer, 0 where it is not whole, and whether it is.

    Args:
        starts, ends: int32 (W, T), the place of each token in the bytes of its context, -1 for other tokens.
        spans: int (W, 2), those of the answer.
    """
    touches = (starts >= 0) & (ends > spans[:, :1]) & (starts < spans[:, 1:])
    first = np.argmax(touches, axis=1)
    last = touches.shape[1] - 1 - np.argmax(touches[:, ::-1], axis=1)
    row = np.arange(len(starts))
    is_whole = touches.any(axis=1) & (starts[row, first] <= spans[:, 0]) & (ends[row, last] >= spans[:, 1])
    return (np.where(is_whole, first, 0).astype(np.int32), np.where(is_whole, last, 0).astype(np.int32), is_whole)
