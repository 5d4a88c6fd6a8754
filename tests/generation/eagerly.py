"""The loop without a compiler: for a few tokens of a tiny model XLA would take longer than the generation."""

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_tfm.generation import loop
from keras_tfm.generation.compiled import pad_prompts, room_for
from keras_tfm.generation.options import GenerationOptions
from keras_tfm.generation.runner import generation_of, prompts_of, settings_of


def generate_eagerly(model, token_ids, **options):
    """What `model.generate` gives."""
    options = GenerationOptions(**options)
    sampler = options.sampler
    prompts = prompts_of(token_ids, model.vocabulary_size)
    padded = loop.Prompts(**pad_prompts(prompts, options.start_token_id))
    settings = settings_of(options, (sampler.seed or 0) if options.seed is None else options.seed)
    room = room_for(options.max_new_tokens, padded.token_ids.shape[1])
    shape = loop.Shape(
        options.num_return_sequences, options.cache_dtype, options.alternatives if options.log_probs else None
    )
    # Prompts and settings are padded by TensorFlow, on every backend.
    padded, room, settings, until = tree.map_structure(
        lambda x: x if ops.is_tensor(x) else ops.convert_to_tensor(np.asarray(x)),
        (padded, room, settings, tf.constant(options.max_new_tokens)),
    )
    state = loop.begin(model, sampler, padded, room, settings, shape)
    state = loop.extend(model, sampler, state, room, until, settings)
    num_rows = int(prompts.nrows()) * options.num_return_sequences
    return generation_of(*loop.answer(sampler, state, room, settings, shape), num_rows, options)
