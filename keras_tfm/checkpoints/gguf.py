"""GGUF files, as llama.cpp keeps models: llama-architecture, dequantized to float32."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfm.checkpoints.architecture import Architecture
from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.checkpoint import Checkpoint
from keras_tfm.checkpoints.config_keys import MOST_LAYERS, Always, Harmless, Number, Only, Size, read_config
from keras_tfm.checkpoints.families import llama
from keras_tfm.checkpoints.gguf_file import GgufFile
from keras_tfm.checkpoints.gguf_tokenizer import chat_template_of, tokenizer_of
from keras_tfm.checkpoints.reader import Source
from keras_tfm.checkpoints.tensors import Transposed
from keras_tfm.layers import LongRopeScaling, RotaryEmbedding
from keras_tfm.tokenizers import Tokenizer

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

    def unit(self, get: Callable[[str], Any]) -> int:
        return self.shape(get)[0] // get(self.heads)

    def split(self, tensor: np.ndarray, get: Callable[[str], Any]) -> list[np.ndarray]:
        by_pair = tensor.reshape(-1, self.unit(get) // 2, 2, tensor.shape[1])  # (N, H/2, 2, D)
        return [by_pair.swapaxes(1, 2).reshape(tensor.shape).T]

    def join(self, values: list[np.ndarray], get: Callable[[str], Any]) -> np.ndarray:
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
    Only("rope.scaling.type", "none"),
    Only("rope.scaling.factor", 1.0),
    Only("rope.scale_linear", 1.0),
    Only("expert_count", 0),
    Only("attention.causal", True),
    Harmless(("tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned")),
)


class GgufCheckpoint(Checkpoint):
    """A .gguf file of the llama architecture; see `Checkpoint`.

    Args:
        path: the file.
        ignore: keys of the header, without their "llama.", that may be passed over.

    Raises:
        ImportError: without the package gguf.
        ValueError: if it is no whole GGUF file.
    """

    def __init__(self, path: Path, ignore: Iterable[str] = ()):
        super().__init__(path, ignore)
        self._file = GgufFile(path)

    @property
    def config(self) -> dict[str, Any]:
        """The header of the file."""
        return self._file.header

    @property
    def source(self) -> Source:
        """The tensors."""
        return self._file

    def wiring(self, architecture: str | None = None) -> tuple[Architecture, dict[str, Any]]:
        """See `Checkpoint`."""
        known = llama.ARCHITECTURES[0]
        if architecture not in (None, known.name):
            raise ValueError(f"`architecture` must be {known.name!r} for a .gguf file. Received: {architecture!r}.")
        known = dataclasses.replace(known, tensors=TENSORS, copies={}, prefix="")
        return known, arguments_of(self._file, self.ignore)

    def notes(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        notes = {f"{role}_token_id": self.config.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
        notes["max_position_embeddings"] = self.config.get("llama.context_length")
        return {name: value for name, value in notes.items() if value is not None}

    def read_tokenizer(self) -> Tokenizer:
        """See `Checkpoint.tokenizer`."""
        return tokenizer_of(self.config)

    def read_chat_template(self) -> ChatTemplate:
        """See `Checkpoint.chat_template`."""
        return chat_template_of(self.config) or super().read_chat_template()

    def read_stop_token_ids(self) -> list:
        """The ends of a text, of a turn and of a message."""
        found = [self.config.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
        return [token_id for token_id in found if token_id is not None]

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Checkpoint`."""
        kind, name = self.config.get("general.architecture"), self.config.get("general.name")
        return {"architecture": f"GGUF, {kind}", "name": name}, {}


def arguments_of(file: GgufFile, ignore: Iterable[str] = ()) -> dict[str, Any]:
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
