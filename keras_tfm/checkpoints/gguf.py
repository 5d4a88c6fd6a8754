"""GGUF files, as llama.cpp keeps models: llama-architecture, dequantized to float32."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_tfm.checkpoints.config_keys import MOST_LAYERS, Always, Number, Size, read_config
from keras_tfm.checkpoints.families import llama
from keras_tfm.checkpoints.loader import assemble
from keras_tfm.checkpoints.tensors import Transposed
from keras_tfm.layers import LongRopeScaling, RotaryEmbedding

_DIVISORS = "rope_freqs.weight"
_HARMLESS = ("context_length", "vocab_size", "rope.dimension_count", "attention.key_length", "attention.value_length")


@dataclasses.dataclass(frozen=True)
class HalvesOfHeads(Transposed):
    """llama.cpp turns neighbouring features of a head, we turn feature i with i + H/2: rows are put in that order.

    Args:
        path: the kernel (D, heads * H).
        heads: path of the number of heads.
    """

    heads: str

    def unit(self, get):
        return self.shape(get)[0] // get(self.heads)

    def split(self, tensor, get):
        by_pair = tensor.reshape(-1, self.unit(get) // 2, 2, tensor.shape[1])  # (N, H/2, 2, D)
        return [by_pair.swapaxes(1, 2).reshape(tensor.shape).T]

    def join(self, values, get):
        by_half = values[0].T.reshape(get(self.heads), 2, -1, values[0].shape[0])
        return by_half.swapaxes(1, 2).reshape(values[0].T.shape)


_BLOCK, _ATTENTION = "blk.{i}", "stack.blocks.{i}.self_attention"
_THEIRS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.layers.{i}.input_layernorm.weight": f"{_BLOCK}.attn_norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": f"{_BLOCK}.ffn_norm.weight",
    "model.layers.{i}.self_attn.v_proj.weight": f"{_BLOCK}.attn_v.weight",
    "model.layers.{i}.self_attn.o_proj.weight": f"{_BLOCK}.attn_output.weight",
    "model.layers.{i}.mlp.gate_proj.weight": f"{_BLOCK}.ffn_gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": f"{_BLOCK}.ffn_up.weight",
    "model.layers.{i}.mlp.down_proj.weight": f"{_BLOCK}.ffn_down.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
TENSORS = {
    **{theirs: llama.TENSORS[name] for name, theirs in _THEIRS.items()},
    f"{_BLOCK}.attn_q.weight": HalvesOfHeads(f"{_ATTENTION}.query_dense.kernel", f"{_ATTENTION}.num_heads"),
    f"{_BLOCK}.attn_k.weight": HalvesOfHeads(f"{_ATTENTION}.key_dense.kernel", f"{_ATTENTION}.num_key_value_heads"),
    _DIVISORS: None,  # a part of the config here
}
CONFIG = (
    Size("block_count", "num_layers", most=MOST_LAYERS),
    Size("attention.head_count", "num_heads"),
    Size("attention.head_count_kv", "num_key_value_heads", default=lambda config: config.get("attention.head_count")),
    Size("embedding_length", "hidden_dim"),
    Size("feed_forward_length", "intermediate_dim"),
    Number("attention.layer_norm_rms_epsilon", "norm_epsilon", default=1e-5),
    Number("rope.freq_base", "max_wavelength", default=10_000.0),
    Always("biases", ()),
)


class StoredTensor(NamedTuple):
    """Where a tensor lies in the file, and how."""

    shape: tuple[int, ...]
    kind: Any  # of gguf.GGMLQuantizationType
    offset: int
    dtype: np.dtype
    stored_shape: tuple[int, ...]  # of rows of blocks


class GgufFile:
    """The header of a .gguf file, and its tensors, dequantized some rows at a time.

    Args:
        path: the file.

    Attributes:
        header: dict from key to value.

    Raises:
        ImportError: without the package gguf.
        ValueError: if it is no whole GGUF file.
    """

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError as error:
            raise ImportError("GGUF files need the package gguf. Run: pip install keras-tfm[checkpoints].") from error
        self.place = str(path)
        self._dequantize = gguf.quants.dequantize
        try:
            # The reader is let go: it keeps some objects for each token, and maps the file.
            reader = gguf.GGUFReader(path)
            self.header = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {tensor.name: _stored(tensor) for tensor in reader.tensors}
        except Exception as error:  # the package raises whatever its reading of corrupt bytes runs into
            raise ValueError(f"{path} must be a whole GGUF file. Received one that gives: {error}.") from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def check_types(self, names: Iterable[str]) -> None:
        """Raises ValueError if one of these tensors is of a type that the package gguf cannot dequantize."""
        for name in names:
            try:
                self.rows(name, 0, 1)
            except NotImplementedError as error:
                raise ValueError(
                    "The tensors of a GGUF file must be of a type that the package gguf dequantizes. Received: "
                    f"{name!r}: {error}."
                ) from error

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of one tensor, float32."""
        tensor = self._tensors[name]
        if len(tensor.shape) < 2:
            return self._read(tensor, 0, 1, tensor.stored_shape).reshape(-1)[start:stop]
        rows = self._read(tensor, start, min(stop, tensor.shape[0]), tensor.stored_shape[1:])
        return rows.reshape(-1, *tensor.shape[1:])

    def _read(self, tensor: StoredTensor, start: int, stop: int, row: tuple[int, ...]) -> np.ndarray:
        size = math.prod(row)
        # Not from a map: its pages that were read count as memory of the process for as long as it is there.
        offset = tensor.offset + start * size * tensor.dtype.itemsize
        stored = np.fromfile(self.place, tensor.dtype, count=(stop - start) * size, offset=offset)
        return self._dequantize(stored.reshape(-1, *row), tensor.kind)


def _stored(tensor) -> StoredTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape))  # the file's own order of axes is the reverse
    return StoredTensor(shape, tensor.tensor_type, int(tensor.data_offset), tensor.data.dtype, tensor.data.shape)


def load_gguf(path: Path, dtype=None, ignore=(), options=None) -> keras.Model:
    """See `keras_tfm.checkpoints.load`."""
    file = GgufFile(path)
    architecture = dataclasses.replace(llama.ARCHITECTURES[0], tensors=TENSORS, copies={}, prefix="")
    notes = {f"{role}_token_id": file.header.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    notes["max_position_embeddings"] = file.header.get("llama.context_length")
    notes = {name: value for name, value in notes.items() if value is not None}
    return assemble(architecture, arguments_of(file, ignore), file, notes, dtype, options)


def arguments_of(file: GgufFile, ignore=()) -> dict[str, Any]:
    """The arguments of `build_llama` that the file's header gives."""
    if (kind := file.header.get("general.architecture")) != "llama":
        raise ValueError(f"A GGUF file must be of the llama architecture. Received: {kind!r} in {file.place}.")
    config = {name[6:]: value for name, value in file.header.items() if name.startswith("llama.")}
    known = {name: value for name, value in config.items() if name not in _HARMLESS}
    arguments = read_config(CONFIG, known, ignore)
    shapes = file.shapes()
    if (turning := config.get("rope.dimension_count")) not in (
        None,
        config["embedding_length"] // arguments["num_heads"],
    ):
        raise ValueError(f"All features of a head must turn. Received: rope.dimension_count={turning} in {file.place}.")
    scaling = None
    if _DIVISORS in shapes:  # what Llama 3.1's scaling comes to, for each pair of features
        divisors = file.rows(_DIVISORS, 0, shapes[_DIVISORS][0]).tolist()
        scaling = LongRopeScaling(divisors, divisors, config.get("context_length", 1), fixed_attention_factor=1.0)
    arguments |= {
        "rotary": RotaryEmbedding(max_wavelength=arguments.pop("max_wavelength"), scaling=scaling),
        "vocabulary_size": shapes.get("token_embd.weight", (1,))[0],
        "tie_weights": "output.weight" not in shapes,
    }
    return arguments
