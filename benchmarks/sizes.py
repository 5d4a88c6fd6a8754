"""On paper: what training a transformer holds on each device and how long a step takes, by the kind of sharding.

`python benchmarks/sizes.py --update-docs` puts the tables into docs/scaling.md. `scale.py` shows the same formulas
beside what it measures of a small model, and the tests hold them against the variables of real ones.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
FLOAT, HALF = 4, 2  # bytes: weights, gradients and AdamW's two moments are float32 in Keras' mixed_bfloat16, too
MOMENTS = 2


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, by the names of the builders. `is_gated`: wired as Llama is, else as GPT-2."""

    num_layers: int
    num_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    vocabulary_size: int
    sequence_length: int
    is_gated: bool = True

    @property
    def key_value_dim(self) -> int:
        return self.hidden_dim // self.num_heads * self.num_key_value_heads


def gpt(num_layers: int, num_heads: int, hidden_dim: int, vocabulary_size: int, max_sequence_length: int) -> Shape:
    """The shape of `build_gpt` with these arguments."""
    sizes = (hidden_dim, 4 * hidden_dim, vocabulary_size, max_sequence_length)
    return Shape(num_layers, num_heads, num_heads, *sizes, is_gated=False)


SHAPES = {
    "1.3B (GPT-3 XL's sizes, 16 heads)": gpt(24, 16, 2048, 50257, 2048),
    "7B (Llama 2)": Shape(32, 32, 32, 4096, 11008, 32000, 4096),
    "70B (Llama 2)": Shape(80, 64, 8, 8192, 28672, 32000, 4096),
}


def block_parameters(shape: Shape) -> int:
    """Of one block: query, key, value and output; the feed-forward; two norms."""
    wide, inner = shape.hidden_dim, shape.intermediate_dim
    attention = 2 * wide * wide + 2 * wide * shape.key_value_dim
    if shape.is_gated:
        return attention + 3 * wide * inner + 2 * wide
    biases = 2 * wide + 2 * shape.key_value_dim + inner + wide
    return attention + 2 * wide * inner + biases + 4 * wide


def table_parameters(shape: Shape) -> int:
    """Of the token table, and Llama's own head or GPT's learned positions."""
    rows = 2 * shape.vocabulary_size if shape.is_gated else shape.vocabulary_size + shape.sequence_length
    return rows * shape.hidden_dim


def parameters(shape: Shape) -> int:
    """Of the whole model; the last norm is the rest."""
    last = shape.hidden_dim * (1 if shape.is_gated else 2)
    return shape.num_layers * block_parameters(shape) + table_parameters(shape) + last


def block_activations(shape: Shape, parts: int = 1) -> tuple[int, int]:
    """Numbers a token that a block keeps for its backward pass: (all of them, its input alone, which remat keeps).

    The input, what the two norms give and the sum between them are whole on each of the `parts` of tensor parallelism;
    query, key, value, the attention's output and the feed-forward's wide states are cut. Attention keeps no scores
    (the lean method, or a fused kernel), and a fused activation its input alone.
    """
    wide_states = 3 if shape.is_gated else 2  # gate, other half and their product; before and after the activation
    cut = 2 * shape.hidden_dim + 2 * shape.key_value_dim + wide_states * shape.intermediate_dim
    return 4 * shape.hidden_dim + cut // parts, shape.hidden_dim


def activation_bytes(shape: Shape, num_tokens: int, remat: bool, width: int = HALF, parts: int = 1) -> int:
    """Of all blocks for so many tokens; with remat the blocks' inputs and all of one block."""
    whole, kept = block_activations(shape, parts)
    numbers = (shape.num_layers * kept + whole) if remat else shape.num_layers * whole
    return num_tokens * numbers * width


def step_flops(shape: Shape, num_tokens: int, remat: bool) -> float:
    """Forward 2, backward 4 for each weight of a product and token, remat 2 more; causal attention sees half."""
    products = parameters(shape) - table_parameters(shape) + shape.vocabulary_size * shape.hidden_dim
    attention = 2 * shape.num_layers * shape.hidden_dim * shape.sequence_length / 2
    return (8 if remat else 6) * num_tokens * (products + attention)


class Cluster(NamedTuple):
    """Devices, and what is assumed of them: an NVIDIA H100 each, eight in a machine."""

    devices: int = 64
    in_machine: int = 8
    memory: float = 80e9
    peak: float = 989e12  # FLOP/s in bfloat16
    reached: float = 0.5  # of it, in the products of good code
    within: float = 300e9  # bytes/s each way between devices of a machine (NVLink: 450e9 at best)
    between: float = 40e9  # bytes/s each way and device between machines (400 Gbit/s: 50e9 at best)


class Sharding(NamedTuple):
    """Into how many parts each is cut; `tensor`: devices that share each product."""

    name: str
    tensor: int
    weights: int
    gradients: int
    moments: int


def shardings(cluster: Cluster) -> list[Sharding]:
    everybody, machine = cluster.devices, cluster.in_machine
    return [
        Sharding("data parallel", 1, 1, 1, 1),
        Sharding("optimizer states sharded", 1, 1, 1, everybody),
        Sharding("tensor parallel in a machine", machine, machine, machine, machine),
        Sharding("fully sharded", 1, everybody, everybody, everybody),
        Sharding("both: tensor and fully", machine, everybody, everybody, everybody),
    ]


def memory(
    shape: Shape, sharding: Sharding, cluster: Cluster, step_tokens: int, remat: bool, sequences: int = 1
) -> dict[str, float]:
    """Bytes on one device, mixed_bfloat16 and AdamW, so many sequences at once, the loss in chunks."""
    count, tokens = parameters(shape), sequences * shape.sequence_length
    # Weights in bfloat16: kept for the backward pass, if not made anew; of fully sharded ones, the block in use and
    # the one that is fetched meanwhile.
    at_once = 2 * block_parameters(shape) + shape.vocabulary_size * shape.hidden_dim
    halves = count if sharding.weights == sharding.tensor and not remat else at_once
    is_accumulated = tokens < group_tokens(sharding, cluster, step_tokens)  # then there are their sum, and a part's
    result = {
        "weights": FLOAT * count / sharding.weights,
        "gradients": FLOAT * count / sharding.gradients * (2 if is_accumulated else 1),
        "moments": MOMENTS * FLOAT * count / sharding.moments,
        "halves": HALF * halves / sharding.tensor,
        "activations": activation_bytes(shape, tokens, remat, parts=sharding.tensor),
    }
    return result | {"all": sum(result.values())}


def group_tokens(sharding: Sharding, cluster: Cluster, step_tokens: int) -> int:
    """Of a step, those of the devices that share products; of one device without tensor parallelism."""
    return step_tokens * sharding.tensor // cluster.devices


def sequences_at_once(shape: Shape, sharding: Sharding, cluster: Cluster, step_tokens: int, remat: bool) -> int:
    """As many as fit, a step's sequences in halves, quarters, ...; 1 if even that does not fit."""
    sequences = group_tokens(sharding, cluster, step_tokens) // shape.sequence_length
    while sequences > 1 and not fits(memory(shape, sharding, cluster, step_tokens, remat, sequences), cluster):
        sequences //= 2
    return sequences


def fits(bytes_of: dict[str, float], cluster: Cluster) -> bool:
    """Whether it leaves a tenth of the memory for what is not counted here: workspaces, buffers, fragments."""
    return bytes_of["all"] < 0.9 * cluster.memory


def communication(
    shape: Shape, sharding: Sharding, cluster: Cluster, step_tokens: int, remat: bool, sequences: int = 1
) -> dict[str, float]:
    """Bytes that one device sends in a step: "tensor" for the sums of products, "data" for gradients and weights.

    A sum over n devices sends 2 (n - 1) / n of its bytes, each of its halves, scattering and gathering, half of that.
    """
    groups, tokens = cluster.devices // sharding.tensor, group_tokens(sharding, cluster, step_tokens)
    half = (groups - 1) / groups * FLOAT * parameters(shape) / sharding.tensor
    if sharding.weights == sharding.tensor:
        data = 2 * half  # gradients summed; or scattered, and the new weights gathered
    else:
        num_parts = tokens / (sequences * shape.sequence_length)
        data = half + 2 * num_parts * half * HALF / FLOAT  # weights gathered as halves, forward and backward, each part
    passes = 3 if remat else 2  # over a block, each with a sum after attention and one after the feed-forward
    ring = 2 * (sharding.tensor - 1) / sharding.tensor
    return {"tensor": ring * 2 * passes * shape.num_layers * tokens * shape.hidden_dim * HALF, "data": data}


def step_seconds(
    shape: Shape, sharding: Sharding, cluster: Cluster, step_tokens: int, remat: bool, sequences: int = 1
) -> dict[str, float]:
    """Seconds of the products, of what is sent, and of a step: if gradients and weights are sent meanwhile, and if not.

    Sums of products are waited for in any case. Gradients and weights go between machines by all of a machine's ways
    out together; where a machine shares products, each device sends its own part by its own.
    """
    sent = communication(shape, sharding, cluster, step_tokens, remat, sequences)
    products = step_flops(shape, step_tokens, remat) / cluster.devices / (cluster.peak * cluster.reached)
    way_out = cluster.between * (cluster.in_machine if sharding.tensor == 1 else 1)
    tensor, data = sent["tensor"] / cluster.within, sent["data"] / min(cluster.within, way_out)
    least, most = max(products + tensor, data), products + tensor + data
    return {"products": products, "tensor": tensor, "data": data, "least": least, "most": most}


# What comes out

STEP_TOKENS = 2**20


def markdown_table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["-"] + ["-:"] * (len(headers) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def states_table() -> str:
    """What does not hang on the sharding: parameters, states and activations, in both precisions."""
    rows = []
    for name, shape in SHAPES.items():
        count, tokens = parameters(shape), shape.sequence_length
        states = FLOAT * count * (2 + MOMENTS)
        activations = [
            activation_bytes(shape, tokens, remat, width) for width in (FLOAT, HALF) for remat in (False, True)
        ]
        cells = [count, states, states + HALF * count, *activations]
        rows.append([name, *(f"{cell / 1e9:,.2f}" for cell in cells)])
    headers = ["", "10^9 parameters", "states, float32", "states, mixed_bfloat16"]
    kinds = ["float32", "float32, remat", "mixed_bfloat16", "mixed_bfloat16, remat"]
    return markdown_table([*headers, *(f"activations, {kind}" for kind in kinds)], rows)


def memory_table(cluster: Cluster) -> str:
    """Gigabytes on a device, a row for each shape and sharding."""
    rows = []
    for name, shape in SHAPES.items():
        for sharding in shardings(cluster):
            kept, remat = (memory(shape, sharding, cluster, STEP_TOKENS, remat) for remat in (False, True))
            cells = [f"{kept[key] / 1e9:,.1f}" for key in ("weights", "gradients", "moments")]
            cells += [f"{kept[key] / 1e9:,.1f} / {remat[key] / 1e9:,.1f}" for key in ("halves", "activations")]
            for one in (kept, remat):
                figure = f"{one['all'] / 1e9:,.1f}"
                cells.append(f"**{figure}**" if fits(one, cluster) else figure)
            rows.append([f"{name.split()[0]}, {sharding.name}", *cells])
    headers = ["", "weights", "gradients", "moments", "bfloat16 weights", "activations", "all", "all, remat"]
    return markdown_table(headers, rows)


def seconds_table(cluster: Cluster) -> str:
    """Seconds of a step with remat, a row for each shape and sharding that fits."""
    rows = []
    for name, shape in SHAPES.items():
        useful = step_flops(shape, STEP_TOKENS, remat=False) / cluster.devices / cluster.peak
        for sharding in shardings(cluster):
            sequences = sequences_at_once(shape, sharding, cluster, STEP_TOKENS, remat=True)
            if not fits(memory(shape, sharding, cluster, STEP_TOKENS, True, sequences), cluster):
                continue
            seconds = step_seconds(shape, sharding, cluster, STEP_TOKENS, True, sequences)
            cells = [str(sequences), *(f"{seconds[key]:,.2f}" for key in ("products", "tensor", "data"))]
            cells.append(f"{seconds['least']:,.2f} to {seconds['most']:,.2f}")
            cells.append(f"{useful / seconds['most']:.0%} to {useful / seconds['least']:.0%}")
            rows.append([f"{name.split()[0]}, {sharding.name}", *cells])
    headers = ["", "sequences at once", "products", "their sums", "gradients and weights", "step", "of the peak"]
    return markdown_table(headers, rows)


def tables() -> str:
    """All, as docs/scaling.md has them."""
    cluster = Cluster()
    return "\n\n".join(
        [
            "Gigabytes of the whole model, and activations of one sequence "
            f"({', '.join(f'{shape.sequence_length:,}' for shape in SHAPES.values())} tokens):",
            states_table(),
            f"Gigabytes on each of {cluster.devices} devices, {cluster.in_machine} in a machine, mixed_bfloat16, one "
            f"sequence at a time (kept / with remat); **bold**: at most nine tenths of {cluster.memory / 1e9:.0f} GB:",
            memory_table(cluster),
            f"Seconds of a step of {STEP_TOKENS:,} tokens with remat, for what fits; as many sequences at once as do:",
            seconds_table(cluster),
        ]
    )


def with_tables(text: str) -> str:
    """The page with the tables of today between its marks."""
    begin, end = "<!-- sizes: drawn by benchmarks/sizes.py -->", "<!-- end of sizes -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{tables()}\n{end}{rest.split(end)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update-docs", action="store_true", help="put the tables into docs/scaling.md")
    if parser.parse_args().update_docs:
        DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
    print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
