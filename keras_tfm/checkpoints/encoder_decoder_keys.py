"""Keys of the configs of encoder-decoders: numbers that both halves share, and what the decoder reads first."""

import dataclasses

from keras_tfm.checkpoints.config_keys import Only, Size, value_at

# What says nothing of the forward pass of an encoder-decoder outside of training.
TRAINING_ONLY = (
    "activation_dropout",
    "dropout",
    "dropout_rate",
    "decoder_layerdrop",
    "encoder_layerdrop",
    "init_std",
    "initializer_factor",
)
IS_ENCODER_DECODER = (Only("is_encoder_decoder", True), Only("is_decoder", False))


@dataclasses.dataclass(frozen=True)
class InBoth(Size):
    """One number that a config has for its encoder and for its decoder, under "encoder_..." and "decoder_...".

    Args:
        key: the name after "encoder_" and "decoder_"; the rest as in `Size`.
    """

    @property
    def keys(self):
        return tuple(f"{side}_{self.key}" for side in ("encoder", "decoder"))

    def read(self, config):
        values = [value_at(config, key, self.default) for key in self.keys]
        for key, value in zip(self.keys, values, strict=True):
            Size(key, self.argument).read({key: value})
        if values[0] != values[1]:
            raise ValueError(
                f"`{self.keys[0]}` and `{self.keys[1]}` of the config must be equal; nothing else is supported here. "
                f"Received: {values[0]} and {values[1]}."
            )
        return {self.argument: values[0]}

    def write(self, arguments):
        return dict.fromkeys(self.keys, arguments[self.argument])


@dataclasses.dataclass(frozen=True)
class StartToken:
    """`decoder_start_token_id`, what the decoder reads before it writes.

    Args:
        default: the id that a config without the key means, or the key that tells it; None = it must be said.
    """

    default: int | str | None
    keys: tuple[str, ...] = dataclasses.field(default=("decoder_start_token_id",), init=False)

    def read(self, config):
        token_id = config.get(self.keys[0])
        if token_id is None:
            token_id = config.get(self.default) if isinstance(self.default, str) else self.default
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < 2**31:
            raise ValueError(
                f"`{self.keys[0]}` of the config, which the decoder reads before its first token, must be a token id. "
                f"Received: {token_id!r}. Write it into config.json: of a multilingual model, the code of the language."
            )
        return {"start_token_id": token_id}

    def write(self, arguments):
        return {self.keys[0]: arguments["start_token_id"]}
