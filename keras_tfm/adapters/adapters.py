"""Adapters on a model: put beside projections, switched, merged into the kernels, taken away."""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
from keras import ops

from keras_tfm import compat
from keras_tfm.layers import Bottleneck, Ia3, Lora, Projection, VirtualTokens
from keras_tfm.layers.adapter import Adaptable, Adapter
from keras_tfm.layers.composite import forget_compiled, parts_of
from keras_tfm.layers.lora import column_lengths

# What a projection is for -> an expression that its path matches.
ROLES = {
    "query": r"attention\.query_dense$",
    "key": r"attention\.key_dense$",
    "value": r"attention\.value_dense$",
    "attention_output": r"attention\.output_dense$",
    "feed_forward": r"feed_forward\.\w+_dense$",
    "feed_forward_output": r"feed_forward\.output_dense$",
    "head": r"^head$",
}


def add_lora(
    model: keras.Model,
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] = ("query", "value"),
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    name: str = "default",
    trained: str | Iterable[str] = (),
) -> None:
    """Puts a LoRA beside each target, and freezes all else; the model computes what it did before.

    `compile` the model afterwards. `fit`, `generate`, exports and `.keras` files go on working; only the adapters, and
    the optimizer's state for them, take memory for gradients. Kernels may be rounded to 8 bits before or after
    (QLoRA): they are frozen, and kept apart.

    Args:
        model: of this library, or any with its layers in it.
        rank: int, of the matrices.
        alpha: float; what is learned is multiplied by alpha / rank.
        targets: names of `ROLES` ("query", "key", "value", "attention_output", "feed_forward",
            "feed_forward_output", "head"), or regular expressions that are searched in the paths that `projections_of`
            gives; one, or several.
        dropout: float, rate of dropout of the adapters' inputs.
        rslora: bool, alpha / sqrt(rank) instead.
        dora: bool, DoRA: learned lengths of the kernels' columns as well.
        name: of the adapter; several may be beside each other, and `use` chooses.
        trained: expressions of paths of layers that are trained as they are, such as "^head$" (peft's
            `modules_to_save`).

    Raises:
        ValueError: for a target that is in no path, a name that is there already, a layer that has an activation or
            cannot be adapted; before anything is changed.

    Example:
        >>> model = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=1)
        >>> ktfm.adapters.add_lora(model, rank=4, targets=("query", "value", "feed_forward"))
        >>> model.compile("adamw", loss="chunked")

    Reference:
        Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685
    """
    chosen = _matching(projections_of(model), targets, "targets")
    make = {path: lambda layer: make_lora(layer, rank, alpha, dropout, rslora, dora, name) for path in chosen}
    add_to(model, name, chosen, make, trained)


def add_ia3(
    model: keras.Model,
    targets: str | Iterable[str] = ("key", "value"),
    input_targets: str | Iterable[str] = ("feed_forward_output",),
    name: str = "default",
    trained: str | Iterable[str] = (),
) -> None:
    """Puts a learned factor on each output of some projections and on each input of others, and freezes all else.

    Args:
        model, name, trained: as in `add_lora`.
        targets: as in `add_lora`, projections whose outputs are scaled.
        input_targets: those whose inputs are.

    Raises:
        ValueError: as `add_lora`.

    Example:
        >>> model = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=1)
        >>> ktfm.adapters.add_ia3(model)

    Reference:
        Liu et al. 2022, section 3.3, https://arxiv.org/abs/2205.05638
    """
    projections = projections_of(model)
    outputs = _matching(projections, targets, "targets")
    inputs = _matching(projections, input_targets, "input_targets")
    if both := sorted(set(outputs) & set(inputs)):
        raise ValueError(f"A projection must be in one of `targets` and `input_targets`. Received: {both[:3]} in both.")
    make: dict[str, Callable] = {path: lambda layer: make_ia3(layer, False, name) for path in outputs}
    make |= {path: lambda layer: make_ia3(layer, True, name) for path in inputs}
    add_to(model, name, {**outputs, **inputs}, make, trained)


def add_bottlenecks(
    model: keras.Model,
    bottleneck_dim: int = 16,
    activation: Any = "gelu",
    targets: str | Iterable[str] = ("attention_output", "feed_forward_output"),
    name: str = "default",
    trained: str | Iterable[str] = (),
) -> None:
    """Puts a small feed-forward with a residual connection after each target, and freezes all else.

    They cannot be merged, since they are not linear, and peft has no file for them: `.keras` files keep them.

    Args:
        model, targets, name, trained: as in `add_lora`; the paper has norms trained as well, `trained="norm"`.
        bottleneck_dim: int, width of the hidden layer.
        activation: of the hidden units.

    Raises:
        ValueError: as `add_lora`.

    Example:
        >>> model = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=1)
        >>> ktfm.adapters.add_bottlenecks(model, bottleneck_dim=8)

    Reference:
        Houlsby et al. 2019, section 2.1, https://arxiv.org/abs/1902.00751
    """
    chosen = _matching(projections_of(model), targets, "targets")

    def make(projection):
        check_is_linear(projection)
        dtype = _dtype_of(projection)
        return Bottleneck(projection.units, bottleneck_dim, activation, dtype=dtype, name=name)

    add_to(model, name, chosen, dict.fromkeys(chosen, make), trained)


def add_to(
    model: keras.Model,
    name: str,
    chosen: Mapping[str, Adaptable],
    make: Mapping[str, Callable],
    trained: str | Iterable[str],
) -> None:
    """Makes an adapter for each layer by path, and when all could be made, puts them there and freezes all else."""
    check_is_new(model, name)
    kept = _matching(_layers_of(model), trained, "trained")
    made = {path: make[path](layer) for path, layer in chosen.items()}
    for path, adapter in made.items():
        check_fits(chosen[path], adapter)
    for path, adapter in made.items():
        attach(chosen[path], adapter)
    freeze(model)
    for layer in kept.values():
        layer.trainable = True
    forget_compiled(model)


def make_lora(
    projection: Projection,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    name: str = "default",
) -> Lora:
    """A `Lora` for a projection, not yet beside it."""
    check_is_linear(projection)
    if dora and projection.quantization_mode is not None:
        raise ValueError(
            f"DoRA must see the kernel. Received: {projection.path}, which Keras has quantized. Use LoRA, or "
            "`quantize_for_generation`."
        )
    return Lora(projection.units, rank, alpha, dropout, rslora, dora, dtype=_dtype_of(projection), name=name)


def make_ia3(projection: Projection, on_inputs: bool, name: str = "default") -> Ia3:
    """An `Ia3` for a projection, not yet beside it."""
    check_is_linear(projection)
    size = projection.input_spec.axes[-1] if on_inputs else projection.units
    return Ia3(size, on_inputs, dtype=_dtype_of(projection), name=name)


def check_is_linear(projection: Projection) -> None:
    """Raises if a projection cannot have an adapter."""
    if projection.activation is not keras.activations.linear:
        raise ValueError(f"A layer with an adapter must be without activation. Received: {projection.path}.")


def check_fits(layer: Adaptable, adapter: Adapter) -> None:
    """Raises if there are adapters of another kind beside a layer: none could say which comes first."""
    if others := {type(one).__name__ for one in layer.adapters} - {type(adapter).__name__}:
        raise ValueError(
            f"The adapters of a projection must be of one kind. Received: a {type(adapter).__name__} for "
            f"{layer.path}, which has a {others.pop()}. Choose other `targets`, or `remove` that."
        )


def _dtype_of(projection):
    return projection.dtype_policy if projection.quantization_mode is None else projection.compute_dtype


def attach(layer: Any, adapter: Adapter) -> None:
    """Puts it beside the layer; DoRA's lengths begin with those of the kernel."""
    layer.trainable = True  # itself: what it holds is frozen by `add_adapter`
    with contextlib.ExitStack() as scopes:
        for name in layer.path.split("/"):
            scopes.enter_context(keras.name_scope(name))
        layer.add_adapter(adapter)
    if isinstance(adapter, Lora) and adapter.dora:
        adapter.magnitude.assign(column_lengths(layer.kernel_values()))


def freeze(model: keras.Model) -> None:
    """Freezes all weights but those of adapters."""
    adapters = adapters_of(model)
    theirs = {id(part) for lora in adapters for part in compat.all_layers(lora)}
    for layer in compat.all_layers(model, include_self=False):
        if id(layer) in theirs:
            continue
        if any(id(part) in theirs for part in compat.all_layers(layer)):
            for variable in compat.own_variables(layer):  # as a whole it must stay trainable
                variable.trainable = False
        else:
            layer.trainable = False


def projections_of(model: keras.layers.Layer) -> dict[str, Projection]:
    """The dense layers of a model that can be adapted, by path.

    Example:
        >>> list(projections_of(model))[:2]
        ['stack.blocks.0.self_attention.query_dense', 'stack.blocks.0.self_attention.key_dense']
    """
    return {path: layer for path, layer in _layers_of(model).items() if isinstance(layer, Projection)}


def adapters_of(model: keras.layers.Layer) -> list[Adapter]:
    """All adapters of a model, layer by layer."""
    return [adapter for layer in _adaptable(model) for adapter in layer.adapters]


def _adaptable(model) -> list[Adaptable]:
    return [layer for layer in _layers_of(model).values() if isinstance(layer, Adaptable)]


def adapter_names(model: keras.layers.Layer) -> list[str]:
    """The names of a model's adapters, in the order in which they were added."""
    return list(dict.fromkeys(lora.name for lora in adapters_of(model)))


def check_is_new(model: keras.layers.Layer, name: str) -> None:
    """Raises if there is an adapter of this name."""
    if name in adapter_names(model):
        raise ValueError(f"`name` must be of no adapter that is there. Received: name={name!r}. Remove that first.")


def use(model: keras.layers.Layer, adapters: str | Iterable[str] | Mapping[str, float]) -> None:
    """Chooses the adapters that count; the others are kept.

    Args:
        model: with adapters.
        adapters: a name, names, or a dict from names to shares of what they change; () is none.

    Raises:
        ValueError: for a name that is not there; for virtual tokens with a share that is not 0 or 1.

    Example:
        >>> use(model, {"polite": 0.7, "short": 0.3})
    """
    given = [adapters] if isinstance(adapters, str) else adapters
    shares = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
    _check_names(model, shares)
    for virtual in _virtual_tokens_of(model):
        if shares.get(virtual.name, 0.0) not in (0.0, 1.0):
            raise ValueError(
                "The share of virtual tokens must be 0 or 1: they are read, or not. Received: "
                f"{virtual.name!r}: {shares[virtual.name]}."
            )
    for lora in adapters_of(model):
        lora.share = float(shares.get(lora.name, 0.0))
    forget_compiled(model)


def _virtual_tokens_of(model) -> list[VirtualTokens]:
    return [one for one in adapters_of(model) if isinstance(one, VirtualTokens)]


def merge(model: keras.Model, name: str | None = None) -> None:
    """Adds adapters to the kernels, so that they take no time; `unmerge` takes them out again, exactly.

    Args:
        model: with adapters.
        name: of one of them. Default: all that count.

    Raises:
        ValueError: for a name that is not there, a kernel that is rounded, an adapter that is not linear, or virtual
            tokens; before anything is changed.
    """
    _check_names(model, [] if name is None else [name])
    if virtual := [one.name for one in _virtual_tokens_of(model) if one.is_active and name in (None, one.name)]:
        raise ValueError(
            f"Virtual tokens are in no kernel, and must not be merged. Received: {virtual}. Give the `name` of another "
            "adapter, or leave them as they are."
        )
    chosen = [
        (projection, [one for one in projection.adapters if one.is_active and name in (None, one.name)])
        for projection in projections_of(model).values()
    ]
    chosen = [(projection, adapters) for projection, adapters in chosen if adapters]
    changed = []
    for projection, adapters in chosen:
        if not projection.is_in_floats:
            raise ValueError(
                f"A kernel must be in floats to be merged. Received: {projection.path}, which is rounded. Load the "
                "model without `quantize`, and its adapters, and merge these."
            )
        weights = projection.kernel, projection.bias if projection.use_bias else None
        before = tuple(None if x is None else ops.convert_to_numpy(x) for x in weights)
        for adapter in adapters:
            weights = adapter.merged_with(*weights)
        changed.append((before, weights))
    for (projection, adapters), (before, weights) in zip(chosen, changed, strict=True):
        projection.unmerged = projection.unmerged or before
        _assign(projection, *weights)
        for adapter in adapters:
            adapter.merged = True
    forget_compiled(model)


def _assign(projection, kernel, bias):
    projection.kernel.assign(ops.cast(kernel, projection.kernel.dtype))
    if bias is not None:
        projection.bias.assign(ops.cast(bias, projection.bias.dtype))


def unmerge(model: keras.layers.Layer) -> None:
    """Puts the kernels back that were there before `merge`, to the last bit.

    Raises:
        ValueError: if the model was saved since: the kernels of before are not in the file.
    """
    merged = [one for one in projections_of(model).values() if any(lora.merged for lora in one.adapters)]
    for projection in merged:
        if projection.unmerged is None:
            raise ValueError(
                "A model must be unmerged by the process that merged it. Received: one that was saved merged; the file "
                "has the merged kernels alone."
            )
    for projection in merged:
        _assign(projection, *projection.unmerged)
        projection.unmerged = None
        for lora in projection.adapters:
            lora.merged = False
    forget_compiled(model)


def remove(model: keras.Model, name: str | None = None) -> None:
    """Takes adapters away; what was merged of them stays in the kernels.

    Args:
        model: with adapters.
        name: of one of them. Default: all.

    Raises:
        ValueError: for a name that is not there.
    """
    _check_names(model, [] if name is None else [name])
    for layer in _adaptable(model):
        if any(name in (None, one.name) for one in layer.adapters):
            layer.remove_adapters(lambda one: name in (None, one.name))
            if isinstance(layer, Projection) and not any(one.merged for one in layer.adapters):
                layer.unmerged = None
    forget_compiled(model)


def _layers_of(model) -> dict[str, keras.layers.Layer]:
    """All parts by the path of attributes that leads to them; those of a graph of the user's by their names."""
    found = {path: part for path, part, _ in parts_of(model)}
    known = {id(part) for part in found.values()}
    for layer in getattr(model, "layers", ()):
        if id(layer) not in known:
            found[layer.name] = layer
            found.update({f"{layer.name}.{path}": part for path, part, _ in parts_of(layer)})
    return found


def _check_names(model, names: Iterable[str]) -> None:
    known = adapter_names(model)
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"Adapters must be among {known}. Received: {missing}.")


def _matching(layers: dict[str, keras.layers.Layer], targets: str | Iterable[str], argument: str) -> dict:
    """The layers that any target names, in their order."""
    found: dict[str, keras.layers.Layer] = {}
    for target in [targets] if isinstance(targets, str) else targets:
        matched = {path: one for path, one in layers.items() if re.search(ROLES.get(target, target), path)}
        if not matched:
            raise ValueError(
                f"`{argument}` must be names of {sorted(ROLES)}, or expressions that are in paths of its layers. "
                f"Received: {target!r}, which is in none of {len(layers)} paths, such as {list(layers)[:2]}."
            )
        found.update(matched)
    return {path: one for path, one in layers.items() if path in found}
