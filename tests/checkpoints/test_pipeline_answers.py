"""The pipelines of transformers answer the same from the folder of a model and from the one that we save of it."""

import warnings

import pytest
import torch
import transformers

from keras_tfm import checkpoints
from tests.checkpoints.families import FAMILIES, tiny
from tests.checkpoints.seq2seq_families import tiny_seq2seq
from tests.checkpoints.test_encoders import tiny as tiny_encoder
from tests.checkpoints.tokenizer_folders import FOLDERS

TEXTS = ["What light through yonder window breaks?", "the  foo-bar, covid é"]
# Whose tokenizer each class of models has.
TOKENIZERS = {
    "GPT2": "gpt2",
    "Llama": "llama2_chatml",
    "Mistral": "mistral_json",
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Gemma2": "gemma2",
    "GPTNeoX": "neox",
    "Bloom": "bloom",
    "Bert": "bert",
    "DistilBert": "bert",
    "Roberta": "roberta",
}
SEQ2SEQ = {"t5": "t5", "mt5": "t5", "bart": "roberta"}
HEADS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "feature-extraction": "Model",
}
CASES = [
    *((family, "text-generation") for family in FAMILIES),
    *((family, "text2text-generation") for family in SEQ2SEQ),
    *((family, task) for family in ("Bert", "DistilBert", "Roberta") for task in HEADS),
]
FAST = (("Bert", "token-classification"),)


def loaded(folder, kind):
    return kind.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def answers(folder, task):
    if task == "text2text-generation":  # transformers 5 has no pipelines of these two names any more
        model, tokenizer = loaded(folder, transformers.AutoModelForSeq2SeqLM)
        inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        written = model.generate(**inputs, num_beams=3, max_new_tokens=6, min_new_tokens=3)
        return tokenizer.batch_decode(written)
    if task == "question-answering":
        model, tokenizer = loaded(folder, transformers.AutoModelForQuestionAnswering)
        options = {"truncation": "only_second", "max_length": 40, "stride": 8, "padding": True}
        windows = tokenizer("what light?", " ".join(TEXTS), return_overflowing_tokens=True, **options)
        names = [name for name in tokenizer.model_input_names if name in windows]
        logits = model(**{name: torch.tensor(windows[name]) for name in names})
        return [logits.start_logits.tolist(), logits.end_logits.tolist()]
    pipeline = transformers.pipeline(task, str(folder), device="cpu")
    if task == "text-generation":
        return pipeline(TEXTS, max_new_tokens=6, min_new_tokens=3, do_sample=False)
    return pipeline(TEXTS)


@pytest.mark.parametrize(
    ("family", "task"), [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES]
)
def test_answers_are_the_same_before_and_after_saving(family, task, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    kind = FAMILIES[family][0] if family in FAMILIES else family
    _, put = FOLDERS[SEQ2SEQ.get(family) or TOKENIZERS[kind]]
    put(folder)
    if (folder / "tokenizer_config.json").is_file() and family == "DistilBert":
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "DistilBertTokenizer"}')
    if task == "text-generation":
        longest = {"n_positions": 64} if kind == "GPT2" else {}
        model = tiny(family, vocab_size=416, **longest)
    elif task == "text2text-generation":
        model = tiny_seq2seq(family, vocab_size=416, **({"max_position_embeddings": 64} if family == "bart" else {}))
    else:
        model = tiny_encoder(family, HEADS[task], vocab_size=416, max_position_embeddings=128)
    model.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about lengths
        checkpoint = checkpoints.open(folder)
        checkpoints.save(checkpoint.model(), tmp_path / "saved", checkpoint.tokenizer())
        expected, found = answers(folder, task), answers(tmp_path / "saved", task)
    assert found == expected
    assert len(str(expected)) > 20  # not empty texts
