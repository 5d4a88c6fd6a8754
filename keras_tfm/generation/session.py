"""A text that continues between calls: its KV caches are kept, and each call prefills only what is new."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tfm.generation.pace import tokens_between_looks
from keras_tfm.generation.prompts import text_of
from keras_tfm.generation.runner import Prefix
from keras_tfm.types import Tensor

if TYPE_CHECKING:
    from keras_tfm.generation.text_generator import TextGenerator  # which makes sessions


class TextSession:
    """A growing text, for example a chat: each call prefills only what is new. Made by `TextGenerator.session()`.

    Called with a str, the session reads it, generates, and remembers both. Called with a list, each prompt continues
    from here, side by side, and the session stays where it is: a shared system prompt is prefilled once for all. If the
    model is changed between calls (an adapter, 8 bits, another part), all is read again. Other values of its weights
    are not noticed: begin a new session after training.

    A stop string or stop token is in neither the answer nor what is remembered: where a chat template ends each turn
    with a token, begin the next prompt with it. `cache_dtype`, once given, holds for later calls too.

    Args:
        writer: `TextGenerator`.
        token_ids: ids to begin with.

    Example:
        >>> chat = writer.session("You are Shakespeare.\\n")
        >>> chat("User: Who are you?\\nYou:", stop_strings=["User:"])
        >>> chat("User: Prove it.\\nYou:", stop_strings=["User:"])  # reads this line only
        >>> chat(["User: Sing!\\nYou:", "User: Cry!\\nYou:"])  # two ways to go on
    """

    def __init__(
        self,
        writer: "TextGenerator",
        token_ids: Tensor = (),
        prefix: Prefix | None = None,
        cache_dtype: str | None = None,
    ):
        self._writer = writer
        self._newest_prefix = prefix
        self._cache_dtype = cache_dtype
        self.token_ids = np.asarray(token_ids, "int32")

    @property
    def text(self) -> str:
        """All tokens so far, read and generated."""
        return self._writer.tokenizer.decode(self.token_ids)

    @property
    def num_remembered(self) -> int:
        """Tokens that the model has read; the others are read with the next call."""
        prefix = self._prefix
        return 0 if prefix is None else len(prefix.token_ids)

    @property
    def _prefix(self) -> Prefix | None:
        """What the model has read; None if it has been changed since, so that all is read again."""
        prefix = self._newest_prefix
        is_valid = prefix is not None and prefix.version == self._writer.model.generation_runner.version()
        return prefix if is_valid else None

    def fork(self) -> "TextSession":
        """A copy of the session that continues on its own; nothing is prefilled again."""
        return TextSession(self._writer, self.token_ids, self._newest_prefix, self._cache_dtype)

    def __call__(self, prompts: str | Iterable[str], max_new_tokens: int = 64, **options: Any) -> str | list[str]:
        """Continues with a prompt, or with several from the same place.

        Args:
            prompts: str, or list of str.
            max_new_tokens, **options: as in `TextGenerator.generate`; guidance and several texts for a prompt excepted.

        Returns:
            str for a str, list of str for a list.
        """
        checked = self._options(max_new_tokens, options)
        if isinstance(prompts, str):
            *_, last = self._run(prompts, checked, max_new_tokens)
            return self._texts(last, checked)[0]
        self._remember_all(checked)
        new_ids = self._writer.encode(prompts, begins_text=not len(self.token_ids))
        prefix = self._before(min(map(len, new_ids), default=0))
        ids = [self._unread(ids, prefix, checked) for ids in new_ids]
        *_, last = self._writer.model.generation_runner.run(ids, checked, max_new_tokens, prefix)
        return self._texts(last.generation, checked)

    def stream(
        self, prompt: str, max_new_tokens: int = 64, tokens_per_piece: int | None = None, **options: Any
    ) -> Iterator[str]:
        """`__call__` for a str, yielding text as it comes. If it is closed early, the session stays as it was."""
        checked = self._options(max_new_tokens, options)
        tokens_per_piece = tokens_between_looks("tokens_per_piece", tokens_per_piece)
        for _, piece in self._writer.pieces(self._run(text_of("prompt", prompt), checked, tokens_per_piece), checked):
            yield piece

    def _texts(self, generation, options) -> list[str]:
        return list(self._writer.with_texts(generation, options).texts or ())

    def _options(self, max_new_tokens, options):
        if options.get("cache_dtype") is None:
            options["cache_dtype"] = self._cache_dtype
        options = self._writer.options(max_new_tokens=max_new_tokens, **options)
        if options.num_return_sequences > 1 or options.guidance_scale is not None:
            raise ValueError(
                "A session writes one text at a time, without guidance. Received: "
                f"num_return_sequences={options.num_return_sequences}, guidance_scale={options.guidance_scale}. "
                "Give a list of prompts, or use `TextGenerator` itself."
            )
        if options.attention:
            raise ValueError(
                "A session gives text alone, no attention weights. Received: attention=True. Use "
                "`TextGenerator.generate`, or `model.inspect` with the session's `token_ids`."
            )
        if options.cache_dtype != self._cache_dtype:  # what was read is read again into the other kind of cache
            self._cache_dtype, self._newest_prefix = options.cache_dtype, None
        return options

    def _before(self, num_new: int) -> Prefix | None:
        """The prefix of the next call: a call always reads something, at worst the newest token once more."""
        prefix = self._prefix
        if prefix is not None and len(prefix.token_ids) == len(self.token_ids) and num_new == 0:
            return self._prefix_of(self.token_ids[:-1], prefix.state, prefix.version)
        return prefix

    def _unread(self, new_ids, prefix, options):
        """The ids that have to be prefilled."""
        num_read = 0 if prefix is None else len(prefix.token_ids)
        ids = np.concatenate([self.token_ids[num_read:], np.asarray(new_ids, "int32")])
        return ids if len(ids) else np.array([options.start_token_id], "int32")

    def _run(self, prompt, options, tokens_per_piece):
        """Yields each `Generation`; after the last one the session has moved on."""
        new_ids = self._writer.encode(prompt, begins_text=not len(self.token_ids))[0]
        prefix = self._before(len(new_ids))
        unread = self._unread(new_ids, prefix, options)
        prompt_ids = unread if prefix is None else np.concatenate([prefix.token_ids, unread])
        for progress in self._writer.model.generation_runner.run([unread], options, tokens_per_piece, prefix):
            yield progress.generation
        last = progress.generation
        written = last.token_ids[0, : last.num_tokens[0]]
        given = self._given(written, options)
        if progress.state is not None:
            # Several rows a prompt share no more than the prompt; the answer is then read again.
            is_single = options.sampler.rows_per_prompt(1) == 1
            num_shared = _num_equal(written, given) if is_single else 0
            read = np.concatenate([prompt_ids, written[:num_shared]])
            self._remember(read, progress.state)
        self.token_ids = np.concatenate([prompt_ids, given])

    def _given(self, written, options):
        """The ids of what the caller is given of the new tokens: the text before a stop string, anew where it cuts."""
        if options.stop_strings is None:
            return written
        tokenizer = self._writer.tokenizer
        pieces = [tokenizer.token_bytes(int(i)) for i in written]

        def text(num_tokens):
            return b"".join(pieces[:num_tokens]).decode("utf-8", errors="replace")

        given = options.stop_strings.cut(text(len(written)))
        num_whole = next(n for n in range(len(written), -1, -1) if given.startswith(text(n)))
        rest = given[len(text(num_whole)) :]
        return np.concatenate([written[:num_whole], np.asarray(tokenizer.encode(rest, False) if rest else [], "int32")])

    def _remember_all(self, options) -> None:
        """Prefills what has not been read, so that several prompts can continue from here without reading it each."""
        model, prefix = self._writer.model, self._prefix
        unread = self.token_ids if prefix is None else self.token_ids[len(prefix.token_ids) :]
        if not len(unread):
            return
        if prefix is None:
            state = model.init_state(1, len(unread), options.cache_dtype)
        else:
            state = prefix.state.grow(len(unread))
        _, state = model.read(unread[None], state)
        self._remember(self.token_ids, state)

    def _remember(self, token_ids, state) -> None:
        """Keeps what a state (its first row) has read of a text."""
        version = self._writer.model.generation_runner.version()
        self._newest_prefix = self._prefix_of(token_ids, state.take(np.zeros(1, "int32")), version)

    def _prefix_of(self, token_ids, state, version):
        return Prefix.of(token_ids, state, version, self._writer.model.num_virtual_tokens)


def _num_equal(one, other) -> int:
    """How many ids two arrays begin with in common."""
    length = min(len(one), len(other))
    return int(np.argmin(np.append(one[:length] == other[:length], False)))
