"""Serve an exported text generator with TensorFlow alone: this file imports nothing else.

python examples/serve_saved_model.py runs/train_gpt/serving/1 "ROMEO:"
"""

import sys

import tensorflow as tf


def main(path: str = "runs/train_gpt/serving/1", prompt: str = "ROMEO:\n") -> str:
    """Continues a prompt with the defaults of the export; prints and returns the text."""
    signatures = tf.saved_model.load(path).signatures
    answer = signatures["serving_default"](prompts=tf.constant([prompt]))
    text = answer["text"].numpy()[0].decode()
    print(f"{answer['num_tokens'].numpy()[0]} new tokens; keras_tfm imported: {'keras_tfm' in sys.modules}")
    print(prompt + text)
    return text


if __name__ == "__main__":
    main(*sys.argv[1:])
