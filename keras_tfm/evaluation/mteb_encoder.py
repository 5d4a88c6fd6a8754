"""Sentence encoders in MTEB, the benchmark of text embeddings. `import keras_tfm` does not import this module."""

from typing import Any

import numpy as np

from keras_tfm.arguments import as_integer
from keras_tfm.optional import required
from keras_tfm.pipelines import SentenceEmbedding

base: Any = required("mteb.models.abs_encoder", "evaluation", "Encoders for mteb")
meta: Any = required("mteb.models.model_meta", "evaluation", "Encoders for mteb")


class MtebEncoder(base.AbsEncoder):
    """A sentence encoder for `mteb.evaluate`: retrieval, similarity, clustering and whatever tasks take vectors.

    Its vectors are compared by their cosines. Of the model's `prompts` that with the name of the task, its type or the
    kind of text, "query" or "document" (or "passage"), is put before a text; else the model's default prompt, if any.

    Args:
        embed: `SentenceEmbedding`, as `checkpoints.open(...).pipeline()` gives it for sentence-transformers.
        name: str with one slash, under which results are filed.
        batch_size: int, texts that are read at once.

    Raises:
        TypeError: for anything but a `SentenceEmbedding`. ImportError: without mteb (`pip install ".[evaluation]"`),
            when the module is imported.

    Example:
        >>> from keras_tfm.evaluation.mteb_encoder import MtebEncoder
        >>> embed = ktfm.checkpoints.open("sentence-transformers/all-MiniLM-L6-v2").pipeline()
        >>> mteb.evaluate(MtebEncoder(embed), mteb.get_tasks(tasks=["STS12", "NFCorpus"]))

    Reference:
        Muennighoff et al. 2022, "MTEB: Massive Text Embedding Benchmark", https://arxiv.org/abs/2210.07316
    """

    def __init__(self, embed: SentenceEmbedding, name: str = "keras_tfm/encoder", batch_size: int = 64):
        if not isinstance(embed, SentenceEmbedding):
            raise TypeError(
                f"`embed` must be a `SentenceEmbedding`. Received: {embed!r:.80} of type {type(embed).__name__}. Make "
                "one of the `SentenceEncoder` and its tokenizer."
            )
        self.embed = embed
        self.batch_size = as_integer("batch_size", batch_size, 1)
        prompts = embed.model.prompts
        if "passage" in prompts:
            prompts.setdefault("document", prompts["passage"])  # the name that mteb asks for
        self.model_prompts = prompts or None
        self.mteb_model_meta = meta.ModelMeta.create_empty(
            {
                "name": name,
                "revision": "local",
                "embed_dim": embed.model.hidden_dim,
                "max_tokens": embed.sequence_length,
                "similarity_fn_name": meta.ScoringFunction.COSINE,
            }
        )

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **ignored: Any) -> np.ndarray:
        """The vectors of all texts.

        Args:
            inputs: batches, each a dict of "text", a list of str.
            task_metadata: of the task. prompt_type: whether the texts are queries or documents, or None.
            **ignored: what mteb says besides.

        Returns:
            float32 (N, D).
        """
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = (self.model_prompts or {}).get(self.get_prompt_name(task_metadata, prompt_type))
        return self.embed(texts, self.batch_size, prompt=prompt)
