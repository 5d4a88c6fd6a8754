"""One class of Hugging Face's models: how its config and its tensors become a model, and back.

A family of checkpoints is one file in `keras_tfm/checkpoints/families`, named as `model_type` in config.json, with a
tuple `ARCHITECTURES`, one `Architecture` for each class ("GPT2LMHeadModel", "BertForMaskedLM", ...). The file is found
by its name; nothing else is to be registered. It has four parts (see `families/gpt2.py`):

- a config map: a tuple of the objects of `config_keys.py` (`Size`, `Number`, `Flag`, `Choice`, `Only`, `Harmless`; for
  rotary positions `Rotary`), which together claim every key of a config.json and turn it into the arguments of a
  builder, and back. Any object with `keys`, `read(config)` and `write(arguments)` will do.
- a tensor map: a dict from the name of a tensor in the file to the variable that it fills, a path of attributes with
  `{i}` for the layer, or an object of `tensors.py` where the two are not the same (`Transposed`, `OneMore`, `Fused`,
  `FusedByHead`). None = a tensor that some files hold and nobody needs. Any object with `paths`, `axis`, `unit(get)`,
  `shape(get)`, `split(rows, get)` and `join(values, get)` will do. What the model at hand does not have (a bias, a
  norm, a head: its path ends in None) is not expected, so one map serves all variants. Where names themselves differ
  among variants, a function of the model gives the map (`families/t5.py`).
- `build(**arguments)` makes the model; commonly a builder of `keras_tfm.models`.
- `describe(model)` gives back those arguments, in the form in which the config map reads them. It may fail or lie on a
  model of another wiring: what it says is built again and compared before anything is written.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One class of Hugging Face's models.

    Args:
        name: the class, as in `architectures` of a config.json.
        model_type: the family, as in `model_type` of a config.json.
        config: the config map.
        tensors: the tensor map, with the names that the class itself writes, or a function of the model that gives it.
        build: arguments -> an untrained model.
        describe: a model -> the arguments that build it.
        prefix: the beginning of names that a file saved from the bare base model lacks ("transformer.").
        aliases: other classes whose files are read as this one (the bare base model, if that has all the weights).
        copies: tensor that some files hold twice -> the one that it must equal (a tied head).
        older: end of a name -> what older files have in its place.
        stand_ins: tensor that some files lack -> the one that it equals then (a head that is tied in the file alone).
    """

    name: str
    model_type: str
    config: tuple
    tensors: Mapping[str, Any] | Callable
    build: Callable
    describe: Callable
    prefix: str = ""
    aliases: tuple[str, ...] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    older: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stand_ins: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tensors_of(self, model: keras.Model) -> Mapping[str, Any]:
        """The tensor map for a model of this class."""
        return self.tensors(model) if callable(self.tensors) else self.tensors


def model_types() -> list[str]:
    """The families that have a map."""
    from keras_tfm.checkpoints import families

    return sorted(module.name for module in pkgutil.iter_modules(families.__path__))


def architectures_of(model_type: str | None) -> tuple[Architecture, ...]:
    """The architectures of a family; raises ValueError if there is no map of that name."""
    if model_type not in model_types():
        raise ValueError(
            f"`model_type` of the config must be one of {model_types()}. Received: {model_type!r:.200}. "
            "docs/how_to_add.md says how to add a family."
        )
    return importlib.import_module(f"keras_tfm.checkpoints.families.{model_type}").ARCHITECTURES


def architectures() -> dict[str, Architecture]:
    """All architectures that have a map, by the names of their classes."""
    return {one.name: one for model_type in model_types() for one in architectures_of(model_type)}


def architecture_of(config: Mapping[str, Any], name: str | None = None) -> Architecture:
    """The architecture that a config.json names, or another one of its family.

    Args:
        config: content of a config.json.
        name: a class, such as "BertModel". Default: the first of `architectures` in the config.

    Raises:
        ValueError: for a family or a class that has no map.
    """
    known = architectures_of(config.get("model_type"))
    names = [name] if name is not None else (config.get("architectures") or [known[0].name])
    if not isinstance(names, list):
        raise ValueError(f"`architectures` of the config must be a list of names. Received: {names!r:.200}.")
    for architecture in known:
        if names[0] in (architecture.name, *architecture.aliases):
            return architecture
    what = "`architectures` of the config must begin with" if name is None else "`architecture` must be"
    raise ValueError(
        f"{what} one of {[name for one in known for name in (one.name, *one.aliases)]} for a checkpoint of type "
        f"{config['model_type']!r}. Received: {names!r:.200}."
    )
