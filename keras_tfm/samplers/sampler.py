"""Samplers: how the next token is chosen from logits."""

import dataclasses

from keras import ops

from keras_tfm.samplers.processors import Processor, Temperature
from keras_tfm.samplers.truncation import TopK, TopP


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Base class: override `choose`. A sampler is a frozen dataclass; its fields are its settings.

    Numbers among the fields (int, float, tuples of them) become tensors inside the compiled loop, so that changing
    them never compiles anew; write `choose` with `keras.ops`, not with Python's `if`, wherever they take part.

    Args:
        processors: `Processor`s, applied to the logits in this order before `choose`.
        seed: int, the default seed of `generate`. Default: a fresh one for each call.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class BestOrSecond(Sampler):
        ...     best: float = 0.9
        ...     def choose(self, logits, random):
        ...         _, ids = ops.top_k(logits, 2)
        ...         return ops.where(random.uniform() < self.best, ids[:, 0], ids[:, 1])
    """

    processors: tuple[Processor, ...] = ()
    seed: int | None = None

    def __post_init__(self):
        processors = self.processors
        object.__setattr__(self, "processors", (processors,) if callable(processors) else tuple(processors))
        strangers = [p for p in self.processors if not isinstance(p, Processor) or not dataclasses.is_dataclass(p)]
        if strangers:
            raise TypeError(f"`processors` must be dataclasses derived from `Processor`. Received: {strangers}.")

    def process(self, logits, tokens, step):
        """The logits after all processors; arguments as in `Processor`."""
        for processor in self.processors:
            logits = processor(logits, tokens, step)
        return logits

    def choose(self, logits, random):
        """The next token of each row.

        Args:
            logits: float32 (B, V), after the processors.
            random: `StepRandom` with `uniform()` (B,), `uniform(n)` (B, n) and `gumbel(n)` (B, n).

        Returns:
            int (B,) ids in [0, V).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `choose(logits, random)`.")


@dataclasses.dataclass(frozen=True)
class GreedySampler(Sampler):
    """The most likely token; of equally likely ones the first.

    Args:
        processors, seed: as in `Sampler`.
    """

    def choose(self, logits, random):
        return ops.argmax(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class RandomSampler(Sampler):
    """A draw from softmax(logits).

    Args:
        processors, seed: as in `Sampler`.

    Example:
        >>> RandomSampler([RepetitionPenalty(1.1), Temperature(0.8), TopP(0.95)], seed=7)
    """

    def choose(self, logits, random):
        return ops.argmax(logits + random.gumbel(logits.shape[-1]), axis=-1)


SAMPLERS = {
    "greedy": GreedySampler(),
    "random": RandomSampler(),
    "top_k": RandomSampler((Temperature(1.0), TopK(50))),
    "top_p": RandomSampler((Temperature(1.0), TopP(0.95))),
}


def get_sampler(sampler: "str | Sampler") -> Sampler:
    """A sampler by its name in `SAMPLERS`; a sampler itself passes.

    Raises:
        ValueError: for an unknown name. TypeError: for anything else.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(
                f"`sampler` must be one of {sorted(SAMPLERS)} or a `Sampler`. Received: sampler={sampler!r}."
            )
        return SAMPLERS[sampler]
    if not isinstance(sampler, Sampler) or not dataclasses.is_dataclass(sampler):
        raise TypeError(f"`sampler` must be a name or a `Sampler` object. Received: {sampler!r}.")
    return sampler
