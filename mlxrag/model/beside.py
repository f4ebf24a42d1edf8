"""Small files beside the weights: which tokens end an answer, and what the model's makers advise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxrag.errors import BadInput


def stop_ids(path: Path, config: Mapping[str, Any]) -> list[int]:
    """Return the ids that end an answer: of generation_config.json where it says so, else of config.json."""
    generation = _read_json(path / "generation_config.json")
    found = generation.get("eos_token_id") or config.get("eos_token_id")
    if found is None:
        found = (config.get("text_config") or {}).get("eos_token_id")
    if found is None:
        return []
    return [int(i) for i in (found if isinstance(found, Sequence) else [found])]


def advice(path: Path) -> dict[str, Any]:
    """Return what the model's makers advise, from mlxrag.json beside config.json; empty where there is none."""
    return _read_json(path / "mlxrag.json")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: is not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {}
