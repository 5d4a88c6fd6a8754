"""Tensors from safetensors files, one at a time and checked before any is read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_LARGEST_JSON = 64 * 2**20  # bytes; the index of a model of 1,000 billion weights has some 10 MB
# Pages of a mapped file that were read count as memory of the process until the file is closed.
_READ_BETWEEN_CLOSES = 32 * 2**20


class Source(Protocol):
    """Named tensors of a checkpoint, whatever the kind of file."""

    place: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors, without reading them."""

    def read(self, name: str) -> np.ndarray:
        """One tensor."""


class SafetensorsFiles:
    """The tensors of a folder with model.safetensors, or with shards and their index; or of one .safetensors file.

    Args:
        path: the folder or file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is truncated, corrupt or no safetensors file, if the index names a file outside the
            folder, or if the weights are a pickle.
    """

    def __init__(self, path: Path):
        self.place = str(path)
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._open: tuple[Path, Any] | None = None
        self._num_read = 0
        for file in _files_of(path):
            handle = _opened(file)
            for name in handle.keys():  # noqa: SIM118 (it is no dict)
                view = handle.get_slice(name)
                # I64: positions counted from 0, which old versions saved; a map says None to them.
                if view.get_dtype() not in (*_DTYPES, "I64"):
                    raise ValueError(
                        f"Tensors must be {', '.join(_DTYPES)} (float32, float16, bfloat16). Received: {name!r} in "
                        f"{file.name} of type {view.get_dtype()}. Quantized checkpoints must be dequantized first."
                    )
                if name in self._files:
                    raise ValueError(f"A tensor must be in one file. Received: {name!r} in {file} and another shard.")
                self._files[name] = file
                self._shapes[name] = tuple(view.get_shape())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors."""
        return dict(self._shapes)

    def read(self, name: str) -> np.ndarray:
        """One tensor, as a copy that does not hold on to the file."""
        file = self._files[name]
        if self._open is None or self._open[0] != file:
            self._open, self._num_read = (file, _opened(file)), 0
        tensor = self._open[1].get_tensor(name)
        self._num_read += tensor.nbytes
        if self._num_read > _READ_BETWEEN_CLOSES:
            self._open = None
        return tensor

    def close(self) -> None:
        """Lets go of the file."""
        self._open = None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is no JSON, or unreasonably large.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} must have at most {_LARGEST_JSON:,} bytes. Received: {path.stat().st_size:,}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON in UTF-8. Received: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {str(content)[:60]}.")
    return content


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(_about_pickles(path.name))
        return iter([path])
    if (path / _INDEX).is_file():
        return _shards(path)
    if (path / _SINGLE).is_file():
        return iter([path / _SINGLE])
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern)) if path.is_dir() else []
    if pickles:
        raise ValueError(_about_pickles(pickles[0]))
    raise FileNotFoundError(
        f"The folder must hold {_SINGLE} or {_INDEX}. Received: {path}, "
        + ("without these." if path.is_dir() else "which does not exist.")
    )


def _shards(folder: Path) -> Iterator[Path]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / _INDEX} must have a `weight_map`. Received: weight_map={str(weight_map)[:60]}.")
    for name in sorted({str(name) for name in weight_map.values()}):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{_INDEX} must name .safetensors files of its own folder. Received: {name!r}. Do not use this "
                "checkpoint: it reaches for files elsewhere."
            )
        if not (folder / name).is_file():
            raise FileNotFoundError(f"Every shard that {_INDEX} names must be there. Received: no {folder / name}.")
        yield folder / name


def _opened(file: Path):
    import safetensors

    try:
        return safetensors.safe_open(file, framework="np").__enter__()
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{file} must be a whole safetensors file. Received: {file.stat().st_size:,} bytes that give: {error}. "
            "Download it anew: it is truncated, corrupt, or of another kind."
        ) from error


def _about_pickles(name: str) -> str:
    return (
        f"The weights must be in safetensors. Received: {name}. Pickles run code when they are read, so they are not "
        "read here. Where you trust the file: `transformers.AutoModel.from_pretrained(folder).save_pretrained(new)`, "
        "with torch installed, writes safetensors."
    )
