"""Fuse an adapter of the workspace into its base: find both, find answers to measure on, ask the gate, write."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from mlxrag.errors import BadInput, MlxragError
from mlxrag.model.adapter import find_adapter, read_adapter
from mlxrag.model.attach import resident
from mlxrag.model.fuse import Survival, gate, survival, write_fused
from mlxrag.model.load import Model, load
from mlxrag.settings import Answering, Training
from mlxrag.train.job import base_ref, open_records
from mlxrag.train.tokens import Row, rows
from mlxrag.workspace import Artefact, Workspace, create, resolve


def fuse_adapter(
    workspace: Workspace,
    ref: str,
    name: str,
    *,
    model: str | None = None,
    into: Any = "same",
    threshold: float = 0.8,
    data: str | None = None,
    questions: int = 32,
) -> tuple[Artefact, Survival]:
    """Fuse an adapter into its base and return the new model with what survived.

    Args:
        workspace: where both are, and where the new model goes.
        ref: the adapter: a directory or `name[@version]`.
        name: of the new model.
        model: the base; the one that the adapter names unless given.
        into: `same`, `8` or `half`; see `model.fuse`.
        threshold: least share of the effect that must survive.
        data: what to measure on; the adapter's own validation data unless given.
        questions: how many answers to look at.

    Raises:
        WouldNotSurvive: the gate said no. Mismatch: base and adapter do not belong together.
        BadInput: the adapter does not say its base, or the data holds no answers.
    """
    adapter = read_adapter(find_adapter(ref, workspace))
    base = model or adapter.base_name
    if not base:
        raise BadInput(f"adapter {adapter.name!r} does not say what it was trained on; give the base with --model")
    with load(base.removeprefix("models/"), workspace) as loaded:
        resident(loaded.network, loaded.name).add(adapter)  # says no to an adapter of another base
        resident(loaded.network).close()
        answers = _answers(workspace, loaded, ref, data, questions)
        made, found = survival(loaded.network, adapter, into, answers)
        bits = max((layer.bits for layer in found.layers), default=0)
        gate(found, threshold, into, bits)
        inputs = [
            base_ref(loaded),
            f"adapters/{adapter.name}" if "@" in adapter.name else f"file:{adapter.path.resolve()}",
        ]
        with create(workspace, "models", name, inputs=inputs, settings={"into": into, "threshold": threshold}) as draft:
            facts = write_fused(loaded.path, draft.path, made, into)
            worst = found.layers[0]
            draft.note(
                **facts,
                survival={
                    "kept": found.kept,
                    "agreement": found.agreement,
                    "tokens": found.tokens,
                    "worst": {"layer": worst.path, "cosine": worst.cosine},
                },
            )
    assert draft.artefact is not None
    return draft.artefact, found


def _answers(
    workspace: Workspace, model: Model, ref: str, data: str | None, questions: int
) -> Sequence[tuple[list[int], int]]:
    """Token ids of prompts with their answers, and where the answers begin."""
    if not questions:
        return []
    answering = Answering()
    if data is None:
        try:
            manifest = resolve(workspace, "adapters", ref).manifest
            data = next(i.removeprefix("file:") for i in manifest["inputs"] if i.startswith(("datasets/", "file:")))
            answering = Answering(**manifest.get("answering", {}))
            train, valid, _ = open_records(workspace, data)
        except (MlxragError, StopIteration):
            return []  # a bare directory, or data that is gone: the layers alone decide
    else:
        train, valid, _ = open_records(workspace, data)
    found = rows(valid if len(valid) else train, model.tokenizer, Training(max_seq_length=model.context), answering)
    chosen = list(islice((row for row in found if isinstance(row, Row)), questions))
    if not chosen:
        raise BadInput(f"{data}: holds no answers to measure on; give other --data, or --questions 0")
    return [(row.tokens.tolist(), int(row.learn.argmax())) for row in chosen]
