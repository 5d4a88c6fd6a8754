"""A model that says how good an answer is, learned from which of two is better."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfm.alignment.log_probs import hidden_states, rows_of
from keras_tfm.arguments import as_integer
from keras_tfm.data import answered_rows, padded_rows
from keras_tfm.layers.composite import as_layer, serialize
from keras_tfm.ops.positions import last_real
from keras_tfm.tokenizers import Tokenizer
from keras_tfm.types import Config, LayerLike, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class RewardModel(keras.Model):
    """A score for each row, from the state of its last token; trains with `fit` on `data.preference_dataset`.

    The loss is Bradley and Terry's, -log sigmoid(score of the better - score of the worse). `compile` takes an
    optimizer and no loss.

    Args:
        backbone: `CausalLM`, which is trained but for its head: that is not used, and frozen.
        centering: float, this much of the squared sum of a pair's scores is added to the loss, which keeps the scores
            around 0; they mean something by their difference only.
        **kwargs: Keras' own.

    Call arguments:
        inputs: dict of "token_ids" int32 (..., T) and "padding_mask" bool (..., T).

    Returns:
        float32 (...).

    Example:
        >>> model = RewardModel(build_gpt(vocabulary_size=512, max_sequence_length=64, num_layers=2, num_heads=2))
        >>> model.compile("adamw")
        >>> history = model.fit(data.preference_dataset(rows, tokenizer, sequence_length=64, batch_size=8))
        >>> model.reward_function(tokenizer, 64)(["2+2="], ["4"])

    Reference:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback", equation 1,
        https://arxiv.org/abs/2203.02155; centering: Eisenstein et al. 2023, "Helping or Herding?", equation 2,
        https://arxiv.org/abs/2312.09244
    """

    def __init__(self, backbone: LayerLike, centering: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.backbone: Any = as_layer(backbone, "backbone", "build_gpt(...)")
        if self.backbone.head is not None:
            self.backbone.head.trainable = False  # it makes logits, which nobody asks for here
        self.centering = centering
        self.head = keras.layers.Dense(1, use_bias=False, name="head", dtype="float32")
        self.head.build((None, self.backbone.hidden_dim))
        self.means = {name: keras.metrics.Mean(name) for name in ("accuracy", "margin")}
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> Tensor:
        last = last_real(hidden_states(self.backbone, inputs), rows_of(inputs["padding_mask"]))
        return ops.reshape(self.head(last), ops.shape(inputs["token_ids"])[:-1])

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        better, worse = y_pred[:, 0], y_pred[:, 1]
        self.means["accuracy"].update_state(ops.cast(better > worse, "float32"))
        self.means["margin"].update_state(better - worse)
        loss = -ops.mean(ops.log_sigmoid(better - worse))
        return loss + self.centering * ops.mean(ops.square(better + worse)) if self.centering else loss

    def reward_function(
        self, tokenizer: Tokenizer, sequence_length: int, batch_size: int = 32
    ) -> Callable[..., list[float]]:
        """A function (prompts, completions, **columns) -> floats, for `GRPO` and `PPO`.

        Args:
            tokenizer: the one that the model was trained with.
            sequence_length: int, longer rows are cut at their end.
            batch_size: int, rows at a time.
        """
        sequence_length = as_integer("sequence_length", sequence_length, least=2)
        # Not `predict`, which cannot be called within a step of another model's `fit`.
        score = tf.function(self, reduce_retracing=True, autograph=False)

        def learned_reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
            rows = [{"prompt": a, "completion": b} for a, b in zip(prompts, completions, strict=True)]
            inputs = padded_rows(answered_rows(rows, tokenizer), sequence_length)
            inputs.pop("answer_mask")
            batches = (
                {name: tf.constant(x[start : start + batch_size]) for name, x in inputs.items()}
                for start in range(0, len(prompts), batch_size)
            )
            return [reward for batch in batches for reward in score(batch).numpy().tolist()]

        return learned_reward

    def get_config(self) -> Config:
        return {**super().get_config(), "backbone": serialize(self.backbone), "centering": self.centering}
