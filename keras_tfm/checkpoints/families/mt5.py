"""mT5: T5's version 1.1 with a vocabulary of many languages."""

import dataclasses

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import Flag, Size
from keras_tfm.checkpoints.families import t5
from keras_tfm.checkpoints.families.t5 import FeedForwardKind
from keras_tfm.models import build_t5


@dataclasses.dataclass(frozen=True)
class Head:
    """Logits come from a head, without a factor, whatever a config says: transformers 5 writes that it is tied."""

    keys: tuple[str, ...] = ("tie_word_embeddings", "scale_decoder_outputs")

    def read(self, config):
        for key in self.keys:
            Flag(key, key, default=False).read(config)
        return {"tie_weights": False}

    def write(self, arguments):
        if arguments["tie_weights"]:
            raise ValueError("`tie_weights` must be False in this family. Received: True. Save it as T5.")
        return {self.keys[0]: False}


CONFIG = (
    Size("vocab_size", "vocabulary_size", default=250112),
    Size("num_heads", "num_heads", default=6),
    Size("d_ff", "intermediate_dim", default=1024),
    FeedForwardKind("gated-gelu"),
    Head(),
    *t5.common(num_layers=8),
)
ARCHITECTURES = (
    Architecture(
        name="MT5ForConditionalGeneration",
        model_type="mt5",
        config=CONFIG,
        tensors=t5.tensors_of,
        build=build_t5,
        describe=t5.describe,
        copies=t5.COPIES,
        stand_ins={"lm_head.weight": "shared.weight"},
    ),
)
