"""Files of checkpoints: downloads, and tensors from safetensors, some rows at a time and checked before any is read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_tfm.files import read_json_object
from keras_tfm.optional import required

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_OTHERS = ("*.h5", "*.msgpack")  # of TensorFlow and Flax, which only transformers 4 reads
_DTYPES = ("F32", "F16", "BF16")
# What is downloaded: no pickles, no code, and not Mistral's consolidated.safetensors, which holds the weights again.
SETTINGS = ("*.json", "*/config.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "*.spm", "*.jinja")
WEIGHTS = ("model*.safetensors",)
# Pages of a mapped file that were read count as memory of the process until the file is closed.
_READ_BETWEEN_CLOSES = 8 * 2**20


def download(name: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """The folder with the files of a repository whose names fit a pattern.

    Args:
        name: the repository, such as "openai-community/gpt2".
        revision: branch, tag or commit.
        patterns: of file names.

    Raises:
        FileNotFoundError: without the package huggingface_hub, or if it cannot download them.
    """
    try:
        hub = required("huggingface_hub", "checkpoints", "Downloads of repositories")
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (ImportError, OSError, ValueError) as error:
        raise FileNotFoundError(
            "`path_or_repo_id` must be a folder, a file, or a repository that can be downloaded. "
            f"Received: {name!r}. There is no such file or folder here, and as a repository: {error}"
        ) from error


class Source(Protocol):
    """Named tensors of a checkpoint, whatever the kind of file."""

    place: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors, without reading them."""

    def check_types(self, names: Iterable[str]) -> None:
        """Raises ValueError if one of these tensors is of a type that is no weight."""

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of one tensor, float32 or less precise."""


class SafetensorsFiles:
    """The tensors of a folder with model.safetensors, or with shards and their index.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is truncated, corrupt or no safetensors file, if the index names a file outside the
            folder or a tensor that its files lack, if there is a single file besides, or if the weights are a pickle.
    """

    def __init__(self, folder: Path):
        self.place = str(folder)
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self._open: tuple[Path, Any] | None = None
        self._num_read = 0
        indexed = _weight_map(folder) if (folder / _INDEX).is_file() else {}
        if indexed and (folder / _SINGLE).is_file() and folder / _SINGLE not in indexed.values():
            raise ValueError(
                f"A folder must hold {_SINGLE} or shards with {_INDEX}. Received: {folder}, with both, which may be "
                "two states of a model. Delete the one that is not meant: transformers reads the first."
            )
        for file in sorted(set(indexed.values())) or [_single(folder)]:
            handle = _opened(file)
            for name in handle.keys():  # noqa: SIM118 (it is no dict)
                if name in self._files:
                    raise ValueError(f"A tensor must be in one file. Received: {name!r} in {file} and another shard.")
                view = handle.get_slice(name)
                self._files[name], self._shapes[name] = file, tuple(view.get_shape())
                self._dtypes[name] = view.get_dtype()
        if absent := sorted(name for name, file in indexed.items() if self._files.get(name) != file):
            raise ValueError(
                f"Every tensor that {_INDEX} names must be in the file that it names. Received: {len(absent)} that are "
                f"not, such as {absent[:3]}. Download the folder anew."
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors."""
        return dict(self._shapes)

    def check_types(self, names: Iterable[str]) -> None:
        """Raises ValueError if one of these tensors is not of floats."""
        for name in names:
            if self._dtypes[name] not in _DTYPES:
                raise ValueError(
                    f"Weights must be {', '.join(_DTYPES)} (float32, float16, bfloat16). Received: {name!r} in "
                    f"{self._files[name].name} of type {self._dtypes[name]}. Convert it to float32; quantized "
                    "checkpoints must be dequantized."
                )

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of one tensor, as a copy that does not hold on to the file."""
        file = self._files[name]
        if self._open is None or self._open[0] != file:
            self._open, self._num_read = (file, _opened(file)), 0
        rows = self._open[1].get_slice(name)[start:stop]
        self._num_read += rows.nbytes
        if self._num_read > _READ_BETWEEN_CLOSES:
            self._open = None
        return rows


def refuse_file(path: Path) -> None:
    """Raises the ValueError that says what to do with a file that is given in the place of a folder."""
    if any(path.match(pattern) for pattern in (*_PICKLES, *_OTHERS)):
        raise ValueError(_about_others(path.name))
    raise ValueError(
        "`path_or_repo_id` must be a folder with config.json and model.safetensors, or a .gguf file. "
        f"Received: {path}. Pass its folder, {str(path.parent)!r}."
    )


def _single(folder: Path) -> Path:
    if (folder / _SINGLE).is_file():
        return folder / _SINGLE
    if others := sorted(file.name for pattern in (*_PICKLES, *_OTHERS) for file in folder.glob(pattern)):
        raise ValueError(_about_others(others[0]))
    raise FileNotFoundError(
        f"The folder must hold {_SINGLE} or {_INDEX}. Received: {folder}, without these. A repository may have its "
        f"weights only as pickles, which are not downloaded. {_CONVERT}"
    )


def _weight_map(folder: Path) -> dict[str, Path]:
    """Name of each tensor -> the shard that the index says it is in."""
    weight_map = read_json_object(folder / _INDEX).get("weight_map")
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
    return {name: folder / file for name, file in weight_map.items()}


def _opened(file: Path):
    safetensors = required("safetensors", "checkpoints", "Hugging Face checkpoints")
    try:
        return safetensors.safe_open(file, framework="np").__enter__()
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{file} must be a whole safetensors file. Received: {file.stat().st_size:,} bytes that give: {error}. "
            "Download it anew: it is truncated, corrupt, or of another kind."
        ) from error


_CONVERT = (
    "Where you trust them: `transformers.AutoModel.from_pretrained(name).save_pretrained(folder)`, with torch "
    "installed, writes safetensors."
)


def _about_others(name: str) -> str:
    required = f"The weights must be in safetensors, in a folder with config.json. Received: {name}."
    if any(Path(name).match(pattern) for pattern in _OTHERS):
        return (
            f"{required} Weights of TensorFlow and Flax are read by transformers before version 5: "
            "`AutoModel.from_pretrained(folder, from_tf=True)` (or `from_flax=True`), then `save_pretrained(new)`."
        )
    return f"{required} Pickles run code when they are read, so they are not read here. {_CONVERT}"
