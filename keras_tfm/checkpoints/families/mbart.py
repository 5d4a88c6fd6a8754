"""mBART and mBART-50: BART in many languages, with norms before each sublayer."""

from keras_tfm.checkpoints.families import bart

ARCHITECTURES = (
    bart.architecture(
        name="MBartForConditionalGeneration",
        model_type="mbart",
        # A translation starts from the code of its language: nothing but the config tells which.
        config=bart.config("pre", default_start=None),
        tensors=bart.tensors(is_pre=True),
    ),
)
