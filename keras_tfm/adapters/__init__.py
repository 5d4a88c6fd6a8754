"""Adapters: small weights beside frozen ones, added to any model of this library, merged, and in peft's files."""

from keras_tfm.adapters.adapters import (
    ROLES,
    adapter_names,
    add_bottlenecks,
    add_ia3,
    add_lora,
    merge,
    projections_of,
    remove,
    unmerge,
    use,
)
from keras_tfm.adapters.peft_files import load, save
from keras_tfm.adapters.virtual_tokens import add_virtual_tokens

__all__ = [
    "ROLES",
    "adapter_names",
    "add_bottlenecks",
    "add_ia3",
    "add_lora",
    "add_virtual_tokens",
    "load",
    "merge",
    "projections_of",
    "remove",
    "save",
    "unmerge",
    "use",
]


def __dir__() -> list[str]:
    return __all__
