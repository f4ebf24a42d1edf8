"""Prompts as versions, models and adapters as registered models: by reference, nothing is copied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mlxrag.tracking.store import Store, patiently
from mlxrag.workspace import Artefact, current

PROMPT = "system_prompt"


def register_prompt(store: Store, run: str, settings: Mapping[str, Any]) -> str:
    """Register a system's instruction, unless one of its versions says the same, and link it to the run.

    Returns:
        `name/version`, or an empty string where there is no instruction.
    """
    from mlflow.exceptions import MlflowException

    text = str(settings.get("answering", {}).get(PROMPT, ""))
    if not text:
        return ""
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    # MLflow reads {{...}} in a prompt as a variable, and so it shows it; the text itself is kept as it is.
    version = 1
    while True:
        try:
            known = patiently(lambda version=version: store.client.get_prompt_version(PROMPT, str(version)))  # type: ignore[misc]
        except MlflowException:
            known = None
        if known is None:
            made = patiently(
                lambda: store.client.register_prompt(PROMPT, text, commit_message=mark, tags={"mlxrag.sha256": mark})
            )
            version = int(made.version)
            break
        if known.template == text:
            break
        version += 1
    linked = json.dumps([{"name": PROMPT, "version": str(version)}])
    store.tags(run, {"mlflow.linkedPrompts": linked, "mlxrag.prompt": f"{PROMPT}/{version}"})
    return f"{PROMPT}/{version}"


def register(store: Store, run: str, artefact: Artefact) -> None:
    """Register a model or adapter by where it lies; the alias `current` follows the workspace."""
    from mlflow.exceptions import MlflowException

    name = f"{artefact.kind[:-1]}.{artefact.name}"
    try:
        patiently(lambda: store.client.get_registered_model(name))
    except MlflowException:
        patiently(lambda: store.client.create_registered_model(name, tags={"mlxrag.kind": artefact.kind}))
    found = patiently(lambda: store.client.search_model_versions(f"name='{name}'"))
    version = next((v.version for v in found if v.tags.get("mlxrag.version") == artefact.version), None)
    if version is None:
        tags = {"mlxrag.version": artefact.version, "mlxrag.ref": artefact.ref}
        made = patiently(lambda: store.client.create_model_version(name, artefact.path.as_uri(), run, tags=tags))
        version = made.version
    if current(store.workspace, artefact.kind, artefact.name) == artefact.version:
        patiently(lambda: store.client.set_registered_model_alias(name, "current", str(version)))
