"""Folders with the files of Marian's tokenizers, of two small SentencePiece models: `write(folder)`."""

import functools
import io
import json
from pathlib import Path

import sentencepiece

from keras_tfm.tokenizers.sentence_piece_proto import CONTROL, UNKNOWN, read_proto

VERSES = Path(__file__).parents[2] / "examples" / "data" / "en_es.tsv"
SPECIAL = ("</s>", "<unk>", "<pad>")
CODES = (">>es<<", ">>fr_XX<<")


@functools.cache
def model(side: str, kind: str = "unigram", size: int = 200, **options) -> bytes:
    """A model of some pieces of the English ("source") or the Spanish ("target") verses."""
    lines = VERSES.read_text(encoding="utf-8").split("\n")[1:400]
    texts = [line.split("\t")[{"source": -2, "target": -1}[side]] for line in lines if line]
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=size, model_type=kind, minloglevel=2, **options
    )
    return file.getvalue()


def vocabulary(*models: bytes, more=()) -> dict[str, int]:
    """Ids in an order of their own: most pieces of the models, what else there is, and padding last."""
    pieces = {
        piece.text: None for one in models for piece in read_proto(one).pieces if piece.kind not in (CONTROL, UNKNOWN)
    }
    kept = [piece for number, piece in enumerate(sorted(pieces)) if number % 7]  # the others are unknown
    return {token: number for number, token in enumerate(dict.fromkeys([*SPECIAL[:2], *kept, *more, SPECIAL[2]]))}


def write(folder: Path, separate: bool = False, kind: str = "unigram", config=None, **options) -> None:
    """Puts the files of a tokenizer there, as a converted model of Marian has them."""
    models = {side: model(side, kind, **options) for side in ("source", "target")}
    folder.mkdir(parents=True, exist_ok=True)
    for side, content in models.items():
        (folder / f"{side}.spm").write_bytes(content)
    vocabularies = {"vocab": vocabulary(*models.values(), more=(*CODES, "語", "日本", "ñandú"))}
    if separate:
        vocabularies = {"vocab": vocabulary(models["source"]), "target_vocab": vocabulary(models["target"])}
    for name, ids in vocabularies.items():
        (folder / f"{name}.json").write_text(json.dumps(ids), encoding="utf-8")
    config = {"model_max_length": 512, "source_lang": "en", "target_lang": "es", **(config or {})}
    config |= {"separate_vocabs": True} if separate else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
