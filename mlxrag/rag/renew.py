"""A System takes up another version of its model between two questions, without losing the conversation."""

from __future__ import annotations

from mlxrag.model.swap import exchange, moved
from mlxrag.rag.system import System
from mlxrag.workspace import Workspace


def renew(system: System, workspace: Workspace, but: str = "") -> str | None:
    """Take the version that the model's name stands for now, if that is another one.

    The old weights go before the new ones come; keys and values of the old model are thrown away, the conversation's
    text is the caller's and stays.

    Args:
        system: what answers.
        workspace: where the model is.
        but: a version that was tried and failed, and is not tried again.

    Returns:
        `name@version` of the new one, or None if nothing changed.

    Raises:
        MlxragError: why the new version could not be loaded; the old one answers on.
    """
    ref = moved(system.model, workspace)
    if ref is None or ref == but:
        return None
    system.store.clear()
    settings = system.settings.model
    try:
        exchange(system.model, ref, workspace, adapter=settings.adapter_path or None, settings=settings)
    finally:
        system.__dict__.pop("fingerprint", None)
    return ref
