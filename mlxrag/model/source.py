"""Where a checkpoint comes from: a directory, the hub cache, or the workspace; and whether it may be used as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.model import hub
from mlxrag.model.beside import stop_ids
from mlxrag.model.checkpoint import read_config
from mlxrag.model.gguf import read_gguf
from mlxrag.model.load import locate
from mlxrag.model.proof import PROBE
from mlxrag.model.tokenizer import load_tokenizer
from mlxrag.workspace import Workspace, artefacts


@dataclass(frozen=True)
class Source:
    """Where a checkpoint comes from.

    Attributes:
        path: its directory.
        ref: how lineage names it.
        name: for what is made of it.
        proof: what the manifest of a version in the workspace says it was proven with.
    """

    path: Path
    ref: str
    name: str
    proof: Mapping[str, Any] | None = None


def find_source(source: str, workspace: Workspace | None, revision: str = "") -> Source:
    """Return directory, lineage name and name of a checkpoint.

    Raises:
        NotFound: nothing answers to it.
        BadInput: a GGUF file, whose header was read first, or another file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            header = read_gguf(path)
            kind = header.metadata.get("general.architecture", "unknown")
            raise BadInput(
                f"{path}: a GGUF file ({kind}, {len(header.tensors)} tensors) is no source for a conversion, its weights are "
                "packed for another program; convert the safetensors checkpoint it was made from"
            )
        raise BadInput(f"{path} is a file; name the directory that holds config.json and the weights")
    ref = f"{source}@{revision}" if revision and "@" not in source else source
    folder, name, version = locate(ref, workspace)
    if path.is_dir():
        return Source(folder, f"directory:{folder.resolve()}", tidy_name(name))
    known = artefacts(workspace, "models", name) if version and workspace is not None else []
    for artefact in known:
        if artefact.version == version:
            return Source(folder, artefact.ref, name, artefact.manifest.get("proof"))
    if hub.is_hub_id(ref):
        commit = folder.name if len(folder.name) == 40 else version
        return Source(folder, f"hub:{ref.partition('@')[0]}@{commit}", tidy_name(name))
    return Source(folder, f"bundled:{name}", tidy_name(name))


def tidy_name(name: str) -> str:
    """Make a name the workspace takes from whatever a directory is called."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip("._-")
    return kept[:100] or "model"


def refuse_foreign_code(path: Path, trust_remote_code: bool) -> None:
    """Raise BadInput if the checkpoint says its network is code that comes with it, unless that was allowed."""
    named = read_config(path).get("auto_map")
    if trust_remote_code or not isinstance(named, Mapping) or not named:
        return
    target = str(next(iter(named.values())))
    raise BadInput(
        f"{path}: config.json says its network is code of its own ({target}); mlxrag does not run it but mlx-lm's network "
        "of that model_type, if there is one; pass --trust-remote-code to go on"
    )


def probe_ids(path: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the token ids of the probe text, or of a fixed sequence where the checkpoint has no tokenizer."""
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 256
    try:
        tokenizer = load_tokenizer(path, stop_ids(path, config), str(config.get("model_type", "")))
        ids = tokenizer.encode(PROBE)[:64]
    except Exception:  # whatever is wrong with the tokenizer is said when it is checked
        ids = []
    return tuple(i for i in ids if i < rows) or tuple((7 * i + 3) % rows for i in range(32))
