"""How does the loss fall with parameters, tokens and compute? A grid of small GPTs, two laws, and what they foretell.

Trains each size of model on each number of tokens of Shakespeare, fits Kaplan's and Chinchilla's laws to the validation
losses, with bands by bootstrap, draws them, tells which size is best for a budget of compute, and then trains a larger
model than any of the grid, to see how far off the predictions were. What was trained is kept in the output's
losses.json, so that a run that was stopped goes on.

pip install -e ".[examples]"
python examples/scaling_laws.py                   # some 5 minutes on two CPU cores
python examples/scaling_laws.py --sizes 16x1 24x1 32x1 --tokens 10000 20000 40000 --held-out 48x1 --output runs/short
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from command_line import positive

import keras_tfm as ktfm
from keras_tfm.optional import required

figures = required("matplotlib.figure", "examples", "Pictures")  # asked for before all the work
optimize = required("scipy.optimize", "examples", "Fits")
DATA = pathlib.Path(__file__).parent / "data" / "shakespeare.txt"
SIZES = ("16x2", "32x2", "48x3", "64x4", "96x4")  # width x blocks
HELD_OUT = "128x5"
TOKENS = (100_000, 160_000, 250_000, 400_000)
VOCABULARY_SIZE, LENGTH, BATCH_SIZE = 512, 64, 8  # so small that the fewest tokens are 195 steps
NUM_BOOTSTRAPS = 200


class Run(NamedTuple):
    """A model that was trained: its weights N, the tokens D that it saw, and its validation loss, nats a token."""

    size: str
    parameters: int
    tokens: int
    loss: float

    @property
    def compute(self) -> float:
        """Floating point operations, 6 N D: Kaplan et al. 2020, section 2.1."""
        return 6.0 * self.parameters * self.tokens


# ---- the runs


class Schedule(keras.callbacks.Callback):
    """Warm-up over a tenth of the steps, then a cosine to 0: a whole schedule for each number of tokens."""

    def __init__(self, peak: float, steps: int):
        super().__init__()
        self.peak, self.steps, self.step = peak, steps, 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        warmup = max(1, self.steps // 10)
        cosine = 0.5 + 0.5 * np.cos(np.pi * max(0, self.step - warmup) / max(1, self.steps - warmup))
        self.model.optimizer.learning_rate = self.peak * min(1.0, (self.step + 1) / warmup) * cosine
        self.step += 1


def untrained(size: str) -> tuple[ktfm.models.CausalLM, int]:
    """A GPT of "width x blocks", and its weights without the positions; the table of tokens is its head as well."""
    width, blocks = map(int, size.split("x"))
    keras.utils.set_random_seed(0)
    model = ktfm.models.build_gpt(
        vocabulary_size=VOCABULARY_SIZE,
        max_sequence_length=LENGTH,
        num_layers=blocks,
        num_heads=max(1, width // 16),
        hidden_dim=width,
    )
    optimizer = keras.optimizers.AdamW(weight_decay=0.1, beta_2=0.95, global_clipnorm=1.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model, model.count_params() - LENGTH * width


def train(sizes: Sequence[str], tokens: Sequence[int], texts: tuple, file: pathlib.Path) -> list[Run]:
    """A run for each size and number of tokens; those that `file` has are not trained again."""
    done = [Run(*row) for row in json.loads(file.read_text())] if file.exists() else []
    training, validation = texts
    for size in sizes:
        left = [count for count in tokens if not any((run.size, run.tokens) == (size, count) for run in done)]
        if not left:
            continue
        model, parameters = untrained(size)  # one model for all numbers of tokens: it is traced once
        model.optimizer.build(model.trainable_variables)
        start = [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]
        peak = 0.01 * (16 / int(size.split("x")[0])) ** 0.5
        for count in left:
            for variable, value in zip([*model.variables, *model.optimizer.variables], start, strict=True):
                variable.assign(value)
            began, steps = time.time(), count // (BATCH_SIZE * LENGTH)
            data = training.dataset(BATCH_SIZE, repeat=True)
            model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[Schedule(peak, steps)])
            loss = model.evaluate(validation, verbose=0)
            done.append(Run(size, parameters, count, loss))
            file.write_text(json.dumps(done))
            print(f"{size:>8} {parameters:>10,} {count:>10,} {loss:>8.3f} {time.time() - began:>8.0f} s", flush=True)
    return [run for run in done if run.size in sizes and run.tokens in tokens]


# ---- the laws; all numbers that are fitted are logarithms or exponents


class Law(NamedTuple):
    """A form of the loss, where its search begins, and what it found."""

    name: str
    loss: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # numbers, N, D
    starts: Sequence[Sequence[float]]
    numbers: np.ndarray | None = None
    bootstrapped: np.ndarray | None = None  # (NUM_BOOTSTRAPS, numbers)

    def predicted(self, parameters: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The loss, and the lower and the upper end of the band that 90 % of the bootstrapped laws are in."""
        parameters, tokens = np.asarray(parameters, float), np.asarray(tokens, float)
        losses = [self.loss(numbers, parameters, tokens) for numbers in self.bootstrapped]
        return self.loss(self.numbers, parameters, tokens), *np.quantile(losses, [0.05, 0.95], axis=0)


@np.errstate(over="ignore")  # laws of a bootstrap may be wild
def chinchilla_loss(numbers: np.ndarray, parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """E + A / N^alpha + B / D^beta: Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, equation 2."""
    e, a, b, alpha, beta = numbers
    return np.exp(e) + np.exp(a - alpha * np.log(parameters)) + np.exp(b - beta * np.log(tokens))


@np.errstate(over="ignore")
def kaplan_loss(numbers: np.ndarray, parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """((Nc / N)^(alpha / beta) + Dc / D)^beta: Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, equation 1.5."""
    n, d, alpha, beta = numbers
    return (np.exp((n - np.log(parameters)) * alpha / beta) + np.exp(d - np.log(tokens))) ** beta


CHINCHILLA = Law(
    "Chinchilla",
    chinchilla_loss,
    [(e, a, b, x, x) for e in (-1, 0.5) for a in (2, 5) for b in (2, 5) for x in (0.3, 0.6)],
)
KAPLAN = Law("Kaplan", kaplan_loss, [(n, d, x, x) for n in (12, 20) for d in (12, 20) for x in (0.08, 0.25)])


def fitted(law: Law, runs: Sequence[Run], num_bootstraps: int = NUM_BOOTSTRAPS) -> Law:
    """The law with the numbers that fit the runs best: Huber's loss of the difference of logarithms, as Chinchilla's.

    The bootstrap fits it again to as many runs, drawn from them with replacement.
    """
    columns = np.array([(run.parameters, run.tokens, run.loss) for run in runs], float)

    def search(columns: np.ndarray, start: Sequence[float]) -> optimize.OptimizeResult:
        def error(numbers: np.ndarray) -> float:
            with np.errstate(all="ignore"):
                difference = np.log(law.loss(numbers, columns[:, 0], columns[:, 1])) - np.log(columns[:, 2])
            size, delta = np.abs(difference), 1e-3
            huber = np.where(size < delta, size**2 / 2, delta * (size - delta / 2)).sum() / delta**2
            return huber if np.isfinite(huber) and min(numbers[-2:]) > 0 else 1e12

        return optimize.minimize(error, start, method="Nelder-Mead", options={"maxiter": 4000, "adaptive": True})

    best = min((search(columns, start) for start in law.starts), key=lambda result: result.fun)
    draw = np.random.default_rng(0)
    samples = [columns[draw.integers(0, len(columns), len(columns))] for _ in range(num_bootstraps)]
    bootstrapped = np.array([search(sample, best.x).x for sample in samples]).reshape(-1, len(best.x))
    return law._replace(numbers=best.x, bootstrapped=bootstrapped)


def optimal_parameters(law: Law, compute: float) -> tuple[float, float, float]:
    """N of the lowest loss for a budget of 6 N D, and the band of the bootstrap."""
    grid = np.exp(np.linspace(np.log(1e3), np.log(1e9), 2000))
    every = [
        grid[np.argmin(law.loss(numbers, grid, compute / 6 / grid))] for numbers in (law.numbers, *law.bootstrapped)
    ]
    return every[0], *np.quantile(every[1:], [0.05, 0.95])


def frontier(runs: Sequence[Run]) -> list[Run]:
    """The runs that no other one beats with as much compute or less."""
    return [run for run in runs if not any(o.compute <= run.compute and o.loss < run.loss for o in runs)]


def compute_law(runs: Sequence[Run]) -> tuple[float, float]:
    """(log of a, exponent) of L = a C^-exponent along the frontier: a line between logarithms."""
    best = frontier(runs)
    best = best if len(best) > 1 else runs
    slope, height = np.polyfit(np.log([run.compute for run in best]), np.log([run.loss for run in best]), 1)
    return float(height), float(-slope)


# ---- what is shown


def draw(runs: Sequence[Run], held_out: Run, laws: Sequence[Law], path: pathlib.Path) -> None:
    """Loss against parameters, tokens and compute, with the first law's bands."""
    figure = figures.Figure(figsize=(15, 4.6), layout="constrained")
    by_parameters, by_tokens, by_compute = figure.subplots(1, 3, sharey=True)
    law, colours = laws[0], [f"C{number}" for number in range(10)]
    smallest, largest = min(run.parameters for run in runs), held_out.parameters
    few, many = min(run.tokens for run in runs), max(run.tokens for run in runs)
    parameters = np.geomspace(smallest, 1.3 * largest)
    tokens = np.geomspace(few, 1.3 * many)
    for colour, count in zip(colours, sorted({run.tokens for run in runs}), strict=False):
        ours = [run for run in runs if run.tokens == count]
        by_parameters.plot([run.parameters for run in ours], [run.loss for run in ours], "o", color=colour)
        line, low, high = law.predicted(parameters, np.full_like(parameters, count))
        by_parameters.plot(parameters, line, color=colour, label=f"{count:,} tokens")
        by_parameters.fill_between(parameters, low, high, color=colour, alpha=0.15)
    for colour, size in zip(colours, dict.fromkeys(run.size for run in runs), strict=False):
        ours = [run for run in runs if run.size == size]
        by_tokens.plot([run.tokens for run in ours], [run.loss for run in ours], "o", color=colour)
        line, low, high = law.predicted(np.full_like(tokens, ours[0].parameters), tokens)
        by_tokens.plot(tokens, line, color=colour, label=f"{ours[0].parameters:,} weights")
        by_tokens.fill_between(tokens, low, high, color=colour, alpha=0.15)
        by_compute.plot([run.compute for run in ours], [run.loss for run in ours], "o-", color=colour, lw=0.8)
    height, exponent = compute_law(runs)
    compute = np.geomspace(min(run.compute for run in runs), 1.3 * held_out.compute)
    by_compute.plot(compute, np.exp(height) * compute**-exponent, "k--", label=f"frontier: exponent {exponent:.3f}")
    for axes, name, x in (
        (by_parameters, "weights N", held_out.parameters),
        (by_tokens, "tokens D", held_out.tokens),
        (by_compute, "operations C = 6 N D", held_out.compute),
    ):
        axes.plot([x], [held_out.loss], "k*", markersize=12, label=f"held out: {held_out.size}")
        axes.set(xscale="log", xlabel=name)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    by_parameters.set_ylabel("validation loss, nats a token")
    figure.suptitle(f"{len(runs)} GPTs; lines and 90 % bands: {law.name}'s law")
    figure.savefig(path, dpi=110)


def main(
    sizes: Sequence[str] = SIZES,
    tokens: Sequence[int] = TOKENS,
    held_out: str = HELD_OUT,
    budget: float | None = None,
    num_bootstraps: int = NUM_BOOTSTRAPS,
    output: str | pathlib.Path = "runs/scaling_laws",
) -> dict:
    """Runs everything; returns what the laws are, what they predict and how far off they were."""
    output = pathlib.Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    text = DATA.read_text(encoding="utf-8")
    border = len(text) * 19 // 20  # the last plays are for validation
    tokenizer = ktfm.tokenizers.BytePairTokenizer.train(text[:border], VOCABULARY_SIZE)
    training = ktfm.data.pack(text[:border], tokenizer, LENGTH)
    validation = ktfm.data.pack(text[border : border + 100_000], tokenizer, LENGTH)
    if max(tokens) > training.num_tokens:
        raise SystemExit(
            f"--tokens must be at most {training.num_tokens:,}: no token is read twice. Received: {max(tokens):,}."
        )
    print(f"{'size':>8} {'weights':>10} {'tokens':>10} {'loss':>8}")
    texts = training, validation.dataset(64, shuffle=False, drop_partial_batch=True)
    runs = train(sizes, tokens, texts, output / "losses.json")
    larger = train([held_out], [max(tokens)], texts, output / "losses.json")[0]

    report: dict = {"held_out": larger.loss}
    laws = [fitted(law, runs, num_bootstraps) for law in (CHINCHILLA, KAPLAN)]
    budget = budget or larger.compute
    for law in laws:
        loss, low, high = (float(value) for value in law.predicted(larger.parameters, larger.tokens))
        best, fewest, most = optimal_parameters(law, budget)
        exponents = np.quantile(law.bootstrapped[:, -2:], [0.05, 0.95], axis=0)
        alpha, beta = law.numbers[-2:]
        residuals = [law.loss(law.numbers, run.parameters, run.tokens) / run.loss - 1 for run in runs]
        misfit = 100 * np.sqrt(np.mean(np.square(residuals)))
        is_within = min(run.parameters for run in runs) < best < larger.parameters
        trust = (
            "" if is_within else ", which is beyond all models trained here: the law says no more than the direction"
        )
        print(
            f"\n{law.name}: exponent of N {alpha:.3f} ({exponents[0, 0]:.3f} to {exponents[1, 0]:.3f}), of D "
            f"{beta:.3f} ({exponents[0, 1]:.3f} to {exponents[1, 1]:.3f}), 90 % of the bootstrap; the {len(runs)} "
            f"losses are met to {misfit:.2f} %.\n"
            f"  With {budget:.2g} operations the best model has {best:,.0f} weights ({fewest:,.0f} to {most:,.0f}) and "
            f"reads {budget / 6 / best:,.0f} tokens{trust}.\n"
            f"  {held_out}, {larger.parameters:,} weights, {larger.tokens:,} tokens: loss {loss:.3f} foretold "
            f"({low:.3f} to {high:.3f}), {larger.loss:.3f} found: off by {100 * (loss / larger.loss - 1):+.1f} %."
        )
        report[law.name] = {
            "numbers": law.numbers.tolist(),
            "predicted": [loss, low, high],
            "error": loss / larger.loss - 1,
            "optimal_parameters": [best, fewest, most],
        }
    height, exponent = compute_law(runs)
    loss = float(np.exp(height) * larger.compute**-exponent)
    print(f"\nCompute alone: exponent {exponent:.3f} along the frontier, {loss:.3f} foretold for {held_out}.")
    report["compute"] = {"exponent": exponent, "predicted": loss}
    draw(runs, larger, laws, output / "scaling_laws.png")
    (output / "laws.json").write_text(json.dumps(report, indent=2))
    print(f"The picture is in {output / 'scaling_laws.png'}, the numbers in {output / 'laws.json'}.")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="width x blocks of each model of the grid")
    parser.add_argument("--tokens", nargs="+", type=positive, default=TOKENS)
    parser.add_argument("--held-out", default=HELD_OUT, help="the model to predict the loss of")
    parser.add_argument(
        "--budget", type=float, help="operations to find the best size for; those of the held-out model"
    )
    parser.add_argument("--output", default="runs/scaling_laws")
    arguments = parser.parse_args()
    main(arguments.sizes, arguments.tokens, arguments.held_out, arguments.budget, output=arguments.output)
