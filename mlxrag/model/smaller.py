"""A model with fewer layers or fewer tokens: made, measured against the original, and kept as a version."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput
from mlxrag.model.beside import stop_ids
from mlxrag.model.calibrate import pieces
from mlxrag.model.companions import check_companions
from mlxrag.model.likelihood import Divergence, divergence, perplexity, recorded
from mlxrag.model.network import Assembled, assemble
from mlxrag.model.proof import PROBE
from mlxrag.model.prune import drop_layers as without
from mlxrag.model.prune import holder_of, influence, least
from mlxrag.model.quantize import nbytes
from mlxrag.model.source import Source
from mlxrag.model.tokenizer import Tokenizer, load_tokenizer
from mlxrag.model.trim import Vocabulary, choose_tokens, lost_mass, same_cuts, trim_network, write_vocabulary
from mlxrag.model.write import write_model
from mlxrag.settings import Quantizing
from mlxrag.workspace import Artefact, Workspace, create


@dataclass(frozen=True)
class Smaller:
    """What was made (None for a trial) and its figures before and after."""

    artefact: Artefact | None
    facts: dict[str, Any]


def smaller(
    source: Source, texts: Sequence[str], workspace: Workspace, quantizing: Quantizing, *, drop_layers: int = 0,
    keep_top: int | None = None, name: str = "", keep: bool = True,
) -> Smaller:  # fmt: skip
    """Leave out layers, tokens, or both; measure on texts; keep the result.

    Args:
        source: the model.
        texts: the user's.
        workspace: where the version goes.
        quantizing: how many pieces of text, of which length.
        drop_layers: how many layers to leave out.
        keep_top: how many common tokens stay besides those of the texts; None leaves the vocabulary alone.
        name: what to call it.
        keep: False only measures.

    Raises:
        BadInput: more layers than there are, or a network or tokenizer that cannot be cut.
    """
    if drop_layers == 0 and keep_top is None:
        raise BadInput("nothing to do: say how many layers to drop, or trim the vocabulary")
    found = assemble(source.path)
    tokenizer = open_tokenizer(source.path, found)
    rows = pieces(tokenizer, texts, quantizing.calibration_samples, quantizing.calibration_tokens)
    network = awake(found.network)
    scores = influence(network, rows) if drop_layers else []
    numbers = least(scores, drop_layers) if drop_layers else ()
    vocabulary = choose_tokens(source.path, tokenizer, texts, keep_top) if keep_top is not None else None
    before = {"nbytes": nbytes(assemble(source.path).network), "layers": len(holder_of(network).layers),
              "tokens": tokens_of(found), "perplexity": perplexity(network, rows).value}  # fmt: skip
    mass = lost_mass(network, rows, vocabulary.kept) if vocabulary else None
    with recorded(network, rows) if vocabulary is None else nullcontext() as logits:
        del network
        cut = assemble(source.path)
        if numbers:
            cut = without(cut, numbers)
        if vocabulary:
            cut = trim_network(cut, vocabulary)
        inputs, settings = [source.ref], {"drop_layers": drop_layers, "keep_top": keep_top}
        place = create(
            workspace, "models", name or name_of(source, drop_layers, vocabulary), inputs=inputs, settings=settings
        )
        if not keep:
            return Smaller(
                None, trial(cut, vocabulary, tokenizer, rows, texts, before, scores, mass, logits, workspace, source)
            )
        with place as draft:
            facts = fill(draft.path, cut, vocabulary, tokenizer, rows, texts, before, scores, mass, logits, source)
            draft.note(**facts, source=source.ref, nbytes=facts["after"]["nbytes"])
    return Smaller(draft.artefact, facts)


def fill(
    folder: Path, cut: Assembled, vocabulary: Vocabulary | None, tokenizer: Tokenizer, rows: Sequence[Sequence[int]],
    texts: Sequence[str], before: dict[str, Any], scores: list[float], mass: float | None, logits: Any, source: Source,
) -> dict[str, Any]:  # fmt: skip
    """Write the cut model into `folder` and return the figures."""
    notes = list(cut.notes)
    written = write_model(cut, source.path, folder)
    if vocabulary:
        write_vocabulary(folder, vocabulary)
    made = assemble(folder)
    opened = open_tokenizer(folder, made)
    check_companions(folder, made.config)
    network = awake(made.network)
    lost: Divergence | None = divergence(logits, network) if logits is not None else None
    mine = rows
    if vocabulary:
        place = vocabulary.new_id
        mine = [[place[i] for i in row if i in place] for row in rows]
    after = {
        "nbytes": written.nbytes, "layers": len(holder_of(network).layers), "tokens": tokens_of(made),
        "perplexity": perplexity(network, mine).value,
        "kl_mean": lost.kl_mean if lost else None, "top1": lost.top1 if lost else None,
    }  # fmt: skip
    growth = len(opened.encode(PROBE)) / len(tokenizer.encode(PROBE))
    same = same_cuts(tokenizer, opened, vocabulary, texts) if vocabulary else None
    return {
        "before": before,
        "after": after,
        "influence": scores,
        "lost_mass": mass,
        "same_cuts": same,
        "growth": growth,
        "notes": notes,
    }


def trial(
    cut: Assembled, vocabulary: Vocabulary | None, tokenizer: Tokenizer, rows: Sequence[Sequence[int]], texts: Sequence[str],
    before: dict[str, Any], scores: list[float], mass: float | None, logits: Any, workspace: Workspace, source: Source,
) -> dict[str, Any]:  # fmt: skip
    """Do what `fill` does in a folder that is gone afterwards."""
    folder = workspace.root / "cache" / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return fill(folder, cut, vocabulary, tokenizer, rows, texts, before, scores, mass, logits, source)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def awake(network: nn.Module) -> nn.Module:
    """Read the weights; in float32 where half precision is slow."""
    if mx.default_device() == mx.cpu:
        network.set_dtype(mx.float32)
    mx.eval(network.parameters())
    return network


def open_tokenizer(path: Path, found: Assembled) -> Tokenizer:
    """Open the tokenizer of a model directory."""
    return load_tokenizer(path, stop_ids(path, found.config), str(found.written.get("model_type", "")))


def tokens_of(found: Assembled) -> int:
    """Return the size of the vocabulary."""
    return int(found.config.get("vocab_size") or (found.config.get("text_config") or {}).get("vocab_size") or 0)


def name_of(source: Source, drop_layers: int, vocabulary: Vocabulary | None) -> str:
    """Return a name that says what was left out."""
    layers = f"-less-{drop_layers}-layers" if drop_layers else ""
    tokens = f"-{len(vocabulary.kept)}-tokens" if vocabulary else ""
    return f"{source.name}{layers}{tokens}"[:100]
