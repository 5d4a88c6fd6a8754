"""A text that goes on between calls: what has been read stays in the cache."""

from collections.abc import Iterator

import numpy as np

from keras_tfm.generation.runner import Memory
from keras_tfm.samplers.state import take_rows


class TextSession:
    """A growing text, for example a chat: each call reads only what is new. Made by `TextGenerator.session()`.

    Called with a str, the session reads it, writes, and remembers both. Called with a list, each prompt goes on from
    here, side by side, and the session stays where it is: a shared system prompt is read once for all. If the model is
    changed between calls (an adapter, 8 bits, another part), all is read again; what other values of its weights would
    make of the text so far, the session does not ask: begin a new one after training.

    Args:
        writer: `TextGenerator`.
        token_ids: ids to begin with.

    Example:
        >>> chat = writer.session("You are Shakespeare.\\n")
        >>> chat("User: Who are you?\\nYou:", stop_strings=["User:"])
        >>> chat("User: Prove it.\\nYou:", stop_strings=["User:"])  # reads this line only
        >>> chat(["User: Sing!\\nYou:", "User: Cry!\\nYou:"])  # two ways to go on
    """

    def __init__(self, writer, token_ids=(), memory: Memory | None = None):
        self._writer = writer
        self._newest_memory = memory
        self.token_ids = np.asarray(token_ids, "int32")

    @property
    def text(self) -> str:
        """All that was read and written so far."""
        return self._writer.tokenizer.decode(self.token_ids)

    @property
    def num_remembered(self) -> int:
        """Tokens in the cache; the others are read with the next call."""
        return 0 if self._memory is None else len(self._memory.token_ids)

    @property
    def _memory(self) -> Memory | None:
        """What the model has read; None if it has been changed since, so that all is read again."""
        memory = self._newest_memory
        is_valid = memory is not None and memory.version == self._writer.model.generation_runner.version()
        return memory if is_valid else None

    def fork(self) -> "TextSession":
        """A session that goes on from here by itself; nothing is read again."""
        return TextSession(self._writer, self.token_ids, self._memory)

    def __call__(self, prompts, max_new_tokens: int = 64, **options):
        """Goes on with a prompt, or with several from the same place.

        Args:
            prompts: str, or list of str.
            max_new_tokens, **options: as in `TextGenerator.generate`; guidance and several texts for a prompt excepted.

        Returns:
            str for a str, list of str for a list.
        """
        options = self._options(max_new_tokens, options)
        if not isinstance(prompts, str):
            self._remember_prefix(options)
            ids = [self._unread(ids, options) for ids in self._writer.encode(prompts)]
            *_, last = self._writer.model.generation_runner.run(ids, options, max_new_tokens, self._memory)
            return list(self._writer.with_texts(last.generation, options).texts)
        *_, last = self._run(prompts, options, max_new_tokens)
        return self._writer.with_texts(last, options).texts[0]

    def stream(
        self, prompt: str, max_new_tokens: int = 64, tokens_per_piece: int | None = None, **options
    ) -> Iterator[str]:
        """`__call__` for a str, yielding text as it is written. If it is closed early, the session stays as it was."""
        options = self._options(max_new_tokens, options)
        for _, piece in self._writer.pieces(self._run(prompt, options, tokens_per_piece), options):
            yield piece

    def _options(self, max_new_tokens, options):
        options = self._writer.options(max_new_tokens=max_new_tokens, **options)
        if options.num_return_sequences > 1 or options.guidance_scale is not None:
            raise ValueError(
                "A session writes one text at a time, without guidance. Received: "
                f"num_return_sequences={options.num_return_sequences}, guidance_scale={options.guidance_scale}. "
                "Give a list of prompts, or use `TextGenerator` itself."
            )
        return options

    def _unread(self, new_ids, options):
        """What the model has to read next: at least one token, or it would not know how to go on."""
        ids = np.concatenate([self.token_ids[self.num_remembered :], np.asarray(new_ids, "int32")])
        return ids if len(ids) else np.array([options.start_token_id], "int32")

    def _run(self, prompt, options, tokens_per_step):
        """Yields each `Generation`; after the last one the session has gone on."""
        new_ids = self._unread(self._writer.encode(prompt)[0], options)
        prompt_ids = np.concatenate([self.token_ids[: self.num_remembered], new_ids])
        model = self._writer.model
        for progress in model.generation_runner.run([new_ids], options, tokens_per_step, self._memory):
            yield progress.generation
        last = progress.generation
        self.token_ids = np.concatenate([prompt_ids, last.token_ids[0, : last.num_tokens[0]]])
        if progress.cache is not None:
            # Several rows a prompt share no more than the prompt; the answer is then read again.
            is_single = options.sampler.rows_per_prompt(1) == 1
            self._newest_memory = _memory_of(model, progress.cache, self.token_ids if is_single else prompt_ids)

    def _remember_prefix(self, options) -> None:
        """Reads all but the last token, so that several prompts can go on from here without reading it each."""
        unread = self.token_ids[self.num_remembered : -1]
        if not len(unread):
            return
        model = self._writer.model
        if self._memory is None:
            cache = model.init_cache(1, len(unread), options.cache_dtype)
        else:
            cache = model.extend_cache(self._memory.cache, len(unread))
        _, cache = model.read(unread[None], cache)
        self._newest_memory = _memory_of(model, cache, self.token_ids)


def _memory_of(model, cache, token_ids) -> Memory | None:
    """What a cache (its first row) holds of a text, but for its last token: a call always has one to read."""
    cache = take_rows(cache, np.zeros(1, "int32"))
    num_read = min(model.num_read(cache), len(token_ids) - 1)
    if num_read <= 0:
        return None
    return Memory(token_ids[:num_read], model.forget(cache, num_read), model.generation_runner.version())
