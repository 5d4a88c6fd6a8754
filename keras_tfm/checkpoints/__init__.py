"""Checkpoints of other libraries, in and out; nothing of torch or transformers is needed."""

from keras_tfm.checkpoints.chat_template import ChatTemplate, load_chat_template
from keras_tfm.checkpoints.keras_hub import from_keras_hub
from keras_tfm.checkpoints.loader import load
from keras_tfm.checkpoints.stop_tokens import load_stop_token_ids
from keras_tfm.checkpoints.tokenizer import load_tokenizer
from keras_tfm.checkpoints.writer import save

__all__ = [
    "ChatTemplate",
    "from_keras_hub",
    "load",
    "load_chat_template",
    "load_stop_token_ids",
    "load_tokenizer",
    "save",
]
