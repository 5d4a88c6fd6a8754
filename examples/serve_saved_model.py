"""Serve an exported text generator with TensorFlow alone, streaming: this file imports nothing else.

python examples/serve_saved_model.py runs/train_gpt/serving/1 "ROMEO:"
"""

import sys

import tensorflow as tf

TOKENS_PER_PIECE = 8


def main(path: str = "runs/train_gpt/serving/1", prompt: str = "ROMEO:\n", max_new_tokens: int = 64) -> str:
    """Continues a prompt, printing the text as it comes; returns it."""
    signatures = tf.saved_model.load(path).signatures
    settings = {"max_new_tokens": max_new_tokens, "seed": 0, "temperature": 0.8, "top_k": 0, "top_p": 0.95}
    asked = signatures["prefill"].structured_input_signature[1]  # samplers like beam search take no temperature
    settings = {name: tf.constant(value) for name, value in settings.items() if name in asked}
    answer = signatures["prefill"](prompts=tf.constant([prompt]), **settings)
    print(prompt, end="")
    shown = ""
    while True:
        text = answer["text"].numpy()[0].decode()
        print(text[len(shown) :], end="", flush=True)
        shown = text
        if reason := answer["finish_reason"].numpy()[0].decode():
            break
        states = {name: tensor for name, tensor in answer.items() if name.startswith("state_")}
        answer = signatures["decode_step"](num_tokens=tf.constant(TOKENS_PER_PIECE), **states)
    print(
        f"\n{answer['num_tokens'].numpy()[0]} new tokens ({reason}); keras_tfm imported: {'keras_tfm' in sys.modules}"
    )
    return shown


if __name__ == "__main__":
    main(*sys.argv[1:])
