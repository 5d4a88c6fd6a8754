"""T5, version 1.1 and FLAN-T5."""

import dataclasses
import functools

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.config_keys import ACTIVATIONS, MOST_LAYERS, Choice, Flag, Harmless, Number, Size, value_at
from keras_tfm.checkpoints.encoder_decoder_keys import IS_ENCODER_DECODER, TRAINING_ONLY, StartToken
from keras_tfm.checkpoints.tensors import Transposed
from keras_tfm.layers import GatedFeedForward
from keras_tfm.models import build_t5


@dataclasses.dataclass(frozen=True)
class FeedForwardKind:
    """`feed_forward_proj`: an activation, or "gated-" and one; and what transformers notes of it beside.

    Args:
        default: what a config without the key means.
    """

    default: str
    keys: tuple[str, ...] = dataclasses.field(default=("feed_forward_proj", "dense_act_fn", "is_gated_act"), init=False)

    def read(self, config):
        name = self.default if config.get(self.keys[0]) is None else config[self.keys[0]]
        gated = isinstance(name, str) and name.startswith("gated-")
        activation = name.removeprefix("gated-") if isinstance(name, str) else name
        activation = "gelu_new" if name == "gated-gelu" else activation
        read = Choice(self.keys[0], "activation", ACTIVATIONS).read({self.keys[0]: activation})
        for key, value in zip(self.keys[1:], (activation, gated), strict=True):
            if config.get(key) not in (None, value) or type(config.get(key)) not in (type(None), type(value)):
                raise ValueError(
                    f"`{key}` of the config must be {value!r}, as `{self.keys[0]}` says. Received: {config[key]!r}."
                )
        return {**read, "gated": gated}

    def write(self, arguments):
        name = Choice(self.keys[0], "activation", ACTIVATIONS).write(arguments)[self.keys[0]]
        if arguments["gated"]:
            if name == "gelu":
                raise ValueError("A gated `gelu` has no name in this family. Received: activation='gelu'.")
            name = "gated-gelu" if name == "gelu_new" else f"gated-{name}"
        return {self.keys[0]: name}


@dataclasses.dataclass(frozen=True)
class Head:
    """Whether logits come from the token table, after a factor; transformers 5 notes the factor and ties all heads."""

    keys: tuple[str, ...] = ("tie_word_embeddings", "scale_decoder_outputs")

    def read(self, config):
        tied = Flag(self.keys[0], "tie_weights", default=True).read(config)["tie_weights"]
        scaled = Flag(self.keys[1], "tie_weights", default=tied).read(config)["tie_weights"]
        if scaled and not tied:
            raise ValueError(
                f"`{self.keys[1]}` of the config must be false where `{self.keys[0]}` is; nothing else is supported "
                "here. Received: true."
            )
        return {"tie_weights": scaled}

    def write(self, arguments):
        return dict.fromkeys(self.keys, arguments["tie_weights"])


def common(num_layers: int) -> tuple:
    """What the configs of all of T5's kinds say alike; `num_layers`: of one that does not say it."""
    layers = Size("num_layers", "num_layers", default=num_layers, most=MOST_LAYERS)
    of_encoder = functools.partial(value_at, key="num_layers", default=num_layers)
    return (
        layers,
        Size("num_decoder_layers", "num_decoder_layers", default=of_encoder, most=MOST_LAYERS),
        Size("d_model", "hidden_dim", default=512),
        Size("d_kv", "head_dim", default=64),
        Size("relative_attention_num_buckets", "num_buckets", default=32),
        Size("relative_attention_max_distance", "max_distance", default=128),
        Number("layer_norm_epsilon", "norm_epsilon", default=1e-6),
        StartToken("pad_token_id"),
        *IS_ENCODER_DECODER,
        Harmless((*TRAINING_ONLY, "n_positions")),
    )


CONFIG = (
    Size("vocab_size", "vocabulary_size", default=32128),
    Size("num_heads", "num_heads", default=8),
    Size("d_ff", "intermediate_dim", default=2048),
    FeedForwardKind("relu"),
    Head(),
    *common(num_layers=6),
)


def _attention(theirs: str, ours: str) -> dict:
    names = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return {f"{theirs}.{short}.weight": Transposed(f"{ours}.{name}_dense.kernel") for short, name in names.items()}


def _stack(name: str, is_gated: bool, is_decoder: bool) -> dict:
    theirs, ours = f"{name}.block.{{i}}.layer", f"{name}.blocks.{{i}}"
    last = 2 if is_decoder else 1
    tensors = {
        **_attention(f"{theirs}.0.SelfAttention", f"{ours}.self_attention"),
        f"{theirs}.0.layer_norm.weight": f"{ours}.attention_wrap.norm_before.scale",
        f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": f"{name}.position_bias.embeddings",
        f"{theirs}.{last}.layer_norm.weight": f"{ours}.feed_forward_wrap.norm_before.scale",
        f"{name}.final_layer_norm.weight": f"{name}.final_norm.scale",
    }
    if is_decoder:
        tensors |= _attention(f"{theirs}.1.EncDecAttention", f"{ours}.cross_attention")
        tensors[f"{theirs}.1.layer_norm.weight"] = f"{ours}.context_wrap.norm_before.scale"
    dense = {"wo": "output"} | ({"wi_0": "gate", "wi_1": "intermediate"} if is_gated else {"wi": "intermediate"})
    for short, part in dense.items():
        tensors[f"{theirs}.{last}.DenseReluDense.{short}.weight"] = Transposed(
            f"{ours}.feed_forward.{part}_dense.kernel"
        )
    return tensors


def tensors_of(model) -> dict:
    """The tensor map of a model, whose feed-forward is gated or not."""
    is_gated = isinstance(model.encoder.blocks[0].feed_forward, GatedFeedForward)
    return {
        "shared.weight": "encoder_embedding.embedding.embeddings",
        **_stack("encoder", is_gated, is_decoder=False),
        **_stack("decoder", is_gated, is_decoder=True),
        "lm_head.weight": Transposed("head.kernel"),
        # Of no use; the first release holds it.
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
    }


def describe(model) -> dict:
    """The arguments of `build_t5` that give this model."""
    block, bias = model.encoder.blocks[0], model.encoder.position_bias
    return {
        "vocabulary_size": model.vocabulary_size,
        "num_layers": len(model.encoder.blocks),
        "num_decoder_layers": len(model.decoder.blocks),
        "num_heads": block.self_attention.num_heads,
        "head_dim": block.self_attention.head_dim,
        "hidden_dim": model.hidden_dim,
        "intermediate_dim": block.feed_forward.intermediate_dim,
        "gated": isinstance(block.feed_forward, GatedFeedForward),
        "activation": block.feed_forward.activation,
        "tie_weights": model.head is None,
        "num_buckets": bias.num_buckets,
        "max_distance": bias.max_distance,
        "norm_epsilon": block.norm.epsilon,
        "start_token_id": model.start_token_id,
    }


COPIES = {
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
    "lm_head.weight": "shared.weight",
}
ARCHITECTURES = (
    Architecture(
        name="T5ForConditionalGeneration",
        model_type="t5",
        config=CONFIG,
        tensors=tensors_of,
        build=build_t5,
        describe=describe,
        copies=COPIES,
        stand_ins={"lm_head.weight": "shared.weight"},
    ),
)
