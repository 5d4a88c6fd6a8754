"""How far back each layer of a config sees."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keras_tfm.checkpoints.config_keys import MOST_LAYERS, value_at

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Windows:
    """The argument `windows`: for each block a number of positions, or None for all.

    Args:
        is_local: (config, layer) -> whether the layer has the window, in a config without `layer_types`.
        window: what a config without `sliding_window` means.
        switch: the family has `use_sliding_window`, without which there is no window.
        lists_layers: the family has `layer_types`.
    """

    is_local: Callable[[Mapping[str, Any], int], bool]
    window: int | None = None
    switch: bool = False
    lists_layers: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        switch = ("use_sliding_window", "max_window_layers") if self.switch else ()
        return ("sliding_window", *switch, *(("layer_types",) if self.lists_layers else ()))

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        num_layers, window = value_at(config, "num_hidden_layers"), config.get("sliding_window", self.window)
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise ValueError(f"`sliding_window` of the config must be null or at least 1. Received: {window!r}.")
        if not isinstance(num_layers, int) or not 1 <= num_layers <= MOST_LAYERS:
            return {}  # the size's own object says so
        if self.switch:
            first_local, is_on = config.get("max_window_layers"), value_at(config, "use_sliding_window", False)
            if not isinstance(is_on, bool) or isinstance(first_local, bool) or not isinstance(first_local, int | None):
                raise ValueError(
                    "`use_sliding_window` of the config must be true or false, `max_window_layers` an integer. "
                    f"Received: {is_on!r} and {first_local!r}."
                )
            if not is_on:
                return {"windows": (None,)}
        kinds = config.get("layer_types") if self.lists_layers else None
        if kinds is None:
            return {"windows": _shortest(window if self.is_local(config, i) else None for i in range(num_layers))}
        if (
            not isinstance(kinds, list)
            or len(kinds) != num_layers
            or any(kind not in (_LOCAL, _GLOBAL) for kind in kinds)
        ):
            raise ValueError(
                f"`layer_types` of the config must name {_LOCAL!r} or {_GLOBAL!r} for each of the {num_layers} layers. "
                f"Received: {kinds!r}."
            )
        return {"windows": _shortest(window if kind == _LOCAL else None for kind in kinds)}

    def write(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        num_layers, windows = arguments["num_layers"], arguments["windows"]
        windows = [windows[i % len(windows)] for i in range(num_layers)]
        sizes = {window for window in windows if window is not None}
        if len(sizes) > 1 or (sizes and None in windows and not self.lists_layers):
            raise ValueError(f"A config of this family has one window. Received: windows={tuple(windows)}.")
        config: dict[str, Any] = {"sliding_window": next(iter(sizes), None)}
        if self.switch:
            config |= {"use_sliding_window": bool(sizes), "max_window_layers": num_layers}
        if self.lists_layers:
            config["layer_types"] = [_GLOBAL if window is None else _LOCAL for window in windows]
        return config


def windows_of(model: Any) -> tuple:
    """What `Windows` reads for this model: the window of each block, or one for all."""
    return _shortest(block.self_attention.window for block in model.stack.blocks)


def _shortest(windows) -> tuple:
    windows = tuple(windows)
    return windows[:1] if len(set(windows)) == 1 else windows
