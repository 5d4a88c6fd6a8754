"""The generation loop compiled by `jax.jit`."""

import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_tfm.generation import loop
from keras_tfm.samplers.numbers import models_in
from keras_tfm.samplers.sampler import Sampler


class JittedGeneration:
    """What `CompiledGeneration` is on TensorFlow: `begin`, `extend` and `answer` of `generation.loop`.

    Each is compiled once for each bucket of sizes, and anew for variables that lie on other devices. Weights are
    arguments: what is compiled holds none, and those of a model that lies in parts on several devices stay there.
    `extend` takes over the KV caches of the state that it is given, which are gone afterwards: there is one copy.

    Args:
        model: with the methods of `generation.loop`.
        sampler: its structure is compiled in; its numbers are arguments.
        shape: `loop.Shape`.

    Raises:
        ValueError: if the sampler cannot generate with this model.
    """

    def __init__(self, model: Any, sampler: Sampler, shape: loop.Shape):
        sampler.check_model(model)
        models = (model, *models_in(sampler))
        variables = {id(variable): variable for one in models for variable in getattr(one, "variables", ())}
        begin, extend, answer = loop.functions_of(model, sampler, shape)

        def begin_cut(prompts, *arguments):
            return begin(_cut(prompts, model.max_sequence_length), *arguments)

        def extend_whole(state, caches, *arguments):
            return extend(state._replace(decoding=_whole(state.decoding, caches)), *arguments)

        used = list(variables.values())
        self.begin, self.answer = _jitted(begin_cut, used), _jitted(answer, used)
        extend_given = _jitted(extend_whole, used, gives_up=1)

        def extend_split(state, *arguments):
            rest, caches = _split(state.decoding)
            return extend_given(state._replace(decoding=rest), caches, *arguments)

        self.extend = extend_split
        self.is_by_xla = True
        self.shapes: set = set()  # of the arguments that `begin` and `extend` are compiled for
        self.pass_costs: dict = {}  # of these, what `measure_pass_cost` gave
        self.lock = threading.Lock()  # held while that is done


def _jitted(function: Callable, variables: list[keras.Variable], gives_up: int | None = None) -> Callable:
    """The function compiled; the argument of the number `gives_up` is no more after a call."""
    import jax  # there, since it is Keras' backend

    def with_values(values, *arguments):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function(*arguments)

    compiled = jax.jit(with_values, donate_argnums=() if gives_up is None else gives_up + 1)

    def run(*arguments):
        values = [variable.value for variable in variables]
        return compiled(values, *tree.map_structure(_own_tensor, arguments))

    return run


def _split(decoding: Any) -> tuple[Any, Any]:
    """(rest, caches) of a `DecodingState`, each with None in place of the other: keys and values are the caches.

    What is smaller may be a prefix' own, which a compiled function hands through: how long a window is, for example.
    """
    import jax

    return (
        jax.tree.map(lambda x: None if x.ndim > 2 else x, decoding),
        jax.tree.map(lambda x: x if x.ndim > 2 else None, decoding),
    )


def _whole(rest: Any, caches: Any) -> Any:
    """The state that was split."""
    import jax

    return jax.tree.map(lambda x, cache: cache if x is None else x, rest, caches, is_leaf=lambda x: x is None)


def _cut(prompts: loop.Prompts, length: int | None) -> loop.Prompts:
    """The prompts without the padding of their bucket for which the model has learned no positions."""
    names = "token_ids", "padding_mask", "negative_token_ids", "negative_padding_mask"
    rows = {name: getattr(prompts, name) for name in names}
    return prompts._replace(**{name: x if isinstance(x, tuple) else x[:, :length] for name, x in rows.items()})


def _own_tensor(x):
    """Prompts and settings are padded by TensorFlow."""
    return x if x is None or ops.is_tensor(x) else ops.convert_to_tensor(np.asarray(x))
