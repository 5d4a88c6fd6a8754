"""How a SavedModel comes onto the disk: whole or not at all, with requests that a server warms up by; and pipelines."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_tfm import compat
from keras_tfm.files import check_is_free, written_whole
from keras_tfm.ops.int8_products import portable_products
from keras_tfm.pipelines.text_pipeline import TextPipeline
from keras_tfm.types import PathLike

# Where TensorFlow Serving looks for them, inside of the SavedModel.
WARMUP_FILE = ("assets.extra", "tf_serving_warmup_requests")

# The messages of TensorFlow Serving, field -> number: tensorflow_serving/apis/{prediction_log,predict,model}.proto.
# The package `tensorflow-serving-api` has classes of them; to depend on it for these few numbers is not worth it.
_PREDICTION_LOG = {"predict_log": 6}
_PREDICT_LOG = {"request": 1}
_PREDICT_REQUEST = {"model_spec": 1, "inputs": 2}
_MODEL_SPEC = {"name": 1, "signature_name": 3}
_MAP_ENTRY = {"key": 1, "value": 2}


def export_pipeline(pipeline: TextPipeline, path: PathLike, portable: bool = False) -> None:
    """Writes a SavedModel whose signatures take strings; it loads in a process that imports only tensorflow.

    The signatures, with their inputs and outputs, are those that the class of the pipeline names.

    Args:
        pipeline: `keras_tfm.pipelines.TextClassification`, or another of that folder.
        path: str or path of a folder that does not exist yet; servers expect `.../1`.
        portable: bool, whether it must run on processors that oneDNN's products of 8 bits do not know.

    Raises:
        FileExistsError: if `path` exists.
    """
    check_is_free(path)  # before any work
    module = tf.Module(name="text_pipeline")
    module.packer = pipeline.packer
    module.weights = [variable.value for variable in pipeline.model.variables]
    functions = pipeline.new_functions() if portable else pipeline.functions
    with portable_products() if portable else contextlib.nullcontext():
        signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    write_saved_model(module, signatures, path)


def write_saved_model(
    module: tf.Module, signatures: dict, path: str | os.PathLike, warmup_requests: Sequence[bytes] = ()
) -> None:
    """Writes a SavedModel beside its place and then renames it.

    Args:
        module: holds all that the signatures need: variables, tables.
        signatures: name -> concrete function.
        path: a folder that does not exist yet; those above it are made.
        warmup_requests: of `predict_request`; written beside the model.

    Raises:
        FileExistsError: if `path` exists.
    """
    with written_whole(path) as unfinished:
        options = compat.save_options_without_gradients()
        tf.saved_model.save(module, str(unfinished), signatures=signatures, options=options)
        if warmup_requests:
            write_warmup_requests(warmup_requests, str(unfinished))


def predict_request(signature_name: str, **inputs: Any) -> bytes:
    """One request as a `PredictionLog`, as a warm-up file holds it.

    Args:
        signature_name: str, of the SavedModel.
        **inputs: what `tf.make_tensor_proto` takes, by argument of the signature.

    Returns:
        bytes, the serialized message.
    """
    request = _field(
        _PREDICT_REQUEST["model_spec"],
        # A server warms up the model that the file lies in, whatever its name.
        _field(_MODEL_SPEC["name"], b"default") + _field(_MODEL_SPEC["signature_name"], signature_name.encode()),
    )
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        entry = _field(_MAP_ENTRY["key"], name.encode()) + _field(_MAP_ENTRY["value"], tensor)
        request += _field(_PREDICT_REQUEST["inputs"], entry)
    return _field(_PREDICTION_LOG["predict_log"], _field(_PREDICT_LOG["request"], request))


def write_warmup_requests(requests: Sequence[bytes], saved_model: str) -> None:
    """Writes requests to where servers look for them.

    Args:
        requests: what `predict_request` gives, at most 1,000: servers refuse more.
        saved_model: path of the SavedModel's folder.
    """
    path = os.path.join(saved_model, *WARMUP_FILE)
    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for request in requests:
            writer.write(request)


def _field(number: int, content: bytes) -> bytes:
    """A field of protocol buffers that holds bytes or a message: its key (wire type 2), its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the eighth bit set."""
    digits = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])
