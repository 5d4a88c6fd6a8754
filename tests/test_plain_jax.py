"""What benchmarks/accelerator.py compares with computes what our models compute, from the same weights."""

import numpy as np
from keras import ops

from benchmarks import plain_jax, sizes
from keras_tfm.models import build_gpt, build_llama

SIZES = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "vocabulary_size": 61}
GPT = sizes.gpt(**SIZES, max_sequence_length=16)
LLAMA = sizes.Shape(**SIZES, num_key_value_heads=2, intermediate_dim=88, sequence_length=16)


def weights_of(model):
    """Those of a model of ours as the plain one has them, moved so that no bias is 0 and no norm 1."""
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.1 * rng.normal(size=w.shape).astype("float32") for w in model.get_weights()])

    def of(layer, *ends):
        """The weights of a layer whose paths end so, one beside the other."""
        found = {variable.path: np.array(variable) for variable in layer.trainable_variables}
        return [value for end in ends for path, value in found.items() if path.endswith(end)]

    def block_of(block):
        attention, feed_forward, heads = block.self_attention, block.feed_forward, ("query", "key", "value")
        weights = {}
        for kind, suffix in (("kernel", ""), ("bias", "_bias")):
            parts = {
                "heads": of(attention, *(f"{name}/{kind}" for name in heads)),
                "output": of(attention, f"output/{kind}"),
                "up": of(feed_forward, f"gate/{kind}", f"intermediate/{kind}"),
                "down": of(feed_forward, f"output/{kind}"),
            }
            weights |= {f"{name}{suffix}": np.concatenate(part, -1) for name, part in parts.items() if part}
        weights["norms"] = np.stack(of(block, "/gamma", "/scale"))
        if biases := of(block, "/beta"):
            weights["norms_bias"] = np.stack(biases)
        return weights

    blocks = [block_of(block) for block in model.stack.blocks]
    position = model.token_embedding.position
    tables = {
        "tokens": of(model, "tokens/embeddings"),
        "positions": of(position, "/embeddings") if position is not None else [],
        "norm": of(model.stack.final_norm, "/gamma", "/scale"),
        "norm_bias": of(model.stack.final_norm, "/beta"),
    }
    return {
        "blocks": {name: np.stack([block[name] for block in blocks]) for name in blocks[0]},
        **{name: found[0] for name, found in tables.items() if found},
    }


def test_a_gpt_has_our_loss():
    model = build_gpt(**SIZES, max_sequence_length=16)
    weights = weights_of(model)
    assert sum(w.size for w in plain_jax.jax.tree.leaves(weights)) == sizes.parameters(GPT)
    ids = np.random.default_rng(1).integers(0, 61, (3, 17), dtype="int32")
    loss = ops.sparse_categorical_crossentropy(ids[:, 1:], model(ids[:, :-1]), from_logits=True)
    plain = plain_jax.gpt_loss(weights, ids, GPT, "float32")
    np.testing.assert_allclose(float(plain), np.mean(loss), rtol=1e-5)  # sums in another order


def test_a_llama_writes_our_text():
    options = {"num_key_value_heads": 2, "intermediate_dim": 88, "tie_weights": True}
    model = build_llama(**SIZES, **options)
    weights = weights_of(model)
    prompt = np.random.default_rng(1).integers(0, 61, (2, 5), dtype="int32")
    written = np.asarray(plain_jax.write(weights, prompt, LLAMA, 4))
    text = prompt
    for _ in range(4):
        newest = np.argmax(model(text), -1)[:, -1:]
        text = np.concatenate([text, newest.astype("int32")], 1)
    np.testing.assert_array_equal(written, text[:, 5:])
