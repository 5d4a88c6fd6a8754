"""What must hold for every layer and every model: `check_layer`, `check_dtypes`, `check_model`; a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from keras import tree

ROOT = Path(__file__).parents[1]
# How far two ways of computing the same may differ, given numbers of size 1: some units of the last place.
TOLERANCE = {"float32": 2e-5, "mixed_bfloat16": 5e-2, "mixed_float16": 5e-3}


def fresh_process(script: str, *arguments, **environment) -> str:
    """Runs Python code where nothing is imported yet; returns what it printed, fails with what it complained of.

    environment: variables beside those of this process.
    """
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def float32(x) -> np.ndarray:
    """NumPy, whatever the dtype was."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))


def check_config(layer) -> None:
    """config -> JSON -> layer -> config gives the same, and the JSON has everything."""
    config = layer.get_config()
    revived = layer.__class__.from_config(json.loads(json.dumps(config)))
    assert json.dumps(revived.get_config()) == json.dumps(config)


def functional(make_layer, inputs: dict, static: bool, lengths=(5, 3)):
    """A Functional model of the layer alone; `inputs`: call argument -> example array.

    static: whether the sizes T and S, which are the two `lengths`, are known.
    """
    tensors = {}
    for name, x in inputs.items():
        shape = [None if size in lengths and not static else size for size in x.shape[1:]]
        tensors[name] = keras.Input(shape, dtype=x.dtype.name, name=name)
    layer = make_layer()
    first, *others = tensors
    return keras.Model(tensors, layer(tensors[first], **{name: tensors[name] for name in others})), layer


def check_layer(make_layer, inputs: dict) -> None:
    """Static and unknown lengths agree with the layer called by itself, and its config is whole.

    make_layer(**layer kwargs) -> layer; inputs: call argument -> array, the first one positional.
    """
    first, *others = inputs
    arguments = {name: inputs[name] for name in others}
    model, layer = functional(make_layer, inputs, static=False)
    expected = float32(layer(inputs[first], **arguments))
    assert np.isfinite(expected).all()
    # The same operations, but a graph may fuse a product and its bias, and with that sum in another order.
    atol = TOLERANCE["float32"] * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(float32(model(inputs)), expected, atol=atol)
    static_model, static = functional(make_layer, inputs, static=True)
    static.set_weights(layer.get_weights())
    np.testing.assert_allclose(float32(static_model(inputs)), expected, atol=atol)
    check_config(layer)


def check_dtypes(make_layer, inputs: dict, output_dtype=None) -> None:
    """All dtypes give close outputs of that dtype, from float32 variables.

    make_layer, inputs: as in `check_layer`; output_dtype: of a layer whose output does not follow its dtype policy.
    """
    first, *others = inputs
    arguments = {name: inputs[name] for name in others}
    layer = make_layer()
    expected = float32(layer(inputs[first], **arguments))
    scale = max(1.0, float(np.abs(expected).max()))
    for dtype in ("float32", "mixed_bfloat16", "mixed_float16"):
        other = make_layer(dtype=dtype)
        other(inputs[first], **arguments)
        other.set_weights(layer.get_weights())
        y = other(inputs[first], **arguments)
        assert {weight.dtype for weight in other.weights} <= {"float32"}
        assert keras.backend.standardize_dtype(y.dtype) == (output_dtype or other.compute_dtype)
        np.testing.assert_allclose(float32(y), expected, atol=TOLERANCE[dtype] * scale)


def check_same_structure(first, second, atol) -> None:
    """Two nests of tensors are equal up to `atol`."""
    for x, y in zip(tree.flatten(first), tree.flatten(second), strict=True):
        np.testing.assert_allclose(float32(x), float32(y), atol=atol)


def last_real(logits, mask) -> np.ndarray:
    """(B, V): the logits at each row's last real token."""
    last = [np.flatnonzero(row)[-1] for row in mask]
    return float32(logits)[np.arange(len(mask)), last]


def check_decoding(model, token_ids, mask=None, pieces=(3,), atol=2e-5) -> None:
    """Reading in pieces and then token by token gives the logits of the full pass; the caches are left alone.

    token_ids int32 (B, T); mask bool (B, T) or None; pieces: lengths of the pieces that `prefill` reads.
    """
    num_rows, length = token_ids.shape
    full = float32(model({"token_ids": token_ids, "padding_mask": mask}))
    state, start = model.init_state(num_rows, length), 0
    for size in pieces:
        piece = slice(start, start + size)
        before, mask_piece = tree.map_structure(float32, state), None if mask is None else mask[:, piece]
        logits, new_state = model.prefill(token_ids[:, piece], state, mask_piece)
        check_same_structure(before, state, 0)
        if mask is None:
            np.testing.assert_allclose(float32(logits), full[:, start + size - 1], atol=atol)
        elif mask_piece.any(axis=1).all():
            expected = last_real(full[:, piece], mask_piece)
            np.testing.assert_allclose(float32(logits), expected, atol=atol)
        state, start = new_state, start + size
    for t in range(start, length):
        logits, state = model.decode_step(token_ids[:, t], state, None if mask is None else mask[:, t])
        real = np.ones(num_rows, bool) if mask is None else mask[:, t]
        np.testing.assert_allclose(float32(logits)[real], full[:, t][real], atol=atol)


def check_model(model, vocabulary_size: int, length: int = 7, atol=2e-5) -> None:
    """What every causal language model owes: causality, caching, and that padding and neighbours do not matter."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, vocabulary_size, (2, length)).astype("int32")
    logits = float32(model(token_ids))
    assert logits.shape == (2, length, vocabulary_size)

    for t in (1, length - 1):  # causality
        changed = token_ids.copy()
        changed[:, t:] = (changed[:, t:] + 1) % vocabulary_size
        other = float32(model(changed))
        np.testing.assert_allclose(other[:, :t], logits[:, :t], atol=atol)
        assert np.abs(other[:, t] - logits[:, t]).max() > 10 * atol

    for pieces in ((length,), (4,), (1, 3, length - 4)):  # caching; a hypothesis test draws other splits
        check_decoding(model, token_ids, pieces=pieces, atol=atol)

    for left in (True, False):  # padding of any content, on either side; the longer row is a batch mate
        short = length - 3
        row = token_ids[0, :short]
        mask = np.ones((2, length), bool)
        mask[0, :3] = not left
        mask[0, -3:] = left
        for filler in (0, vocabulary_size - 1):
            padded = token_ids.copy()
            padded[0] = filler
            padded[0, mask[0]] = row
            both = float32(model({"token_ids": padded, "padding_mask": mask}))
            np.testing.assert_allclose(both[0, mask[0]], float32(model(row[None]))[0], atol=atol)
            np.testing.assert_allclose(both[1], logits[1], atol=atol)
        check_decoding(model, padded, mask, pieces=(4, 1), atol=atol)
