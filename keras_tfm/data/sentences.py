"""Documents as one row of tokens, cut into sentences and into chunks of whole sentences."""

import re
from typing import Any, NamedTuple

import numpy as np

from keras_tfm.data.documents import blocks, read_documents
from keras_tfm.tokenizers import WordPieceTokenizer

_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\s*\n\s*")


class Sentences(NamedTuple):
    """The tokens of all documents in one row; documents and sentences without tokens are left out.

    Args:
        token_ids: int32 array (N,).
        ends: int64 array (S,), where each sentence ends.
        document_ends: int64 array (documents,), where each document ends.
    """

    token_ids: np.ndarray
    ends: np.ndarray
    document_ends: np.ndarray


class Chunks(NamedTuple):
    """Stretches of the row that become examples.

    Args:
        begins, ends: int64 arrays (C,).
        cuts: int64 array, the places inside each chunk where it may be cut in two, all one after another.
        cut_splits: int64 array (C + 1,), where those of each chunk begin and end in `cuts`.
        document_ends: int64 array (C,), where the document of each chunk ends in the row.
        siblings: int64 array (C, 2), the first chunk of the same document, and how many there are.
    """

    begins: np.ndarray
    ends: np.ndarray
    cuts: np.ndarray
    cut_splits: np.ndarray
    document_ends: np.ndarray
    siblings: np.ndarray


def read_sentences(texts_or_files: Any, tokenizer: WordPieceTokenizer) -> Sentences:
    """Tokenizes documents sentence by sentence. A sentence ends at a line end, or at . ! ? before white space.

    Args:
        texts_or_files: see `pack`.
        tokenizer: WordPieceTokenizer.

    Raises:
        ValueError: if there is no text.
    """
    pieces, lengths, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], []
    for documents in blocks(read_documents(texts_or_files)):
        sentences = []
        for document in documents:
            text = document.decode("utf-8", "replace") if isinstance(document, bytes) else document
            found = [sentence for sentence in _SENTENCE_END.split(text) if sentence]
            sentences += found
            counts.append(len(found))
        rows = tokenizer(sentences, add_special_tokens=False)
        pieces.append(rows.values.numpy())
        lengths.append(rows.row_lengths().numpy())
    ends = np.cumsum(np.concatenate(lengths))
    # Where each document ends: with its last sentence.
    document_ends = np.append(0, ends)[np.cumsum(counts, dtype=np.int64)]
    token_ids = np.concatenate(pieces)
    if not token_ids.size:
        raise ValueError(f"There must be text in `texts_or_files`. Received: {repr(texts_or_files)[:60]}.")
    return Sentences(token_ids, np.unique(ends[ends > 0]), np.unique(document_ends[document_ends > 0]))


def chunks_of_documents(sentences: Sentences, begins_word: np.ndarray, length: int) -> Chunks:
    """Chunks of at most `length` tokens that can be cut in two, each of whole sentences of one document.

    A sentence that is longer than a chunk is cut. A chunk of several sentences may be cut between these, one of a
    single sentence between words; one of a single word is left out.

    Args:
        sentences: Sentences.
        begins_word: bool array (N,), whether a word begins at each token.
        length: int.
    """
    begins, ends, cuts, counts, documents = [], [], [], [], []
    for begin, end, document in _filled(sentences, length):
        inside = sentences.ends[np.searchsorted(sentences.ends, begin, "right") : np.searchsorted(sentences.ends, end)]
        if not inside.size:
            inside = begin + 1 + np.flatnonzero(begins_word[begin + 1 : end])
        if inside.size:
            begins.append(begin)
            ends.append(end)
            cuts.append(inside)
            counts.append(inside.size)
            documents.append(document)
    _, first, which, siblings = np.unique(documents, return_index=True, return_inverse=True, return_counts=True)
    return Chunks(
        np.array(begins, np.int64),
        np.array(ends, np.int64),
        np.concatenate([np.zeros(0, np.int64), *cuts]),
        np.cumsum([0, *counts]),
        sentences.document_ends[np.array(documents, np.int64)],
        np.stack([first[which], siblings[which]], axis=1).astype(np.int64),
    )


def full_chunks(sentences: Sentences, separator_id: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chunks of at most `length` tokens that run on over the ends of documents, with a separator between these.

    Returns:
        token ids with separators (N',), begins and ends (C,).
    """
    inner = sentences.document_ends[:-1]
    token_ids = np.insert(sentences.token_ids, inner, separator_id)
    # A separator belongs to the sentence before it.
    ends = sentences.ends + np.searchsorted(inner, sentences.ends, "right")
    row = Sentences(token_ids, ends, np.array([token_ids.size]))
    places = np.array([(begin, end) for begin, end, _ in _filled(row, length)], np.int64)
    begins, ends = places[:, 0], places[:, 1]
    separators = inner + np.arange(inner.size)  # none at either end of a chunk
    begins, ends = begins + np.isin(begins, separators), ends - np.isin(ends - 1, separators)
    return token_ids, begins[begins < ends], ends[begins < ends]


def _filled(sentences: Sentences, length: int):
    """(begin, end, number of the document): as many sentences as fit each time, those that are too long cut."""
    begin = 0
    for document, document_end in enumerate(sentences.document_ends.tolist()):
        while begin < document_end:
            limit = min(begin + length, document_end)
            fits = np.searchsorted(sentences.ends, limit, "right") - 1  # the last sentence that ends by then
            end = int(sentences.ends[fits]) if fits >= 0 else 0
            end = end if end > begin else limit
            yield begin, end, document
            begin = end
