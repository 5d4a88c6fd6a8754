"""The random numbers of one decoding step."""

from typing import Any, NamedTuple

from keras import ops

from keras_tfm import ops as tfm_ops


class StepRandom(NamedTuple):
    """Draws that (seed, row, step) decide: not the batch size, not the other rows, not the order of calls.

    seed: int32 (). rows: int32 (B,). step: int32 ().
    """

    seed: Any
    rows: Any
    step: Any

    def uniform(self, size: int | None = None):
        """Uniform float32 in (0, 1): (B,), or (B, size)."""
        key = (ops.cast(self.seed, "uint32"), ops.cast(self.rows, "uint32"))
        if size is None:
            return tfm_ops.random_uniform(key, (ops.cast(self.step, "uint32"), ops.zeros_like(key[1])))
        counter = (ops.cast(self.step, "uint32"), ops.cast(ops.arange(size, dtype="int32"), "uint32")[None])
        return tfm_ops.random_uniform((key[0], key[1][:, None]), counter)

    def gumbel(self, size: int):
        """Standard Gumbel noise (B, size): argmax(logits + noise) is a draw from softmax(logits).

        Reference: Maddison et al. 2014, "A* Sampling", https://arxiv.org/abs/1411.0030
        """
        return -ops.log(-ops.log(self.uniform(size)))
