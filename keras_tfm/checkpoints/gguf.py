"""GGUF files, as llama.cpp keeps models: llama-architecture, dequantized to float32."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tfm.checkpoints.chat_template import ChatTemplate
from keras_tfm.checkpoints.config_keys import MOST_LAYERS, Always, Number, Size, read_config
from keras_tfm.checkpoints.families import llama
from keras_tfm.checkpoints.loader import assemble
from keras_tfm.checkpoints.tensors import Transposed
from keras_tfm.checkpoints.tokenizer import with_size_and_end
from keras_tfm.layers import RotaryEmbedding
from keras_tfm.tokenizers import BytePairTokenizer

# What llama.cpp calls a pre-tokenizer -> our pattern of words.
_WORDS = {"gpt-2": "gpt2", "llama-bpe": "llama3", "llama3": "llama3", "qwen2": "qwen2", "smollm": "smollm"}
_CONTROL = 3  # the type of special tokens
_HARMLESS = ("context_length", "vocab_size", "rope.dimension_count", "attention.key_length", "attention.value_length")


@dataclasses.dataclass(frozen=True)
class HalvesOfHeads(Transposed):
    """llama.cpp turns neighbouring features of a head, we turn feature i with i + H/2: rows are put in that order.

    Args:
        path: the kernel (D, heads * H).
        heads: path of the number of heads.
    """

    heads: str

    def split(self, tensor, get):
        by_pair = tensor.reshape(get(self.heads), -1, 2, tensor.shape[1])  # (N, H/2, 2, D)
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


class GgufFile:
    """The tensors of a .gguf file, dequantized one at a time.

    Args:
        path: the file.

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
        try:
            reader = gguf.GGUFReader(path)
        except Exception as error:  # the package raises whatever its reading of corrupt bytes runs into
            raise ValueError(f"{path} must be a whole GGUF file. Received one that gives: {error}.") from error
        self._dequantize = gguf.quants.dequantize
        self.fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def field(self, name: str, default: Any = None) -> Any:
        """The value of a key of the file's header."""
        return self.fields[name].contents() if name in self.fields else default

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors; the file's own order of axes is the reverse."""
        return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor, float32."""
        tensor = self._tensors[name]
        return self._dequantize(tensor.data, tensor.tensor_type).reshape(self.shapes()[name])


def load_gguf(path: Path, dtype=None, ignore=(), options=None) -> keras.Model:
    """See `keras_tfm.checkpoints.load`."""
    file = GgufFile(path)
    architecture = dataclasses.replace(llama.ARCHITECTURES[0], tensors=TENSORS, copies={}, prefix="")
    notes = {f"{role}_token_id": file.field(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    notes["max_position_embeddings"] = file.field("llama.context_length")
    notes = {name: value for name, value in notes.items() if value is not None}
    return assemble(architecture, arguments_of(file, ignore), file, notes, dtype, options)


def arguments_of(file: GgufFile, ignore=()) -> dict[str, Any]:
    """The arguments of `build_llama` that the file's header gives."""
    if (kind := file.field("general.architecture")) != "llama":
        raise ValueError(f"A GGUF file must be of the llama architecture. Received: {kind!r} in {file.place}.")
    config = {name[6:]: file.field(name) for name in file.fields if name.startswith("llama.")}
    known = {name: value for name, value in config.items() if name not in _HARMLESS}
    arguments = read_config(CONFIG, known, ignore)
    shapes = file.shapes()
    if (turning := config.get("rope.dimension_count")) not in (
        None,
        config["embedding_length"] // arguments["num_heads"],
    ):
        raise ValueError(f"All features of a head must turn. Received: rope.dimension_count={turning} in {file.place}.")
    arguments |= {
        "rotary": RotaryEmbedding(max_wavelength=arguments.pop("max_wavelength")),
        "vocabulary_size": shapes.get("token_embd.weight", (1,))[0],
        "tie_weights": "output.weight" not in shapes,
    }
    return arguments


def tokenizer_of(path: Path) -> BytePairTokenizer:
    """The tokenizer in a .gguf file."""
    file = GgufFile(path)
    kind, words = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre")
    if kind != "gpt2" or words not in _WORDS:
        raise ValueError(
            f"The tokenizer of a GGUF file must be byte-level BPE ('gpt2') cut as one of {sorted(_WORDS)}. Received: "
            f"{kind!r}, cut as {words!r}."
        )
    tokens = file.field("tokenizer.ggml.tokens")
    types = file.field("tokenizer.ggml.token_type", [1] * len(tokens))
    tokenizer = BytePairTokenizer(
        {token: i for i, token in enumerate(tokens)},
        [tuple(merge.split(" ")) for merge in file.field("tokenizer.ggml.merges")],
        [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL],
        drops_bytes=True,
        words=_WORDS[words],
        whole_words=_WORDS[words] == "llama3",
    )
    end = file.field("tokenizer.ggml.eos_token_id")
    return with_size_and_end(tokenizer, None, None if end is None else tokens[end])


def chat_template_of(path: Path) -> ChatTemplate:
    """The chat template in a .gguf file."""
    file = GgufFile(path)
    source, tokens = file.field("tokenizer.chat_template"), file.field("tokenizer.ggml.tokens", [])
    if source is None:
        raise ValueError(f"The file must have a chat template. Received: {path} without one.")
    ids = {role: file.field(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    return ChatTemplate(source, {f"{role}_token": "" if i is None else tokens[i] for role, i in ids.items()})
