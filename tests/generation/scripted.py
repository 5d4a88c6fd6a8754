"""A model that follows a script: logits decided by how many tokens were read, whatever they are."""

import numpy as np
import tensorflow as tf


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

    def init_cache(self, batch_size, max_length, dtype=None):
        return {"num_read": tf.zeros([batch_size], tf.int32), "slots": tf.zeros([batch_size, max_length])}

    def read(self, token_ids, cache, padding_mask=None):
        """The "hidden states" are the logits themselves; a prompt counts as one token."""
        length = tf.shape(token_ids)[1]
        before = cache["num_read"][:, None]
        places = tf.where(before == 0, 0, before + tf.range(length)[None])
        logits = tf.gather(self.script, tf.minimum(places, len(self.script) - 1))
        return logits, {**cache, "num_read": tf.where(before == 0, 1, before + length)[:, 0]}

    def project(self, hidden):
        return hidden

    def rewind(self, cache, num_read, kept):
        after = cache["num_read"]
        return {**cache, "num_read": tf.where(after == 1, 1, after - num_read + kept)}


def one_hot_script(token_ids, vocabulary_size):
    """A script that says these tokens, one after the other."""
    return 10.0 * np.eye(vocabulary_size, dtype="float32")[list(token_ids)]
