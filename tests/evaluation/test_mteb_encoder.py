"""Retrieval, similarity and clustering by mteb are what NumPy and scikit-learn make of the encoder's vectors."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from keras_tfm.models import SentenceEncoder, build_bert
from keras_tfm.pipelines import SentenceEmbedding
from keras_tfm.tokenizers import WordPieceTokenizer

mteb = pytest.importorskip("mteb", reason="encoders are measured by mteb, which is not installed")
datasets = pytest.importorskip("datasets")
cluster = pytest.importorskip("sklearn.cluster")
metrics = pytest.importorskip("sklearn.metrics")

from keras_tfm.evaluation.mteb_encoder import MtebEncoder  # noqa: E402 - it needs mteb

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of theirs
DATA = Path(__file__).parents[2] / "examples" / "data" / "wordnet_topics.tsv"
TOPICS = ("animal", "food", "time")
PROMPTS = {"query": "word: ", "passage": "meaning: ", "Clustering": "topic: "}


@pytest.fixture(scope="module")
def rows():
    """(word, gloss, topic) of 60 glosses of three topics."""
    with DATA.open(encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["label"] in TOPICS]
    return [(row["word"], row["text"], row["label"]) for row in found[:60]]


@pytest.fixture(scope="module")
def embed(rows):
    tokenizer = WordPieceTokenizer.train([gloss for _, gloss, _ in rows], vocabulary_size=300)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 16}
    bert = build_bert(vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=64, **sizes)
    return SentenceEmbedding(SentenceEncoder(bert, prompts=PROMPTS), tokenizer)


def metadata(name, kind, score):
    return mteb.TaskMetadata(
        name=name,
        type=kind,
        main_score=score,
        dataset={"path": "local/none", "revision": "1"},
        description="Glosses of WordNet.",
        reference=None,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation="",
    )


def score_of(task, encoder):
    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


def test_ndcg_is_that_of_ranks_by_cosine(embed, rows):
    class Glosses(mteb.abstasks.AbsTaskRetrieval):
        metadata = metadata("LocalGlosses", "Retrieval", "ndcg_at_10")

        def load_data(self, **ignored):
            corpus = datasets.Dataset.from_dict({"id": [f"d{i}" for i in range(60)], "text": [row[1] for row in rows]})
            queries = datasets.Dataset.from_dict({"id": [f"q{i}" for i in range(60)], "text": [row[0] for row in rows]})
            relevant = {f"q{i}": {f"d{i}": 1} for i in range(60)}
            self.dataset = {"default": {"test": {"corpus": corpus, "queries": queries, "relevant_docs": relevant}}}
            self.dataset["default"]["test"]["top_ranked"] = None
            self.data_loaded = True

    queries = embed([f"word: {word}" for word, _, _ in rows], prompt="")
    glosses = embed([f"meaning: {gloss}" for _, gloss, _ in rows], prompt="")
    cosines = queries @ glosses.T
    ranks = (cosines > np.diag(cosines)[:, None]).sum(axis=1)  # 0 = found first
    expected = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0).mean()
    assert score_of(Glosses(), MtebEncoder(embed))["ndcg_at_10"] == pytest.approx(expected, abs=1e-4)


def test_similarity_is_the_rank_correlation_of_cosines(embed, rows):
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 60, (80, 2))
    likeness = [float(rows[i][2] == rows[j][2]) + float(len(set(rows[i][1]) & set(rows[j][1]))) / 9 for i, j in pairs]

    class Likeness(mteb.abstasks.AbsTaskSTS):
        metadata = metadata("LocalLikeness", "STS", "cosine_spearman")

        def load_data(self, **ignored):
            first, second = ([rows[i][1] for i in column] for column in pairs.T)
            data = {"sentence1": first, "sentence2": second, "score": likeness}
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(data)})
            self.data_loaded = True

    vectors = embed([row[1] for row in rows])
    expected = spearmanr((vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1), likeness)[0]
    scores = score_of(Likeness(), MtebEncoder(embed))
    assert scores["cosine_spearman"] == scores["spearman"] == pytest.approx(expected, abs=1e-4)


def test_clusters_are_those_of_the_vectors_with_the_prompt_of_the_task(embed, rows):
    class Topics(mteb.abstasks.AbsTaskClustering):
        metadata = metadata("LocalTopics", "Clustering", "v_measure")
        max_fraction_of_documents_to_embed = None
        max_documents_per_cluster = 40
        n_clusters = 3

        def load_data(self, **ignored):
            data = {"sentences": [row[1] for row in rows], "labels": [row[2] for row in rows]}
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(data)})
            self.data_loaded = True

    task = Topics(seed=42)
    scores = score_of(task, MtebEncoder(embed))
    vectors, labels = embed([row[1] for row in rows], prompt="topic: "), np.array([row[2] for row in rows])

    draw, measures = random.Random(42), []
    means = cluster.MiniBatchKMeans(3, batch_size=task.k_mean_batch_size, n_init=1, random_state=42)
    for _ in range(3):
        chosen = draw.choices(range(60), k=40)
        measures.append(metrics.v_measure_score(labels[chosen], means.fit_predict(vectors[chosen])))
    assert scores["v_measure"] == pytest.approx(np.mean(measures), abs=1e-4)


def test_only_sentence_embeddings_are_taken(embed):
    with pytest.raises(TypeError, match="`embed` must be a `SentenceEmbedding`. Received: .* of type SentenceEncoder"):
        MtebEncoder(embed.model)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        MtebEncoder(embed, batch_size=0)
