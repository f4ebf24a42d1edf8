"""A Hugging Face checkpoint -> an MLX model directory that is proven, or says that it is not.

Order of work: the headers are checked, the network is assembled around unread weights, compared with the
reference in float32, and only then written, tensor by tensor, into a temporary neighbour that becomes the
version when everything else is in it.  What was written is opened again and compared once more.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxrag.errors import BadInput, Damaged
from mlxrag.machine import this_machine
from mlxrag.model.beside import stop_ids
from mlxrag.model.calibrate import Calibration, pieces
from mlxrag.model.checkpoint import read_config, refuse_change, stamp
from mlxrag.model.companions import check_companions
from mlxrag.model.download import refuse_damage
from mlxrag.model.halve import choose_dtype, half_fault, this_chip
from mlxrag.model.likelihood import Floats
from mlxrag.model.network import assemble
from mlxrag.model.proof import (
    PROVEN,
    Difference,
    Proof,
    compare,
    find_reference,
    logits_once,
    prove,
    watched,
)
from mlxrag.model.quantize import parameters, unpack
from mlxrag.model.recipe import Recipe, recipe_of
from mlxrag.model.source import Source, find_source, probe_ids, refuse_foreign_code
from mlxrag.model.tokenizer import load_tokenizer
from mlxrag.model.write import Tell, Written, refuse_overflow, write_model
from mlxrag.settings import ModelSettings, Quantizing
from mlxrag.workspace import Artefact, Workspace, create, write_json


@dataclass(frozen=True)
class Converted:
    """What a conversion made: `path`, the version in the workspace if it went there, and the facts of its manifest."""

    path: Path
    artefact: Artefact | None
    facts: Mapping[str, Any]
    proof: Proof


def convert(
    source: str,
    workspace: Workspace | None = None,
    *,
    name: str = "",
    out: Path | None = None,
    revision: str = "",
    model: ModelSettings | None = None,
    quantizing: Quantizing | None = None,
    dequantize: bool = False,
    texts: Iterable[str] = (),
    chip: str | None = None,
    available: int | None = None,
    tell: Tell | None = None,
) -> Converted:
    """Convert a checkpoint into a version of the workspace, or into a directory of its own.

    Args:
        source: a directory, a hub id, or a model of the workspace.
        workspace: where the version goes; may be None where `out` is given.
        name: what to call it; made from the source's name unless given.
        out: a directory that does not exist yet, to write to instead.
        revision: branch, tag or commit of a hub id.
        model: bits, group size and mode, and whether a checkpoint's own code is trusted.
        quantizing: type of what is not quantized, recipes, calibration.
        dequantize: write a quantized model's weights as plain numbers.
        texts: the user's passages, for calibrated recipes.
        chip: name of the processor, if it is not to be asked for.
        available: free memory in bytes, if it is not to be asked for.
        tell: called with bytes written and bytes in all.

    Raises:
        NotFound: no such source, or no weights in it.
        BadInput: the checkpoint cannot be trusted, is no network of mlx_lm's, differs from its reference, or `out` exists.
    """
    model, quantizing = model or ModelSettings(), quantizing or Quantizing()
    recipe = recipe_of(model, quantizing)
    found_at = find_source(source, workspace, revision)
    if out is not None and out.exists():
        raise BadInput(f"{out} exists already; name a directory that does not, or remove it")
    if available is None:
        available = this_machine().available
    if found_at.ref.startswith("hub:"):
        refuse_damage(source, sorted(found_at.path.iterdir()))
    refuse_foreign_code(found_at.path, model.trust_remote_code)
    seen = stamp(found_at.path)
    dtype, reason = choose_dtype(quantizing.dtype, chip if chip is not None else this_chip())
    changed = recipe is not None or dtype is not None or dequantize
    proof, baseline, ids = examine(found_at, quantizing, changed, model.trust_remote_code, available)
    calibration = calibrate_on(found_at.path, recipe, quantizing, texts)
    settings = {
        **model.model_dump(include={"q_bits", "q_group_size", "q_mode"}),
        **quantizing.model_dump(),
        "dequantize": dequantize,
    }

    def fill(folder: Path) -> dict[str, Any]:
        facts = write_checked(found_at.path, folder, dtype, reason, recipe, calibration, dequantize, proof, baseline,
                              ids, model.trust_remote_code, tell)  # fmt: skip
        refuse_change(found_at.path, seen)  # what was written is what was proven
        return {**facts, "source": found_at.ref, "proof": proof.as_dict()}

    if out is not None:
        with whole_directory(out) as folder:
            facts = fill(folder)
            write_json(folder / "conversion.json", {"settings": settings, **facts})
        return Converted(out, None, facts, proof)
    if workspace is None:
        raise BadInput("say where the model goes: a workspace, or --mlx-path")
    name = name or found_at.name
    with create(workspace, "models", name, inputs=[found_at.ref], settings=settings) as draft:
        facts = fill(draft.path)
        draft.note(**facts)
    assert draft.artefact is not None
    return Converted(draft.artefact.path, draft.artefact, facts, proof)


def examine(
    source: Source, quantizing: Quantizing, changed: bool, trust_remote_code: bool, available: int
) -> tuple[Proof, Floats | None, tuple[int, ...]]:
    """Prove the network of a checkpoint.

    Args:
        source: the checkpoint.
        quantizing: whether a difference is accepted.
        changed: whether types or bits will be changed, so that the loss is to be measured.
        trust_remote_code: whether the checkpoint's own code may be run.
        available: bytes of free memory, for a reference that has to be computed.

    Returns:
        the proof, the logits that what is written is compared with, and the ids of the probe.

    Raises:
        BadInput: the logits differ from the reference's, and that was not accepted.
    """
    path = source.path
    with watched() as read:
        found = assemble(path, trust_remote_code=trust_remote_code)
    ids = probe_ids(path, found.config)
    reference, why_not = find_reference(path, ids, 4 * parameters(found.network), available)
    proof = prove(found, read, reference, why_not)
    if proof.status == "differs" and not quantizing.accept_difference:
        raise BadInput(
            f"{path}: mlx-lm computes something else than the checkpoint ({proof.sentence()}); "
            "use another model, or keep it with --accept-difference"
        )
    if reference is not None:
        return proof, reference.logits, reference.ids
    if source.proof:
        proof = inherited(source.proof, source.ref)
    if not changed:
        return proof, None, ids
    found = assemble(path, trust_remote_code=trust_remote_code)
    found.network.set_dtype(mx.float32)
    return proof, logits_once(found.network, ids), ids


def inherited(known: Mapping[str, Any], ref: str) -> Proof:
    """Return the proof of the version that something is made of, as it is recorded."""
    difference = Difference(**known["difference"]) if known.get("difference") else None
    lists = {key: tuple(known.get(key, ())) for key in ("unread", "dropped")}
    # Where that one inherited its proof too, its words say already whose it is.
    by = known["by"] if " (of " in known["by"] else f"{known['by']} (of {ref.removeprefix('models/')})"
    return Proof(**{**known, **lists, "difference": difference, "by": by})


def calibrate_on(path: Path, recipe: Recipe | None, quantizing: Quantizing, texts: Iterable[str]) -> Calibration | None:
    """Cut the user's texts for a calibrated recipe; None for the others."""
    if recipe is None or not recipe.calibrated:
        return None
    texts = list(texts)
    if not texts:
        raise BadInput(f"{recipe.name} needs texts to calibrate on; give files or an index with --calibration")
    config = read_config(path)
    tokenizer = load_tokenizer(path, stop_ids(path, config), config["model_type"])
    rows = pieces(tokenizer, texts, quantizing.calibration_samples, quantizing.calibration_tokens)
    return Calibration(rows, quantizing, config["model_type"])


def write_checked(
    source: Path, folder: Path, dtype: mx.Dtype | None, reason: str, recipe: Recipe | None, calibration: Calibration | None,
    dequantize: bool, proof: Proof, baseline: Floats | None, ids: Sequence[int], trust_remote_code: bool, tell: Tell | None,
) -> dict[str, Any]:  # fmt: skip
    """Write the model into `folder`, look at what was written, and return the facts for its manifest."""

    def write(target: mx.Dtype | None) -> Written:
        found = assemble(source, trust_remote_code=trust_remote_code)
        return write_model(found, source, folder, dtype=target, recipe=recipe, calibration=calibration,
                           dequantize=dequantize, tell=tell)  # fmt: skip

    written = write(dtype)
    if dtype is not None and dtype == mx.float16:
        fault = half_fault(folder, ids)
        if fault and reason.startswith("auto"):
            for file in folder.iterdir():
                file.unlink()
            reason = f"auto: the checkpoint's own, since float16 {fault}"
            written = write(None)
        elif fault:
            refuse_overflow(folder, "float16")
    if proof.exact_up_to:
        limit_context(folder, proof.exact_up_to)
    difference = None
    if baseline is not None:
        difference = reread(folder, baseline, ids, proof.exact_up_to)
        unchanged = recipe is None and dtype is None and not dequantize
        if unchanged and proof.status == "proven" and difference.max_difference > 2 * PROVEN:
            raise Damaged(f"what was written differs from what was read by {difference.max_difference:.1e}; try again")
    return {
        **asdict(written),
        "recipe": recipe.name if recipe else None,
        "dtype_reason": reason,
        "difference": asdict(difference) if difference else None,
        "companions": check_companions(folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))),
        "notes": list(written.notes),
    }


def reread(folder: Path, baseline: Floats, ids: Sequence[int], limit: int | None) -> Difference:
    """Return how far the model in `folder`, computed in float32, is from `baseline`."""
    found = assemble(folder)
    if mx.default_device() == mx.cpu:
        unpack(found.network)
    found.network.set_dtype(mx.float32)
    n = min(len(ids), limit or len(ids))
    return compare(baseline[:n], logits_once(found.network, ids)[:n])


def limit_context(folder: Path, tokens: int) -> None:
    """Advise a context no longer than mlx-lm computes exactly."""
    file = folder / "mlxrag.json"
    advice = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not isinstance(advice.get("context"), int) or advice["context"] > tokens:
        write_json(file, {**advice, "context": tokens})


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Give a temporary neighbour of `out` that becomes it if the block ends well, and is gone if not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
