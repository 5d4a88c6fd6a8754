"""The options of a generation, and its result."""

import dataclasses
from typing import Any

import numpy as np

from keras_tfm.arguments import as_integer, number_of, require, sequences_of, token_ids_of
from keras_tfm.samplers.registry import get_sampler
from keras_tfm.samplers.stop_strings import StopStrings

MOST_NEW_TOKENS = 2**30  # the greatest bucket of sizes


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated: R = prompts x `num_return_sequences` rows, those of one prompt side by side.

    Attributes:
        token_ids: int32 (R, max_new_tokens), the new tokens, -1 after a row's end.
        num_tokens: int32 (R,), new tokens of each row.
        finish_reasons: for each row why it ended: "stop_token", "stop_sequence", "stop_string", "length"
            (`max_new_tokens`), "complete" (nothing more fits a grammar), "time" (`max_seconds`), "impossible" (the
            processors left no token); "" while it is being generated.
        scores: float32 (R,), of samplers that rate whole texts (beam search), else zeros.
        log_probs: float32 (R, max_new_tokens), the natural logarithm of the model's own probability of each token,
            before any processor; 0 after a row's end. None unless `log_probs=True`.
        top_ids: int32 and top_log_probs: float32 (R, max_new_tokens, alternatives), the likeliest tokens at each step,
            best first. None unless `alternatives` was given.
        texts: str for each row, from `TextGenerator`; else None. Without the stop string.
        inspection: the `keras_tfm.models.Inspection` of all R rows, each its prompt and its new tokens, padded on the
            right; of an encoder-decoder its start token and new tokens, beside the source. None unless
            `attention=True`, and until all rows have ended.
    """

    token_ids: np.ndarray
    num_tokens: np.ndarray
    finish_reasons: tuple[str, ...]
    scores: np.ndarray
    log_probs: np.ndarray | None = None
    top_ids: np.ndarray | None = None
    top_log_probs: np.ndarray | None = None
    texts: tuple[str, ...] | None = None
    inspection: Any = None


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """The keyword arguments of `generate`, `generate_steps` and `TextGenerator`.

    Every int is what `operator.index` takes, NumPy's integers too.

    Args:
        max_new_tokens: int, new tokens for each row.
        sampler: a `Sampler`, or a name: "greedy", "random", "top_k", "top_p", "beam".
        seed: int. Row i's draws depend on its prompt, the seed and i alone. Default: the sampler's seed, or a fresh one
            from Python's `random` (which `keras.utils.set_random_seed` fixes).
        num_return_sequences: int, texts for each prompt; of beam search the best so many.
        stop_token_ids: ids, as in (5, 7); a row ends before the first of these.
        stop_sequences: sequences of token ids; a row ends before the first of these.
        stop_strings: `StopStrings`; a row ends with the token that completes one. (`TextGenerator` takes plain str.)
        start_token_id: int, what an empty prompt stands for; customarily the end-of-text token.
        negative_token_ids: prompts, one for each or one for all, that classifier-free guidance leads away from; with
            `guidance_scale`, float: 1 = no guidance, 1.5 is usual. Default: the last token of each prompt.
        log_probs: bool, record the log-probability of each token; `alternatives`: int, and of the likeliest so many.
        cache_dtype: "int8" keeps keys and values in a quarter of float32's memory, rounded. Default: the model's.
        max_seconds: float, rows are given up after so long; looked at every 16 tokens.
        attention: bool, tell the attention weights and hidden states of prompts and new tokens (`inspection`). They
            come from one more pass over the whole texts, which gives what the steps saw up to the last digits, and
            takes memory for all weights.

    Raises:
        ValueError: for a setting out of its range, or one number where several are meant. TypeError: for stop strings
            or a sampler of another kind.
    """

    max_new_tokens: int = 64
    sampler: Any = "greedy"  # str or Sampler; a Sampler from `__post_init__` on
    seed: int | None = None
    num_return_sequences: int = 1
    stop_token_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    stop_strings: StopStrings | None = None
    start_token_id: int = 0
    negative_token_ids: list | None = None
    guidance_scale: float | None = None
    log_probs: bool = False
    alternatives: int = 0
    cache_dtype: str | None = None
    max_seconds: float | None = None
    attention: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 0), ("num_return_sequences", 1), ("alternatives", 0)):
            self._set(name, as_integer(name, getattr(self, name), least))
        require(
            self.max_new_tokens <= MOST_NEW_TOKENS,
            f"`max_new_tokens` must be at most {MOST_NEW_TOKENS}",
            max_new_tokens=self.max_new_tokens,
        )
        if self.seed is not None:
            self._set("seed", as_integer("seed", self.seed, -(2**31)))
        self._set("start_token_id", as_integer("start_token_id", self.start_token_id, 0))
        self._set("stop_token_ids", token_ids_of("stop_token_ids", self.stop_token_ids, least=0))
        self._set("stop_sequences", sequences_of("stop_sequences", self.stop_sequences))
        largest = max([0, *self.stop_token_ids, *(token for sequence in self.stop_sequences for token in sequence)])
        require(largest < 2**31, "`stop_token_ids` and `stop_sequences` must hold ids of 32 bits", largest=largest)
        if not isinstance(self.stop_strings, StopStrings | None):
            raise TypeError(
                "`stop_strings` must be `StopStrings`, or given as str to `TextGenerator`, which knows the tokens' "
                f"bytes. Received: {self.stop_strings!r}."
            )
        self._set("sampler", get_sampler(self.sampler).ending_at(self.stop_token_ids))
        if self.negative_token_ids is not None and self.guidance_scale is None:
            raise ValueError(
                "`negative_prompts`, or `negative_token_ids`, needs a `guidance_scale`. Received: guidance_scale=None."
            )
        if self.guidance_scale is not None:
            self._set("guidance_scale", number_of("guidance_scale", self.guidance_scale))
        if self.alternatives and not self.log_probs:
            raise ValueError(f"`alternatives` needs `log_probs=True`. Received: alternatives={self.alternatives}.")
        if self.cache_dtype not in (None, "int8"):
            raise ValueError(f"`cache_dtype` must be None or 'int8'. Received: {self.cache_dtype!r}.")
        if self.max_seconds is not None:
            self._set("max_seconds", number_of("max_seconds", self.max_seconds))
            require(self.max_seconds > 0, "`max_seconds` must be greater than 0", max_seconds=self.max_seconds)
        self.sampler.rows_per_prompt(self.num_return_sequences)  # raises if the sampler cannot return so many

    def _set(self, name, value) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen
