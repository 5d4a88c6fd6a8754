"""A model that follows a script: logits decided by how many tokens were read, whatever they are."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_tfm.models import CausalLM
from keras_tfm.ops import take_rows
from keras_tfm.ops.decoding_state import DecodingState


class ScriptedModel:
    """The generation contract without a network.

    Args:
        script: (steps, V) logits of the first, second, ... new token; the last row goes on for ever.
        max_sequence_length: int or None.
    """

    def __init__(self, script, max_sequence_length=None):
        self.script = np.asarray(script, "float32")
        self.vocabulary_size = self.script.shape[1]
        self.max_sequence_length = max_sequence_length

    begin, most_new_tokens, what_must_fit = CausalLM.begin, CausalLM.most_new_tokens, CausalLM.what_must_fit
    reads_sources, prompt_vocabulary_size = False, CausalLM.prompt_vocabulary_size

    def init_state(self, batch_size, max_sequence_length, dtype=None):
        return DecodingState(
            tf.zeros([batch_size], tf.int32),
            PromptLength(tf.zeros([batch_size], tf.int32), tf.zeros([batch_size, max_sequence_length])),
        )

    def read(self, token_ids, state, padding_mask=None):
        """The "hidden states" are the logits themselves; a prompt counts as one token."""
        mask = tf.ones_like(token_ids, tf.bool) if padding_mask is None else padding_mask
        before, memory = state.num_tokens[:, None], state.memories
        positions = state.next_positions(mask)
        is_prompt = before == 0
        num_prompt = tf.where(is_prompt[:, 0], tf.reduce_sum(tf.cast(mask, tf.int32), 1), memory.num_tokens)
        places = tf.where(is_prompt, 0, before - num_prompt[:, None] + 1 + tf.range(tf.shape(token_ids)[1])[None])
        logits = tf.gather(self.script, tf.minimum(places, len(self.script) - 1))
        return logits, state.after(positions, memory._replace(num_tokens=num_prompt))

    def project(self, hidden):
        return hidden


class PromptLength(NamedTuple):
    """A memory of how long each row's prompt was, int32 (R,); and slots, that it has the sizes of a cache."""

    num_tokens: Any
    slots: Any

    is_shared = False
    can_forget = True

    def keep(self, num_tokens):
        return self

    def grow(self, num_slots):
        return self

    def take(self, rows):
        return take_rows(self, rows)


def one_hot_script(token_ids, vocabulary_size):
    """A script that says these tokens, one after the other."""
    return 10.0 * np.eye(vocabulary_size, dtype="float32")[list(token_ids)]
