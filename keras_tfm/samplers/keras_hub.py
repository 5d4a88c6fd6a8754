"""Samplers across the border: ours in `keras_hub` models, those of `keras_hub` in ours."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_tfm.ops.tensors import slice_update
from keras_tfm.optional import required
from keras_tfm.samplers.sampler import Sampler, StatefulProcessor
from keras_tfm.samplers.state import StepRandom
from keras_tfm.types import Tensor


def to_keras_hub(sampler: Sampler) -> Any:
    """A `keras_hub.samplers.Sampler` that chooses as `sampler` does, for `CausalLM.compile(sampler=...)`.

    Args:
        sampler: one that chooses token by token, with any processors; not beam search and others with a way of their
            own through a generation.

    Returns:
        A `keras_hub.samplers.Sampler`. Its seed is the sampler's; the draws of each call differ.

    Raises:
        TypeError: for a sampler that does not choose token by token. ImportError: without keras-hub.

    Example:
        >>> hub_model.compile(sampler=to_keras_hub(RandomSampler([RepetitionPenalty(1.2), TopP(0.9)])))
    """
    keras_hub: Any = required("keras_hub", "hub", "Samplers of keras_hub")
    if type(sampler).advance is not Sampler.advance:
        raise TypeError(
            f"`sampler` must choose token by token. Received: {type(sampler).__name__}, which goes through a "
            "generation in a way of its own. Use it with a model of keras_tfm."
        )

    class KerasHubSampler(keras_hub.samplers.Sampler):
        """Their loop around our choice."""

        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(sampler.seed)

        def __call__(
            self,
            next,
            prompt,
            cache=None,
            index=0,
            mask=None,
            stop_token_ids=None,
            hidden_states=None,
            model=None,
            **kwargs,
        ):
            batch, length = ops.shape(prompt)
            mask = ops.zeros_like(prompt, dtype="bool") if mask is None else ops.cast(mask, "bool")
            num_prompt = ops.sum(ops.cast(mask, "int32"), axis=1)
            columns, rows = ops.arange(length, dtype="int32")[None], ops.arange(batch, dtype="int32")
            seed = ops.cast(ops.sum(self.seed_generator.next()), "int32")  # the seed and how often it was used
            stops = ops.convert_to_tensor([-1, *(stop_token_ids or ())], dtype=prompt.dtype)
            states = tuple(p.start(batch) if isinstance(p, StatefulProcessor) else () for p in sampler.processors)

            def goes_on(prompt, cache, index, states):
                is_stop = ops.any(prompt[..., None] == stops, axis=-1)
                ended = ops.any(ops.logical_and(is_stop, ops.logical_not(mask)), axis=-1)
                return ops.logical_not(ops.all(ended))

            def write(prompt, cache, index, states):
                logits, _, cache = next(prompt, cache, index)
                num_new = ops.maximum(index - num_prompt, 0)
                tokens = ops.where(columns < index, ops.cast(prompt, "int32"), -1)
                shaped = sampler.process(ops.cast(logits, "float32"), tokens, num_new[:, None], states)
                token = ops.cast(sampler.choose(shaped, StepRandom(seed, rows, num_new)), "int32")
                is_prompt = mask[:, index]
                states = tuple(
                    keras.tree.map_structure(
                        lambda new, old: ops.where(is_prompt, old, new), processor.advance(state, token), state
                    )
                    if isinstance(processor, StatefulProcessor)
                    else ()
                    for processor, state in zip(sampler.processors, states, strict=True)
                )
                token = ops.where(is_prompt, prompt[:, index], ops.cast(token, prompt.dtype))
                return slice_update(prompt, (0, index), token[:, None]), cache, index + 1, states

            index = ops.cast(index, "int32")
            prompt, *_ = self.run_loop(
                goes_on,
                write,
                loop_vars=(prompt, () if cache is None else cache, index, states),
                maximum_iterations=ops.cast(length, "int32") - index,
                model=model,
            )
            return prompt

    return KerasHubSampler()


def from_keras_hub(sampler: Any) -> Sampler:
    """One of ours that chooses as a `keras_hub` sampler does, for `generate` and `TextGenerator`.

    Args:
        sampler: a `keras_hub.samplers.Sampler` that defines `get_next_token(probabilities)`: greedy, random, top-k,
            top-p, your own. Its temperature counts; it draws with its own seed generator.

    Raises:
        TypeError: for anything else; beam and contrastive search run loops of their own there.

    Example:
        >>> model.generate(prompts, sampler=from_keras_hub(keras_hub.samplers.TopPSampler(p=0.9)))
    """
    keras_hub: Any = required("keras_hub", "hub", "Samplers of keras_hub")
    base = keras_hub.samplers.Sampler
    kind: Any = type(sampler)
    if (
        not isinstance(sampler, base)
        or kind.__call__ is not base.__call__
        or kind.get_next_token is base.get_next_token
    ):
        raise TypeError(
            "`sampler` must be a `keras_hub.samplers.Sampler` that defines `get_next_token`. "
            f"Received: {kind.__name__}. For beam and contrastive search use `BeamSampler` and `ContrastiveSampler`."
        )
    return FromKerasHub(hub_sampler=sampler)


@dataclasses.dataclass(frozen=True)
class FromKerasHub(Sampler):
    """What `from_keras_hub` makes.

    Args:
        processors, seed: as in `Sampler`; the seed is not used.
        hub_sampler: a `keras_hub.samplers.Sampler`.
    """

    hub_sampler: Any = None

    def choose(self, logits: Tensor, random: StepRandom) -> Tensor:
        return self.hub_sampler.get_next_token(self.hub_sampler.compute_probabilities(logits))
