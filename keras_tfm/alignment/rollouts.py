"""What a policy writes of prompts, and the rewards for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_tfm.arguments import as_integer, require
from keras_tfm.data import AnsweredRow, padded_rows
from keras_tfm.generation import TextGenerator
from keras_tfm.tokenizers import Tokenizer

RewardFunction = Callable[..., Sequence[float]]


class Rollout(NamedTuple):
    """R answers, those to one prompt side by side.

    Attributes:
        prompts, completions: R str each.
        rewards: float32 (R,).
        rows: dict of arrays: "token_ids" int32, "padding_mask" and "answer_mask" bool, (R, T) each, and what the
            trainer adds.
    """

    prompts: list[str]
    completions: list[str]
    rewards: np.ndarray
    rows: dict[str, np.ndarray]


class RolloutWriter:
    """Answers prompts with a policy's compiled loop, and asks what the answers are worth.

    Tokens are drawn from the policy's probabilities as they are, since these are what is learned from.

    Args:
        policy, tokenizer, rewards, prompt_length, max_new_tokens, num_generations: see `RolloutModel`.
    """

    def __init__(
        self,
        policy: Any,
        tokenizer: Tokenizer,
        rewards: RewardFunction | Sequence[RewardFunction],
        prompt_length: int,
        max_new_tokens: int,
        num_generations: int,
    ):
        require(tokenizer.end_of_text_id is not None, "`tokenizer` must have an end of text", tokenizer=tokenizer)
        self.generator = TextGenerator(policy, tokenizer, sampler="random")
        self.end_id = tokenizer.end_of_text_id
        functions = (rewards,) if callable(rewards) else tuple(rewards)
        require(functions and all(map(callable, functions)), "`rewards` must be one or more functions", rewards=rewards)
        self.reward_functions = functions
        self.prompt_length = as_integer("prompt_length", prompt_length, least=1)
        self.max_new_tokens = as_integer("max_new_tokens", max_new_tokens, least=1)
        self.num_generations = as_integer("num_generations", num_generations, least=1)
        longest = policy.max_sequence_length
        require(
            longest is None or self.width <= longest,
            f"`prompt_length` and `max_new_tokens` must fit the {longest} positions of the policy",
            prompt_length=prompt_length,
            max_new_tokens=max_new_tokens,
        )

    @property
    def width(self) -> int:
        """T, the tokens of a row; the same each time, so that one trace serves."""
        return self.prompt_length + self.max_new_tokens

    def write(self, prompts: Sequence[str], columns: Mapping[str, Sequence], seed: int) -> Rollout:
        """Answers and their rewards.

        Args:
            prompts: B str. columns: of B values each, which the reward functions are told.
            seed: int, of the draws.

        Raises:
            ValueError: for prompts that are too long, or rewards that are not one finite number for each answer.
        """
        prompt_ids = self.generator.encode(prompts)
        longest = max(map(len, prompt_ids))
        require(
            longest <= self.prompt_length,
            "`prompt_length` must hold the tokens of each prompt",
            prompt_length=self.prompt_length,
            longest=longest,
        )
        count = self.num_generations
        written = self.generator.generate(prompts, self.max_new_tokens, seed=seed, num_return_sequences=count)
        asked = [prompt for prompt in prompts for _ in range(count)]
        columns = {name: [x for x in values for _ in range(count)] for name, values in columns.items()}
        completions = list(written.texts or ())
        rewards = np.sum([rewards_of(f, asked, completions, columns) for f in self.reward_functions], axis=0)
        rows = []
        for i, reason in enumerate(written.finish_reasons):
            end = [self.end_id] if reason == "stop_token" else []  # it was chosen as well
            answer = [*written.token_ids[i, : written.num_tokens[i]], *end]
            token_ids = np.array([*prompt_ids[i // count], *answer], "int32")
            rows.append(AnsweredRow(token_ids, np.arange(len(token_ids)) >= len(token_ids) - len(answer)))
        return Rollout(asked, completions, rewards.astype("float32"), padded_rows(rows, self.width))


def rewards_of(
    function: RewardFunction, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence]
) -> np.ndarray:
    """What a function says, float64 (R,), or a ValueError if that is not a finite number for each completion."""
    name = getattr(function, "__name__", repr(function))
    rewards = list(function(prompts=prompts, completions=completions, **columns))
    try:
        numbers = np.array(rewards, "float64")  # None becomes NaN
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.shape != (len(completions),) or not np.isfinite(numbers).all():
        raise ValueError(
            f"`rewards` must give a finite float for each of {len(completions)} completions. "
            f"Received: {len(rewards)} from {name!r}, {rewards!s:.80}."
        )
    return numbers
