"""Strings in, strings out: a model, a tokenizer and a sampler as one object."""

import codecs
from collections.abc import Iterator

from keras_tfm.samplers.sampler import get_sampler


class TextGenerator:
    """Writes text with a causal language model: at once, piece by piece, or from a SavedModel.

    Args:
        model: `CausalLM`.
        tokenizer: `BytePairTokenizer` of the same vocabulary. If it has an end-of-text token, a text ends there, and
            an empty prompt starts from it.
        sampler: a `Sampler`, or a name: "greedy", "random", "top_k", "top_p".

    Raises:
        ValueError: if the vocabularies of model and tokenizer differ, or for an unknown sampler name.

    Example:
        >>> writer = TextGenerator(model, tokenizer, sampler=RandomSampler([Temperature(0.8), TopP(0.95)], seed=7))
        >>> writer("ROMEO:", max_new_tokens=100)
        >>> for piece in writer.stream("ROMEO:"):
        ...     print(piece, end="")
        >>> writer.export("serving/1")
    """

    def __init__(self, model, tokenizer, sampler="greedy"):
        if tokenizer.vocabulary_size != model.vocabulary_size:
            raise ValueError(
                "The tokenizer must have the vocabulary that the model was built with. Received: a tokenizer of "
                f"{tokenizer.vocabulary_size} tokens and a model of {model.vocabulary_size}."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.sampler = get_sampler(sampler)

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens at which a text ends: the tokenizer's end-of-text token, if it has one."""
        end = self.tokenizer.end_of_text_id
        return () if end is None else (end,)

    @property
    def start_token_id(self) -> int:
        """What an empty prompt stands for: the end-of-text token, or token 0."""
        return (*self.stop_token_ids, 0)[0]

    def __call__(self, prompts, max_new_tokens: int = 64, seed: int | None = None):
        """Continues prompts.

        Args:
            prompts: str, or list of str. Special tokens in them are read as such.
            max_new_tokens: int, at most so many new tokens each.
            seed: int; text i depends on its prompt, the seed and i alone. Default: the sampler's, or a fresh one.

        Returns:
            The new text without the prompt: str for a str, list for a list. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: if a prompt with its new tokens does not fit the model; before any work.
        """
        rows = [prompts] if isinstance(prompts, str) else list(prompts)
        generation = self.model.generate(
            [self.tokenizer.encode(row) for row in rows],
            max_new_tokens=max_new_tokens,
            sampler=self.sampler,
            stop_token_ids=self.stop_token_ids,
            seed=seed,
            start_token_id=self.start_token_id,
        )
        texts = [
            self.tokenizer.decode(ids[:length])
            for ids, length in zip(generation.token_ids, generation.num_tokens, strict=True)
        ]
        return texts[0] if isinstance(prompts, str) else texts

    def stream(
        self, prompt: str, max_new_tokens: int = 64, seed: int | None = None, tokens_per_piece: int = 4
    ) -> Iterator[str]:
        """Continues one prompt, yielding text as it is written; together the pieces are what `__call__` returns.

        Args:
            prompt: str.
            max_new_tokens, seed: as in `__call__`.
            tokens_per_piece: int, tokens computed between two pieces, after the first.

        Yields:
            str of whole characters: a character whose bytes are split among tokens waits for its last byte.
        """
        steps = self.model.generate_steps(
            [self.tokenizer.encode(prompt)],
            max_new_tokens=max_new_tokens,
            sampler=self.sampler,
            stop_token_ids=self.stop_token_ids,
            seed=seed,
            start_token_id=self.start_token_id,
            tokens_per_step=tokens_per_piece,
        )
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        num_read = 0
        for generation in steps:
            new_ids = generation.token_ids[0, num_read : generation.num_tokens[0]]
            num_read = int(generation.num_tokens[0])
            piece = decoder.decode(b"".join(self.tokenizer.token_bytes(int(token_id)) for token_id in new_ids))
            if piece:
                yield piece
        if piece := decoder.decode(b"", final=True):
            yield piece

    def export(self, path, **defaults) -> None:
        """Writes a SavedModel that TensorFlow alone can serve, text in, text out; see `keras_tfm.export`.

        Args:
            path: a folder that does not exist yet; servers expect `.../1`.
            **defaults: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed` for callers that give prompts alone.
        """
        from keras_tfm.export.saved_model import export_text_generator  # it imports this package

        export_text_generator(self, path, **defaults)
