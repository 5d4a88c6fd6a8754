"""Checkpoints of other libraries, in and out; nothing of torch or transformers is needed."""

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.checkpoint import Checkpoint
from keras_tfm.checkpoints.keras_hub import from_keras_hub
from keras_tfm.checkpoints.loader import (
    load,
    load_chat_template,
    load_stop_token_ids,
    load_tokenizer,
    open,
    summary,
)
from keras_tfm.checkpoints.writer import save

__all__ = [
    "Architecture",
    "ChatTemplate",
    "Checkpoint",
    "from_keras_hub",
    "load",
    "load_chat_template",
    "load_stop_token_ids",
    "load_tokenizer",
    "open",
    "save",
    "summary",
]


def __dir__() -> list[str]:
    return __all__
