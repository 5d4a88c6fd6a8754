"""Smaller models from larger ones: fewer blocks, heads or feed-forward units, with the weights that stay."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm import compat
from keras_tfm.compression.pruning import checked_scores, projections_in
from keras_tfm.layers import FeedForward, GatedFeedForward, MultiHeadSelfAttention, TransformerStack
from keras_tfm.layers.composite import parts_of


def thinned(model: keras.Model, blocks: Iterable[int] | None = None) -> keras.Model:
    """A copy of a model with some of its blocks only: how DistilBERT's student begins.

    Args:
        model: with one `TransformerStack`, such as `CausalLM`, `MaskedLM` or `TextClassifier`.
        blocks: numbers of the blocks that stay. Default: every second one, from the first on.

    Returns:
        A model of the same class, with the teacher's weights.

    Raises:
        ValueError: for a model that is frozen, rounded, has adapters, several stacks or blocks that stand twice, or
            numbers that are not of its blocks.

    Example:
        >>> teacher = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=4)
        >>> student = thinned(teacher)
        >>> len(student.stack.blocks)
        2

    Reference:
        Sanh et al. 2019, "DistilBERT", section 3, https://arxiv.org/abs/1910.01108
    """
    place, stack = _stack_of(model)
    count = len(stack.blocks)
    kept = list(range(0, count, 2)) if blocks is None else list(blocks)
    if not kept or sorted(set(kept)) != kept or not all(0 <= i < count for i in kept):
        raise ValueError(f"`blocks` must be rising numbers of the {count} blocks. Received: blocks={kept}.")
    config = model.get_config()
    described = _config_at(config, place)["config"]
    described["blocks"] = [described["blocks"][i] for i in kept]

    def source(path: str) -> str:
        start = f"{place}.blocks."
        if not path.startswith(start):
            return path
        number, dot, rest = path.removeprefix(start).partition(".")
        return f"{start}{kept[int(number)]}{dot}{rest}"

    return _rebuilt(model, config, source, {})


def pruned(
    model: keras.Model,
    heads: float = 0.0,
    feed_forward: float = 0.0,
    scores: Mapping[str, np.ndarray] | None = None,
) -> keras.Model:
    """A copy of a model without the heads and feed-forward units that matter least: smaller, and faster.

    Each block loses the same share. Where several query heads share keys and values, they go together.

    Args:
        model: with one `TransformerStack`.
        heads: float in [0, 1), the share of each attention's key and value heads that go; one stays at least.
        feed_forward: float in [0, 1), the share of each feed-forward's units.
        scores: how much each weight matters, as `magnitudes` or `Movement` give it; a head's or a unit's is the sum
            of its weights'. Default: `magnitudes`.

    Returns:
        A model of the same class.

    Raises:
        ValueError: for shares outside of [0, 1), scores of other weights, models as in `thinned`, and heads that have a
            bias of their own (ALiBi, T5), a sink or a gate.

    Example:
        >>> model = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=1)
        >>> small = pruned(model, heads=0.5, feed_forward=0.25)

    Reference:
        Michel et al. 2019, "Are Sixteen Heads Really Better than One?", https://arxiv.org/abs/1905.10650
    """
    for name, share in {"heads": heads, "feed_forward": feed_forward}.items():
        if not 0 <= share < 1:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={share}.")
    place, stack = _stack_of(model)
    if heads and stack.position_bias is not None:
        raise ValueError(
            f"Heads must be without a bias of their own to be pruned. Received: {type(stack.position_bias).__name__}."
        )
    scores = checked_scores(model, scores)
    config = model.get_config()
    kept: dict[str, tuple] = {}  # path of a projection -> (inputs, outputs) that stay, None = all
    for path, part, _ in parts_of(stack):
        where = f"{place}.{path}"
        described = _config_at(config, where)["config"] if _is_pruned(part) else {}
        if isinstance(part, MultiHeadSelfAttention) and heads:
            if part.sink is not None or part.output_gate is not None:
                raise ValueError(f"Heads must be without a sink and a gate to be pruned. Received: {where} with one.")
            groups = _best(_head_scores(part, where, scores), heads)
            shared, queries = _columns(groups, part.head_dim), part.num_heads // part.num_key_value_heads
            many = _columns(groups, part.head_dim * queries)
            kept |= {f"{where}.{name}_dense": (None, shared) for name in ("key", "value")}
            kept |= {f"{where}.query_dense": (None, many), f"{where}.output_dense": (many, None)}
            described |= {"num_heads": len(groups) * queries, "num_key_value_heads": len(groups)}
            described["head_dim"] = part.head_dim
        elif isinstance(part, FeedForward | GatedFeedForward) and feed_forward:
            rising = [name for name in ("gate_dense", "intermediate_dense") if hasattr(part, name)]
            total = sum(scores[f"{where}.{name}"].sum(0) for name in rising) + scores[f"{where}.output_dense"].sum(1)
            units = _best(total, feed_forward)
            kept |= {f"{where}.{name}": (None, units) for name in rising}
            kept[f"{where}.output_dense"] = (units, None)
            described["intermediate_dim"] = len(units)
    return _rebuilt(model, config, lambda path: path, kept)


def _is_pruned(part) -> bool:
    return isinstance(part, MultiHeadSelfAttention | FeedForward | GatedFeedForward)


def _head_scores(attention, where, scores) -> np.ndarray:
    """(number of key and value heads,)."""
    columns = (scores[f"{where}.{name}_dense"].sum(0) for name in ("query", "key", "value"))
    parts = [*columns, scores[f"{where}.output_dense"].sum(1)]
    return sum(part.reshape(attention.num_key_value_heads, -1).sum(1) for part in parts)


def _best(scores: np.ndarray, share: float) -> np.ndarray:
    """Places of the best ones, in their order, without this share of the others."""
    count = max(1, len(scores) - int(share * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def _columns(groups: np.ndarray, width: int) -> np.ndarray:
    """Columns of groups that are so wide."""
    return (groups[:, None] * width + np.arange(width)).ravel()


def _stack_of(model) -> tuple[str, TransformerStack]:
    """(path, stack) of a model that can be made smaller."""
    projections_in(model)  # raises where they are rounded or adapted
    stacks = [(path, part) for path, part, _ in parts_of(model) if isinstance(part, TransformerStack)]
    if len(stacks) != 1:
        raise ValueError(f"A model must have one `TransformerStack` to be made smaller. Received: {len(stacks)}.")
    place, stack = stacks[0]
    if len({id(block) for block in stack.blocks}) < len(stack.blocks):
        raise ValueError("Blocks must be different to be made smaller. Received: one that stands several times.")
    if frozen := [path for path, part, _ in parts_of(model) if not part.trainable]:
        raise ValueError(
            f"A model must be trainable as a whole to be made smaller. Received: {frozen[0]}, which is frozen. Set "
            "its `trainable` to True, and freeze what you want afterwards."
        )
    return place, stack


def _config_at(config: dict, path: str) -> Any:
    """The serialized layer at a path of attributes, which are named as the constructors' arguments."""
    found: Any = {"config": config}
    for name in path.split("."):
        found = found[int(name)] if isinstance(found, list) else found["config"][name]
    return found


def _rebuilt(model, config: dict, source: Callable[[str], str], kept: dict[str, tuple]) -> keras.Model:
    """A model of this config with the weights of `model`: those of the part at `source(path)`, of which some stay."""
    smaller = type(model).from_config(config)
    parts = {path: part for path, part, _ in parts_of(model)}
    for path, part, _ in parts_of(smaller):
        inputs, outputs = kept.get(path, (None, None))
        pairs = zip(compat.own_variables(part), compat.own_variables(parts[source(path)]), strict=True)
        for variable, theirs in pairs:
            value = ops.convert_to_numpy(theirs)
            if outputs is not None:
                value = value[..., outputs]
            if inputs is not None and value.ndim == 2:
                value = value[inputs]
            variable.assign(value)
    return smaller
