"""Opens a value model from its folder, without knowing what kind it is.

`rstar` does not import the package that trains preference models (`ppm`); that package, or any other, announces how to open
its models as an entry point of the group `rstar.value_models`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from rstar.errors import ConfigError

if TYPE_CHECKING:
    from rstar.engines import EngineConfig
    from rstar.protocols import ValueBackend

GROUP = "rstar.value_models"
DEFAULT = "ppm"
"""The process preference model of this project."""


def open_value(folder: Path, engine: EngineConfig, *, kind: str = DEFAULT) -> ValueBackend:
    """The value model in a folder, over the back-end of `engine`; it starts with its first request.

    Raises ConfigError for a folder that holds none, or a kind that no installed package announces.
    """
    found = entry_points(group=GROUP, name=kind)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none; install the project again"
        raise ConfigError(f"no value model of kind {kind!r} is installed; there are: {known}")
    opened: ValueBackend = next(iter(found)).load()(folder, engine)
    return opened
