"""A text pipeline as a SavedModel: tokenizer, model and what makes answers of logits in one graph."""

import tensorflow as tf

from keras_tfm.export.writing import write_saved_model
from keras_tfm.files import check_is_free


def export_pipeline(pipeline, path) -> None:
    """Writes a SavedModel whose signatures take strings; it loads in a process that imports only tensorflow.

    The signatures, with their inputs and outputs, are those that the class of the pipeline names.

    Args:
        pipeline: `keras_tfm.pipelines.TextClassification`, or another of that folder.
        path: str or path of a folder that does not exist yet; servers expect `.../1`.

    Raises:
        FileExistsError: if `path` exists.
    """
    check_is_free(path)  # before any work
    module = tf.Module(name="text_pipeline")
    module.packer = pipeline.packer
    module.weights = [variable.value for variable in pipeline.model.variables]
    signatures = {name: function.get_concrete_function() for name, function in pipeline.functions.items()}
    write_saved_model(module, signatures, path)
