"""Text without end: files and datasets larger than memory to batches of token ids, from any place on."""

import hashlib
import itertools
import json
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfm import compat
from keras_tfm.arguments import as_integer, require
from keras_tfm.data.documents import token_ids_of
from keras_tfm.data.epochs import prefetched, set_position
from keras_tfm.data.sources import PIECE, Examples, Files

_REMEMBERED = 1024  # blocks whose places are kept


def stream(
    files: str | os.PathLike | list[str | os.PathLike] | Any,
    tokenizer: Callable[[list], tf.RaggedTensor],
    sequence_length: int,
    batch_size: int,
    column: str = "text",
    form: str | None = None,
    document: str = "file",
    shuffle_rows: int = 1024,
    seed: int = 0,
    num_epochs: int | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    on_error: str = "raise",
) -> tf.data.Dataset:
    """Batches of token ids and next ids from text of any size, read while a model trains.

    Documents are tokenized a million bytes at a time, put one after another, each followed by the tokenizer's end of
    text, and cut into rows of `sequence_length` + 1 tokens that share one with the next, as `pack` does. What is in
    memory does not grow with the text: a piece of a file, and three times `shuffle_rows` rows.

    `fit` needs `steps_per_epoch`. `training.Checkpointer` saves the place in the text: which piece of which file, and
    which tokens of it. A run that goes on opens that file there, and reads no more than `shuffle_rows` rows again; of a
    compressed file it has to decompress what comes before.

    Args:
        files: a file or a pattern such as "data/*.parquet", on this machine or behind any address that `fsspec` knows
            ("s3://...", "hf://..."), or a list of these; or a dataset of another library, whose examples are
            texts or have one in `column`: anything with `len` and numbers (a list of dicts, a `datasets.Dataset`, a
            `grain.MapDataset`), or with a state (a `datasets.IterableDataset`, a `grain.IterDataset`). Names that end
            in .gz, .bz2, .xz or .zst are decompressed.
        tokenizer: maps a list of n strings to an integer RaggedTensor (n, tokens), as for `pack`.
        sequence_length: int, T.
        batch_size: int, B, rows of all shards together.
        column: which field of JSON lines, or column of parquet, is the text.
        form: "text", "json" (an object a line) or "parquet"; None goes by the ending of the name, .jsonl, .ndjson,
            .json or .parquet, and takes anything else for text.
        document: "file" or "line", which of them is a document in files of text.
        shuffle_rows: int, so many rows at a time come in an order that the seed decides, and files in an order that
            (seed, epoch) decide; 0 leaves everything in its own order. Examples of datasets come in their own.
        seed: int.
        num_epochs: int, the stream ends after so many passes; None: it never does. What is left at its end, fewer than
            T tokens, is dropped.
        shard_index, num_shards: this process gets its share of the pieces of text, each piece goes to one, and
            B / `num_shards` rows a batch. Among `training.workers`, pass `them.index` and `them.count`; without, each
            of them reads and tokenizes everything and takes its share of the rows.
        on_error: "raise", or "skip", which leaves out lines and files that cannot be read, and logs each by its name.

    Returns:
        tf.data.Dataset of (token_ids, next_ids), int32 (B / `num_shards`, T) each, prefetched; endless unless
        `num_epochs` is given.

    Raises:
        FileNotFoundError: if no file has a name, or fits a pattern.
        ValueError: if a number or a word is out of range; while it is read, as an error of TensorFlow, for a line or a
            file that cannot be read, and if there is no text.
        ImportError: if fsspec or, for parquet and zstd, pyarrow is missing: the extra "stream".

    Example:
        >>> data = keras_tfm.data.stream("fineweb/*.parquet", tokenizer, sequence_length=1024, batch_size=16)
        >>> checkpointer = keras_tfm.training.Checkpointer("run", data, every_steps=500)
        >>> model.fit(data, steps_per_epoch=10_000, epochs=5, shuffle=False, callbacks=[checkpointer])
    """
    sequence_length = as_integer("sequence_length", sequence_length, least=1)
    batch_size = as_integer("batch_size", batch_size, least=1)
    shuffle_rows = as_integer("shuffle_rows", shuffle_rows, least=0)
    num_shards = as_integer("num_shards", num_shards, least=1)
    shard_index = as_integer("shard_index", shard_index, least=0)
    if num_epochs is not None:
        num_epochs = as_integer("num_epochs", num_epochs, least=1)
    require(
        shard_index < num_shards, "`shard_index` must be below `num_shards`", shard_index=shard_index, shards=num_shards
    )
    require(
        batch_size % num_shards == 0, "`num_shards` must divide `batch_size`", batch_size=batch_size, shards=num_shards
    )
    require(form in (None, "text", "json", "parquet"), '`form` must be "text", "json" or "parquet"', form=form)
    require(document in ("file", "line"), '`document` must be "file" or "line"', document=document)
    require(on_error in ("raise", "skip"), '`on_error` must be "raise" or "skip"', on_error=on_error)
    source = Files(files, column, form, document, on_error) if _are_names(files) else Examples(files, column)
    rows = _Rows(
        source,
        tokenizer,
        sequence_length,
        as_integer("seed", seed, least=0),
        num_epochs,
        (shard_index, num_shards),
        is_shuffled=shuffle_rows > 0,
    )
    own_size = batch_size // num_shards
    position = StreamPosition(rows, own_size, max(1, -(-shuffle_rows // batch_size)))
    spec = tf.TensorSpec([None, sequence_length + 1], tf.int32)
    blocks = tf.data.Dataset.from_generator(position.blocks, output_signature=spec)
    is_endless = num_epochs is None  # then each batch is a whole one, of known size
    dataset = prefetched(blocks, 1).flat_map(
        lambda block: tf.data.Dataset.from_tensor_slices(block).batch(own_size, drop_remainder=is_endless)
    )
    dataset = dataset.map(lambda ids: (ids[:, :-1], ids[:, 1:]))
    if is_endless:
        dataset = compat.with_cardinality(dataset, tf.data.INFINITE_CARDINALITY)
    dataset = prefetched(dataset)
    set_position(dataset, position)
    return dataset


class StreamPosition:
    """Which batch is the first that a stream gives when it is read, and where its text is.

    Rows come in blocks, each of them shuffled by itself; the text of a block begins at a place that was noted when the
    block before was read. So a place in the data is that of a block, and the number of a batch.

    Args:
        rows: where rows are made.
        batch_size: int, rows of a batch of this shard.
        batches_in_block: int.
    """

    start = 0
    num_batches: int | None = None  # no epochs

    def __init__(self, rows: "_Rows", batch_size: int, batches_in_block: int):
        self.shard = rows.shard if rows.shard[1] > 1 else None
        self._rows = rows
        self._batch_size = batch_size
        self._batches_in_block = batches_in_block
        self._places: OrderedDict[int, dict] = OrderedDict({0: {}})  # of blocks
        self._begin: tuple[int, dict] = (0, {})

    def sizes(self) -> set[int]:
        """How many rows batches have."""
        return {self._batch_size}

    def note(self, batch: int) -> str:
        """What `seek` must be told to find this batch again, of those that were read."""
        place = self._places.get(batch // self._batches_in_block)
        if place is None:
            raise RuntimeError(
                f"A place must be noted while it is read, with at most {_REMEMBERED:,} blocks of `shuffle_rows` rows "
                f"fetched ahead. Received: batch {batch}. Prefetch fewer batches."
            )
        return json.dumps({"place": place, **self._described()})

    def seek(self, batch: int, note: str | None = None) -> None:
        """Whoever reads the dataset from now on begins with this batch; `note` is what `note` gave for it."""
        place: dict = {}
        if batch:
            require(note is not None, "A stream must be told where a batch is", batch=batch, note=note)
            noted = json.loads(note or "")
            place = noted.pop("place")
            require(
                noted == self._described(),
                "A stream must be read on as it was read, with the same files, sizes, seed and shard",
                saved=noted,
                now=self._described(),
            )
        self._places[batch // self._batches_in_block] = place
        self._begin = batch, place

    def blocks(self) -> Iterator[np.ndarray]:
        """int32 (rows, T + 1): the blocks of rows from the first batch on, shuffled."""
        batch, place = self._begin
        first, before = divmod(batch, self._batches_in_block)
        wanted = self._batches_in_block * self._batch_size
        blocks = self._rows.blocks(place, wanted)
        for number, (block, after) in zip(itertools.count(first), blocks, strict=False):
            self._places[number + 1] = after
            while len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
            if self._rows.is_shuffled:
                block = np.random.Generator(np.random.Philox(key=[self._rows.seed, number])).permutation(block)
            yield block[before * self._batch_size :]
            before = 0

    def _described(self) -> dict:
        """What a place has a meaning for."""
        text = json.dumps([self._rows.described, self._batch_size, self._batches_in_block])
        return {"data": hashlib.sha256(text.encode()).hexdigest()[:16], "shard": list(self._rows.shard)}


class _Rows:
    """Rows of tokens from pieces of text, from any place on.

    A place is {"epoch", "piece" (its number in the epoch), "place" (the source's own), "tokens" (of it, that rows
    before have used)}, or {} for the beginning.
    """

    def __init__(
        self,
        source: Files | Examples,
        tokenizer: Callable[[list], tf.RaggedTensor],
        sequence_length: int,
        seed: int,
        num_epochs: int | None,
        shard: tuple[int, int],
        is_shuffled: bool,
    ):
        self.seed = seed
        self.shard = shard
        self.is_shuffled = is_shuffled
        self.described = [source.described, sequence_length, seed, num_epochs, is_shuffled]
        self._source = source
        self._tokenizer = tokenizer
        self._sequence_length = sequence_length
        self._num_epochs = num_epochs

    def blocks(self, place: dict, num_rows: int) -> Iterator[tuple[np.ndarray, dict]]:
        """int32 (`num_rows`, T + 1) from a place on, the last with fewer rows, and the place after each."""
        length, read = self._sequence_length, self._pieces(place)
        held: deque[tuple[dict, np.ndarray]] = deque()  # pieces that were read, and are not used up
        used, available = place.get("tokens", 0), -place.get("tokens", 0)
        at_end = False
        while not at_end:
            while available <= num_rows * length and not at_end:
                piece = next(read, None)
                at_end = piece is None
                if piece is not None:
                    held.append(piece)
                    available += len(piece[1])
            count = min(num_rows, (available - 1) // length)
            if count < 1:
                return
            tokens = np.concatenate([ids for _, ids in held])[used : used + count * length + 1]
            used += count * length
            available -= count * length
            while used >= len(held[0][1]):
                used -= len(held.popleft()[1])
            starts = np.arange(count)[:, None] * length
            yield tokens[starts + np.arange(length + 1)], {**held[0][0], "tokens": used}

    def _pieces(self, place: dict) -> Iterator[tuple[dict, np.ndarray]]:
        """(place, int32 (tokens,)) of each piece of this shard, epoch after epoch."""
        index, count = self.shard
        begin = place.get("epoch", 0)
        for epoch in itertools.count(begin) if self._num_epochs is None else range(begin, self._num_epochs):
            is_going_on = epoch == begin and bool(place)
            is_empty = not is_going_on
            pieces = self._source.pieces(
                epoch, place["place"] if is_going_on else None, self.seed if self.is_shuffled else None
            )
            for number, piece in enumerate(pieces, place["piece"] if is_going_on else 0):
                if number % count != index:
                    continue
                documents = list(piece.documents())
                if count > 1:  # what follows in the file is somebody else's: a document ends with each piece
                    documents = [text for text in documents if text]
                if not documents:
                    continue
                ids = token_ids_of(documents, self._tokenizer, ends=piece.ends or count > 1)
                if len(ids):
                    is_empty = False
                    yield {"epoch": epoch, "piece": number, "place": piece.place}, ids
            if is_empty:
                raise ValueError(
                    f"There must be text in `files`, and a piece of {PIECE:,} bytes for each shard. Received none "
                    f"in epoch {epoch} for shard {index} of {count}."
                )


def _are_names(files: Any) -> bool:
    """Whether `files` are names of files, and not a dataset."""
    if isinstance(files, str | os.PathLike):
        return True
    return isinstance(files, list | tuple) and all(isinstance(file, str | os.PathLike) for file in files)
