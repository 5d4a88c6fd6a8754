"""The random numbers of one decoding step."""

from typing import Any, NamedTuple

from keras import ops

from keras_tfm import ops as tfm_ops

# Streams times this change the seed: the golden ratio of 2^32, as in hash functions.
_GOLDEN = 0x9E3779B9


class StepRandom(NamedTuple):
    """Draws that (seed, row, step, stream) decide: not the batch size, not the other rows, not the order of calls.

    seed: int32 (). rows: int32 (B,). step: int32 (B,) or (), how many new tokens a row has. stream: int, for samplers
    that need several independent draws at a step.
    """

    seed: Any
    rows: Any
    step: Any
    stream: int = 0

    def uniform(self, size: int | None = None):
        """Uniform float32 in (0, 1): (B,), or (B, size)."""
        seed = ops.bitwise_xor(
            ops.cast(self.seed, "uint32"), ops.convert_to_tensor(self.stream * _GOLDEN % 2**32, dtype="uint32")
        )
        rows = ops.cast(self.rows, "uint32")
        step = ops.broadcast_to(ops.cast(self.step, "uint32"), ops.shape(rows))
        if size is None:
            return tfm_ops.random_uniform((seed, rows), (step, ops.zeros_like(rows)))
        places = ops.cast(ops.arange(size, dtype="int32"), "uint32")[None]
        return tfm_ops.random_uniform((seed, rows[:, None]), (step[:, None], places))

    def gumbel(self, size: int):
        """Standard Gumbel noise (B, size): argmax(logits + noise) is a draw from softmax(logits).

        Reference: Maddison et al. 2014, "A* Sampling", https://arxiv.org/abs/1411.0030
        """
        return -ops.log(-ops.log(self.uniform(size)))
