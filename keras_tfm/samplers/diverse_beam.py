"""Diverse beam search: groups of beams that avoid each other's words."""

import dataclasses

from keras import ops, tree

from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.ops.gather import take_rows
from keras_tfm.samplers.beam import BeamSampler
from keras_tfm.samplers.numbers import static
from keras_tfm.samplers.state import Change


@dataclasses.dataclass(frozen=True)
class DiverseBeamSampler(BeamSampler):
    """Beam search in groups, one after the other at each step: what a group writes costs the later ones.

    A token that n beams of earlier groups have just written loses `diversity_penalty` x n from its log-probability.
    The texts of all groups are returned together, best first.

    Args:
        processors, seed, num_beams, length_penalty, early_stopping: as in `BeamSampler`; early stopping and the
            comparison of finished texts happen within a group.
        num_groups: int, a divisor of `num_beams`.
        diversity_penalty: float >= 0; 0 makes the groups equal.

    Example:
        >>> sampler = DiverseBeamSampler(num_beams=6, num_groups=3, diversity_penalty=1.0)
        >>> model.generate(prompts, sampler=sampler, num_return_sequences=6)

    Reference: Vijayakumar et al. 2016, "Diverse Beam Search", section 3, https://arxiv.org/abs/1610.02424
    """

    num_groups: int = static(2)
    diversity_penalty: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "num_groups", as_integer("num_groups", self.num_groups, 1))
        require(
            self.num_beams % self.num_groups == 0,
            "`num_beams` must be a multiple of `num_groups`",
            num_beams=self.num_beams,
            num_groups=self.num_groups,
        )
        require(
            number_of("diversity_penalty", self.diversity_penalty) >= 0,
            "`diversity_penalty` must be at least 0",
            diversity_penalty=self.diversity_penalty,
        )
        object.__setattr__(self, "diversity_penalty", float(self.diversity_penalty))

    @property
    def group_size(self):
        return self.num_beams // self.num_groups

    def advance(self, state, logits, hidden, context):
        logits = logits[:, -1]
        logs = self.log_likelihoods(state, logits)
        num_prompts = ops.shape(logits)[0] // self.num_beams
        beams = ops.reshape(ops.arange(ops.shape(logits)[0], dtype="int32"), (num_prompts, self.num_beams))
        written = ops.zeros((num_prompts, logits.shape[-1]), "float32")  # how many beams have just written a token
        states, parents = [], []
        for group in range(self.num_groups):
            rows = ops.reshape(beams[:, group * self.group_size : (group + 1) * self.group_size], (-1,))
            penalty = ops.repeat(self.diversity_penalty * written, self.group_size, axis=0)
            rows_context = context._replace(rows=rows)
            after, own_parents = self.search(
                take_rows(state, rows),
                ops.take(logits, rows, axis=0),
                ops.take(logs, rows, axis=0) - penalty,
                rows_context,
            )
            tokens = ops.take_along_axis(after.tokens, (context.num_prompt + after.num_tokens - 1)[:, None], axis=1)
            news = ops.one_hot(tokens[:, 0], logits.shape[-1], dtype="float32")
            written = written + ops.sum(ops.reshape(news, (num_prompts, self.group_size, -1)), axis=1)
            states.append(after)
            parents.append(ops.take(rows, own_parents))

        def together(*groups):
            """(B * W/G, ...) of each group -> (B * W, ...)."""
            shape = ops.shape(groups[0])[1:]
            groups = [ops.reshape(group, (num_prompts, self.group_size, *shape)) for group in groups]
            return ops.reshape(ops.concatenate(groups, axis=1), (-1, *shape))

        return tree.map_structure(together, *states), Change(parents=together(*parents))
