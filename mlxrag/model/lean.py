"""A light stand-in for mlx_lm's package, so that its model files load without transformers.

`import mlx_lm.models.qwen3` runs `mlx_lm/__init__.py` first, and that imports transformers: about a
second before the first token, for nothing this program needs.  The stand-in has the real package's
`__path__`, so submodules are found, and runs the real `__init__` the first time somebody asks it for
a name (`from mlx_lm import load`).  Installed by `mlxrag.model`, before any submodule is imported.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """A package that becomes the real one when a name of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _lock:
            if self.__class__ is StandIn:
                self.__class__ = ModuleType  # type: ignore[assignment]  # first, so that its own imports see a plain package
                spec = self.__spec__
                assert spec is not None and spec.loader is not None
                try:
                    spec.loader.exec_module(self)
                except BaseException:
                    self.__class__ = StandIn
                    raise
        return getattr(self, name)


_lock = threading.RLock()


def install(package: str = "mlx_lm") -> bool:
    """Put the stand-in where `package` would be, and return whether that was done.

    Does nothing when the package is already imported, or is not installed.
    """
    if package in sys.modules:
        return False
    spec: ModuleSpec | None = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return False
    module = StandIn(package)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = package
    module.__path__ = list(spec.submodule_search_locations)
    module.__file__ = spec.origin
    sys.modules[package] = module
    return True
