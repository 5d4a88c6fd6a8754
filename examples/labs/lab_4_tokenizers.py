# %% [markdown]
# # Lab 4: tokenizers
#
# A model reads numbers. Which pieces of text get a number decides how long its inputs are, how large its embedding
# is, and what it cannot spell. You will write byte-pair encoding, find the library's merges with it, and compare
# kinds and sizes.
#
# `pip install -e ".[visualization,sentencepiece]"`, then `python examples/labs/lab_4_tokenizers.py`; some two
# minutes.

# %%
import collections
import itertools
import re

import numpy as np
from lab import folder_of

import keras_tfm as ktfm

OUTPUT = "runs/labs/4_tokenizers"
SIZES = [256, 512, 1024, 2048, 4096]
CHARACTERS = 300_000  # of the texts to train on
NUM_MERGES = 200  # of the comparison in part 1

output = folder_of(OUTPUT)

# %% [markdown]
# ## 1. Byte-pair encoding by hand
#
# Begin with single bytes. Count which two tokens stand beside each other most often, make one of them, and do it
# again (Sennrich et al. 2015). Words are kept apart, with the space before them.
#
# *What you should see:* the first merges are the most frequent pairs of letters of English, and all of them are the
# library's.

# %%
import tokenizer_study  # noqa: E402 - one of the other examples

train, test = tokenizer_study.shakespeare(CHARACTERS)
NUM_BYTES = 256


def words_of(text):
    """The words of a text as GPT-2 cuts them, with their numbers."""
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"  # the text is ASCII
    return collections.Counter(re.findall(pattern, text))


def merge(tokens, pair):
    """The tokens of a word, with the pair made one wherever it stands."""
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def learn_merges(text, number):
    words = {tuple(bytes([b]) for b in word.encode()): count for word, count in words_of(text).items()}
    merges = []
    for _ in range(number):
        pairs = collections.Counter()
        for tokens, count in words.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += count
        best = max(pairs, key=pairs.get)
        merges.append(best[0] + best[1])
        words = {tuple(merge(list(tokens), best)): count for tokens, count in words.items()}
    return merges


by_hand = learn_merges(train, NUM_MERGES)
library = ktfm.tokenizers.BytePairTokenizer.train(train, NUM_BYTES + NUM_MERGES + 1)  # and the end of a text
theirs = {library.token_bytes(i) for i in range(library.vocabulary_size)}
print("the first merges:", [piece.decode() for piece in by_hand[:20]])
shared = np.mean([piece in theirs for piece in by_hand])
print(f"{shared:.1%} of {NUM_MERGES} merges are the library's (pairs that are equally frequent have no order)")

# %% [markdown]
# ## 2. Kinds and sizes
#
# BPE merges what is frequent; WordPiece what is more frequent together than its parts suggest; Unigram begins with
# many pieces and throws away those that are missed least.
#
# *What you should see:* with the vocabulary, words are cut into fewer tokens and the embedding grows; the gain
# flattens. Bytes know everything and take four times as many tokens; WordPiece has words that it cannot spell.

# %%
rows, largest = tokenizer_study.study("Shakespeare", train, test, SIZES)
labels = ("entries of the vocabulary", "tokens a word")
tokenizer_study.draw({"Shakespeare": rows}, output / "fertility.png", "size", "fertility", labels)

# %% [markdown]
# ## 3. Texts that are hard to cut
#
# *What you should see:* numbers are cut at other places than their digits' value suggests, which is why models are
# bad at comparing 9.11 and 9.9; scripts that were not in the training fall to bytes, or to nothing at all.

# %%
for name, text in tokenizer_study.HARD.items():
    print(f"{name}: {text!r}")
    for kind, tokenizer in largest.items():
        print(f"    {kind:<9} {tokenizer_study.cut(tokenizer, text)}")

# %% [markdown]
# ## 4. Nothing is lost, or is it?
#
# *What you should see:* byte-level tokenizers give every text back; WordPiece has [UNK] in the place of what it does
# not know.

# %%
returned = {
    kind: [tokenizer.decode(tokenizer.encode(text)) == text for text in tokenizer_study.HARD.values()]
    for kind, tokenizer in largest.items()
}
for kind, whole in returned.items():
    print(f"{kind:<10} gives back {sum(whole)} of {len(whole)} texts as they were")
print(f"Pictures are in {output}.")

# %% [markdown]
# ## Questions
#
# 1. Train on Shakespeare and cut Spanish (`tokenizer_study.verses`). How many tokens has a word, and who pays for
# that?
# 2. A model of width 512 has 8 blocks of 3.1 million weights. From which vocabulary on is its embedding the larger
# part?
# 3. Why do most tokenizers cut text into words first? Take `words_of` away and look at the merges.
