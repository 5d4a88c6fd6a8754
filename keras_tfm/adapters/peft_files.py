"""Adapters in the files of Hugging Face's peft: a folder with adapter_config.json and adapter_model.safetensors."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm.adapters.adapters import (
    adapter_names,
    adapters_of,
    attach,
    check_fits,
    check_is_new,
    freeze,
    make_ia3,
    make_lora,
    projections_of,
)
from keras_tfm.adapters.virtual_tokens import check_reads_virtual_tokens, put_virtual_tokens
from keras_tfm.checkpoints.architecture import architectures
from keras_tfm.checkpoints.tensors import FusedByHead, Part, Transposed, parts_of
from keras_tfm.checkpoints.writer import architecture_for
from keras_tfm.files import check_is_free, local_path, read_json_object, written_whole
from keras_tfm.layers import Ia3, Lora, Projection, VirtualTokens
from keras_tfm.layers.composite import forget_compiled
from keras_tfm.layers.lora import column_lengths
from keras_tfm.optional import required

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPT_TUNING, _VECTORS = "PROMPT_TUNING", "prompt_embeddings"
# The tensors of a module, by `peft_type`.
_KINDS = {"LORA": "lora_A|lora_B|lora_magnitude_vector", "IA3": "ia3_l"}
# What changes the result and is not supported, unless it is empty or false.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
)


@dataclasses.dataclass
class _Module:
    """A linear layer as torch has it, and the projections that it is here: one, or several that it fuses."""

    part: Part
    projections: list[Projection]

    @property
    def is_transposed(self) -> bool:
        """Whether torch keeps its weight as (outputs, inputs): all but GPT-2's Conv1D."""
        return isinstance(self.part.rule, Transposed | FusedByHead)

    def split(self, up: np.ndarray) -> list[np.ndarray]:
        """(outputs, r) -> for each projection (r, its outputs)."""
        return self.part.rule.split(up if self.is_transposed else up.T, self.part.get)

    def join(self, ups: list[np.ndarray]) -> np.ndarray:
        """The inverse of `split`."""
        joined = self.part.rule.join(ups, self.part.get)
        return joined if self.is_transposed else joined.T


def load(model: keras.Model, path: str | os.PathLike, name: str = "default") -> None:
    """Puts the adapter of a peft folder beside a model's projections; the model computes what peft's does.

    LoRA, rsLoRA, DoRA, rank and alpha patterns, IA3, fused projections, `modules_to_save` and virtual tokens (prompt
    tuning) are read. All weights but the adapter's, and those of `modules_to_save`, are frozen, so that `fit` goes on
    training it.

    Args:
        model: from `checkpoints.load`, or of a wiring that `checkpoints.save` can write.
        path: folder.
        name: of the adapter here.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for another kind of adapter, tensors that the model has no place for or of other shapes, a name that
            is there already; before anything is changed.

    Example:
        >>> ktfm.adapters.load(model, "my-adapter")

    Reference:
        Mangrulkar et al. 2022, "PEFT", https://github.com/huggingface/peft
    """
    path = local_path(path)
    check_is_new(model, name)
    config = read_json_object(path / _CONFIG)
    _check_config(config)
    tensors = _read(path / _TENSORS)
    if config["peft_type"] == _PROMPT_TUNING:
        put_virtual_tokens(model, _vectors(model, tensors, config, path), name)
        return
    parts = _parts(model)
    modules, wholes = _modules(parts), {part.name: part for part in parts}
    found: dict[str, dict[str, np.ndarray]] = {}
    whole: list[tuple[Part, np.ndarray]] = []
    unknown = []
    for key, tensor in tensors.items():
        given = re.sub(r"\.(modules_to_save|base_layer)\b", "", key.removeprefix(_PREFIX))
        match = re.fullmatch(rf"(.*)\.({_KINDS[config['peft_type']]})(?:\.\w+)?(?:\.weight)?", given)
        if match and match[1] in modules:
            found.setdefault(match[1], {})[match[2]] = tensor
        elif given in wholes and tuple(tensor.shape) == tuple(wholes[given].shape):
            whole.append((wholes[given], tensor))
        else:
            unknown.append(f"{key} {tensor.shape}")
    if unknown or not found:
        raise ValueError(
            f"The tensors of an adapter must be those of the model's modules. Received {path}: {len(unknown)} that "
            f"are not, such as {unknown[:3]}, and {len(found)} that are. The model has {list(modules)[:3]}, ..."
        )
    make = _loras if config["peft_type"] == "LORA" else _ia3s
    made = [one for module, given in found.items() for one in make(modules[module], module, given, config, name)]
    for projection, adapter, _ in made:
        check_fits(projection, adapter)
    for projection, adapter, values in made:
        attach(projection, adapter)
        for variable, value in values.items():
            getattr(adapter, variable).assign(value)
    freeze(model)
    for part, tensor in whole:
        for variable, value in zip(part.variables, part.rule.split(tensor, part.get), strict=True):
            variable.assign(value)
            variable.trainable = True
    forget_compiled(model)


def save(
    model: keras.Model, path: str | os.PathLike, name: str | None = None, base: str = "", overwrite: bool = False
) -> None:
    """Writes an adapter as a folder that `peft.PeftModel.from_pretrained` reads, with equal logits.

    Where torch fuses projections (GPT-2's `c_attn`, GPT-NeoX's `query_key_value`), their matrices stand side by side in
    one of the sum of their ranks, which computes the same. Weights that are trained beside the adapter become
    `modules_to_save`.

    Args:
        model: with adapters, of a wiring that `checkpoints.save` can write.
        path: a folder that does not exist yet, unless `overwrite`.
        name: of the adapter. Default: the only one.
        base: the model's name on the hub or its folder, for peft to find it.
        overwrite: bool, whether a folder that exists is replaced.

    Raises:
        ValueError: if there is no such adapter, or several and no `name`, or one of a kind that peft has no file for;
        FileExistsError: if `path` exists.
    """
    names = adapter_names(model)
    if name not in names and not (name is None and len(names) == 1):
        raise ValueError(f"`name` must be one of the model's adapters {names}. Received: name={name!r}.")
    name = names[0] if name is None else name
    path = local_path(path)
    if not overwrite:
        check_is_free(path)
    tensors: dict[str, np.ndarray] = {}
    virtual = [one for one in adapters_of(model) if one.name == name and isinstance(one, VirtualTokens)]
    described = (
        _describe_virtual_tokens(model, virtual[0], tensors) if virtual else _describe_modules(model, name, tensors)
    )
    config = {"base_model_name_or_path": base, "inference_mode": True, **described}
    safetensors = required("safetensors.numpy", "checkpoints", "peft's files")
    with written_whole(path, overwrite) as unfinished:
        unfinished.mkdir()
        safetensors.save_file(tensors, unfinished / _TENSORS, metadata={"format": "pt"})
        (unfinished / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _describe_modules(model, name: str, tensors: dict) -> dict:
    """What config.json says of an adapter beside projections; adds its tensors."""
    parts = _parts(model)
    modules = _modules(parts)
    everywhere = {place: one for place, x in projections_of(model).items() for one in x.adapters if one.name == name}
    kinds = {type(one) for one in everywhere.values()}
    if kinds not in ({Lora}, {Ia3}):
        raise ValueError(
            "An adapter must be LoRA, IA3 or virtual tokens for peft's files. Received: "
            f"{sorted(kind.__name__ for kind in kinds)}. Keep it in a `.keras` file."
        )
    own = {
        module: [next((one for one in x.adapters if one.name == name), None) for x in kind.projections]
        for module, kind in modules.items()
    }
    own = {module: adapters for module, adapters in own.items() if any(one is not None for one in adapters)}
    written = {id(one) for adapters in own.values() for one in adapters}
    if left := [where for where, one in everywhere.items() if id(one) not in written]:
        raise ValueError(f"An adapter must be beside modules that the family's checkpoints have. Received: {left[:3]}.")
    describe = _describe_lora if kinds == {Lora} else _describe_ia3
    described = describe(modules, own, tensors)
    trained = [part for part in parts if any(x.trainable for x in part.variables)]
    for part in trained:
        values = [np.asarray(ops.convert_to_numpy(x)) for x in part.variables]
        tensors[_PREFIX + part.name] = np.ascontiguousarray(part.rule.join(values, part.get), "float32")
    return {
        "task_type": None,
        "fan_in_fan_out": not modules[next(iter(own))].is_transposed,
        "target_modules": sorted(own),
        "modules_to_save": sorted({part.name.rpartition(".")[0] for part in trained}) or None,
        **described,
    }


def _describe_virtual_tokens(model, virtual: VirtualTokens, tensors: dict) -> dict:
    """What config.json says of virtual tokens; adds their vectors."""
    if trained := [part.name for part in _parts(model) if any(x.trainable for x in part.variables)]:
        raise ValueError(
            "Virtual tokens must be all that trains, for peft's files, which have nothing beside them. Received: "
            f"{trained[:3]}. Keep the model in a `.keras` file."
        )
    tensors[_VECTORS] = np.ascontiguousarray(ops.convert_to_numpy(virtual.vectors), "float32")
    attention = model.stack.blocks[0].self_attention
    return {
        "peft_type": _PROMPT_TUNING,
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": virtual.num_tokens,
        "token_dim": virtual.hidden_dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": attention.num_heads,
        "num_layers": len(model.stack.blocks),
        "prompt_tuning_init": "RANDOM",
    }


def _vectors(model, tensors: dict, config: dict, path: Path) -> np.ndarray:
    """The vectors (P, D) of virtual tokens in a file."""
    check_reads_virtual_tokens(model, config.get("num_virtual_tokens", 1))
    found = {name: tensor.shape for name, tensor in tensors.items()}
    expected = {_VECTORS: (config.get("num_virtual_tokens"), model.hidden_dim)}
    if found != expected:
        raise ValueError(f"The tensors of virtual tokens must be {expected}. Received {path}: {found}.")
    return tensors[_VECTORS]


def _describe_lora(modules: dict, own: dict[str, list], tensors: dict) -> dict:
    """What config.json says of a LoRA; adds its tensors."""
    kinds = {module: _join(modules[module], loras, f"{_PREFIX}{module}.", tensors) for module, loras in own.items()}
    first_rank, first_alpha = next(iter(kinds.values()))
    lora = next(lora for loras in own.values() for lora in loras if lora is not None)
    return {
        "peft_type": "LORA",
        "r": first_rank,
        "lora_alpha": first_alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "bias": "none",
        "rank_pattern": {re.escape(module): rank for module, (rank, _) in kinds.items() if rank != first_rank},
        "alpha_pattern": {re.escape(module): alpha for module, (_, alpha) in kinds.items() if alpha != first_alpha},
    }


def _describe_ia3(modules: dict, own: dict[str, list], tensors: dict) -> dict:
    """What config.json says of an IA3; adds its tensors."""
    on_inputs = set()
    for module, adapters in own.items():
        kinds = {one.on_inputs for one in adapters if one is not None}
        values = [None if one is None else ops.convert_to_numpy(one.factors) for one in adapters]
        if len(kinds) > 1 or (True in kinds and any(x is None or (x != values[0]).any() for x in values)):
            raise ValueError(f"Factors of a fused module must be of its outputs, or the same. Received: {module!r}.")
        if True in kinds:
            on_inputs.add(module)
            factors = np.asarray(values[0])[None]
        else:
            sizes = [projection.units for projection in modules[module].projections]
            filled = [np.ones(size, "float32") if x is None else x for x, size in zip(values, sizes, strict=True)]
            factors = modules[module].join([x[None] for x in filled])
        tensors[f"{_PREFIX}{module}.ia3_l"] = np.ascontiguousarray(factors, "float32")
    return {"peft_type": "IA3", "feedforward_modules": sorted(on_inputs)}


def _ia3s(module: _Module, name: str, parts: dict, config: dict, adapter: str) -> Iterator[tuple]:
    """(projection, its `Ia3`, values of the variables) for each projection of a module."""
    factors, inputs = parts["ia3_l"], module.projections[0].input_spec.axes[-1]
    outputs = sum(projection.units for projection in module.projections)
    on_inputs = _names(config.get("feedforward_modules"), name)
    expected = (1, inputs) if on_inputs else (outputs, 1)
    if factors.shape != expected:
        raise ValueError(f"The adapter's ia3_l must fit {name!r}, {expected}. Received: {factors.shape}.")
    split = [factors[0]] * len(module.projections) if on_inputs else [x[0] for x in module.split(factors)]
    for projection, values in zip(module.projections, split, strict=True):
        yield projection, make_ia3(projection, on_inputs, adapter), {"factors": values}


def _names(modules: Any, name: str) -> bool:
    """peft's rule: whether an expression, or the end of one of these names, is that of a module."""
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return name.endswith(tuple(modules or ()))


def _loras(module: _Module, name: str, parts: dict, config: dict, adapter: str) -> Iterator[tuple]:
    """(projection, its `Lora`, values of the variables) for each projection of a module."""
    if {"lora_A", "lora_B"} - set(parts) or ("lora_magnitude_vector" in parts) != bool(config.get("use_dora")):
        raise ValueError(
            f"An adapter must have lora_A and lora_B of each module. Received: {sorted(parts)} of {name!r}."
        )
    down, up = parts["lora_A"], parts["lora_B"]
    rank, inputs = down.shape[0], module.projections[0].input_spec.axes[-1]
    outputs = sum(projection.units for projection in module.projections)
    if down.shape != (rank, inputs) or up.shape != (outputs, rank):
        raise ValueError(
            f"The adapter's tensors must fit {name!r}, which has {inputs} inputs and {outputs} outputs. Received: "
            f"lora_A {down.shape}, lora_B {up.shape}."
        )
    expected = _of_pattern(config.get("rank_pattern"), name, config["r"])
    if rank != expected:
        raise ValueError(f"`r` of {_CONFIG} must be the rank of its tensors. Received: {expected}, {rank} in {name!r}.")
    alpha = _of_pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
    ups = module.split(up)
    lengths: list = [None] * len(ups)
    if "lora_magnitude_vector" in parts:
        lengths = [x[0] for x in module.split(parts["lora_magnitude_vector"].reshape(-1, 1))]
    for projection, own_up, length in zip(module.projections, ups, lengths, strict=True):
        values = {"down": down.T, "up": own_up, **({} if length is None else {"magnitude": length})}
        flags = bool(config.get("use_rslora")), bool(config.get("use_dora"))
        yield projection, make_lora(projection, rank, alpha, config.get("lora_dropout", 0.0), *flags, adapter), values


def _join(module: _Module, own: list, place: str, tensors: dict) -> tuple[int, float]:
    """Adds the tensors of a module; returns (rank, alpha). Projections stand side by side, each with its rank."""
    first = next(lora for lora in own if lora is not None)
    if any(lora is not None and (lora.rslora, lora.dora) != (first.rslora, first.dora) for lora in own):
        raise ValueError(f"Adapters of a fused module must be of one kind. Received: {place} with several.")
    ranks = [0 if lora is None else lora.rank for lora in own]
    total = sum(ranks)
    downs, ups, lengths, start = [], [], [], 0
    alpha = first.alpha * (total / first.rank) ** (0.5 if first.rslora else 1.0)
    for projection, lora in zip(module.projections, own, strict=True):
        up = np.zeros((total, projection.units), "float32")
        if lora is not None:
            down, own_up = (np.asarray(ops.convert_to_numpy(x), "float32") for x in (lora.down, lora.up))
            downs.append(down)
            change = lora.whole_scale / first.whole_scale  # whose scale the file's numbers give
            up[start : start + lora.rank] = own_up * change
            start += lora.rank
        ups.append(up)
        if first.dora:
            length = column_lengths(projection.kernel_values()) if lora is None else lora.magnitude
            lengths.append(ops.convert_to_numpy(length))
    tensors[place + "lora_A.weight"] = np.ascontiguousarray(np.concatenate(downs, axis=1).T)
    tensors[place + "lora_B.weight"] = np.ascontiguousarray(module.join(ups))
    if first.dora:
        joined = module.join([np.asarray(length, "float32")[None] for length in lengths])
        tensors[place + "lora_magnitude_vector"] = np.ascontiguousarray(joined[:, 0])
    return total, alpha


def _parts(model) -> list[Part]:
    name, known = getattr(model, "checkpoint", {}).get("architecture"), architectures()
    architecture = known[name] if name in known else architecture_for(model)[0]
    return list(parts_of(architecture.tensors_of(model), model))


def _modules(parts: list[Part]) -> dict[str, _Module]:
    """Modules with a kernel that can be adapted, by torch's names."""
    found = {}
    for part in parts:
        owners = [part.get(path.rpartition(".")[0]) for path in part.rule.paths]
        if part.name.endswith(".weight") and all(isinstance(owner, Projection) for owner in owners):
            found[part.name.removesuffix(".weight")] = _Module(part, owners)
    return found


def _check_config(config: dict[str, Any]) -> None:
    known = [*_KINDS, _PROMPT_TUNING]
    if config.get("peft_type") not in known:
        raise ValueError(f"`peft_type` of {_CONFIG} must be of {known}. Received: {config.get('peft_type')!r}.")
    if unsupported := [key for key in _UNSUPPORTED if config.get(key)]:
        raise ValueError(
            f"An adapter must be without {unsupported}, which are not supported. Received them in {_CONFIG}."
        )
    for key in ("r", "lora_alpha") if config["peft_type"] == "LORA" else ():
        if not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise ValueError(f"`{key}` of {_CONFIG} must be positive. Received: {config.get(key)!r}.")


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"A folder of an adapter must have {path.name}. Received: {path.parent} without it.")
    safetensors = required("safetensors", "checkpoints", "peft's files")
    with safetensors.safe_open(path, framework="numpy") as file:
        return {key: np.asarray(file.get_tensor(key), "float32") for key in file.keys()}  # noqa: SIM118 (no dict)


def _of_pattern(pattern: dict | None, module: str, default):
    """peft's rule: the first key that the end of the module's name matches."""
    return next((x for key, x in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)
