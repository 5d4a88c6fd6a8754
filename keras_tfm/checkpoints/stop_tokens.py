"""The tokens at which a checkpoint's texts end."""

import os

from keras_tfm.checkpoints.gguf import GgufFile
from keras_tfm.checkpoints.loader import folder_of
from keras_tfm.checkpoints.reader import read_json


def load_stop_token_ids(path_or_repo_id: str | os.PathLike, revision: str | None = None) -> tuple[int, ...]:
    """The tokens at which a checkpoint's texts end: models made for chats often have several.

    Args:
        path_or_repo_id: a folder, where `eos_token_id` of generation_config.json counts, or else that of config.json;
            a .gguf file; or a repository's name, as in `load`.
        revision: branch, tag or commit of the repository.

    Returns:
        Token ids, none where the checkpoint names none.

    Raises:
        ValueError: for anything else than token ids in their place.

    Example:
        >>> stops = ktfm.checkpoints.load_stop_token_ids("meta-llama/Llama-3.2-1B-Instruct")
        >>> writer = ktfm.generation.TextGenerator(model, tokenizer, stop_token_ids=stops)
    """
    path = folder_of(path_or_repo_id, revision)
    if path.is_file():
        header = GgufFile(path).header
        found = [header.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
        ids = [token_id for token_id in found if token_id is not None]
    else:
        files = [path / name for name in ("generation_config.json", "config.json")]
        found = [read_json(file).get("eos_token_id") for file in files if file.is_file()]
        ids = next((token_ids for token_ids in found if token_ids is not None), [])
    ids = ids if isinstance(ids, list) else [ids]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0 for token_id in ids):
        raise ValueError(f"`eos_token_id` must be a token id or a list of them. Received: {ids} in {path}.")
    return tuple(dict.fromkeys(ids))
