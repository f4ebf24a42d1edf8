"""Where artefacts live: `<kind>/<name>/<version>/` with a manifest that is written last.

Rules: an artefact is whole or does not exist (a directory without `manifest.json` is not an artefact); versions
are immutable; `use` moves the pointer `current`; two processes may work in one workspace at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mlxrag import __version__
from mlxrag.errors import BadInput, Damaged, Mismatch, NotFound, nearest

Kind = Literal["models", "adapters", "datasets", "indexes", "runs"]
KINDS: tuple[Kind, ...] = ("models", "adapters", "datasets", "indexes", "runs")
MARKER = "mlxrag.toml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory that holds artefacts.

    Attributes:
        root: absolute path.
    """

    root: Path


@dataclass(frozen=True, slots=True)
class Artefact:
    """One immutable version of something.

    Attributes:
        kind: models, adapters, datasets, indexes or runs.
        name: what it is called.
        version: `v1`, `v2`, ... or a content hash.
        path: its directory.
        manifest: inputs, settings, files with hashes, machine and times.
    """

    kind: Kind
    name: str
    version: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def ref(self) -> str:
        """`kind/name@version`, as lineage records it."""
        return f"{self.kind}/{self.name}@{self.version}"


# What this process made, in order: the command line has it mirrored to MLflow when a command ends.
MADE: list[tuple[Workspace, Artefact]] = []


@dataclass(slots=True)
class Draft:
    """An artefact being made; `path` is a temporary neighbour of where it will be.

    `version` may be set while the files are written, where the name is the hash of their content.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    artefact: Artefact | None = None
    version: str | None = None

    def note(self, **facts: Any) -> None:
        """Add facts, such as scores or a proof, to the manifest."""
        self.facts.update(facts)


def open_workspace(path: str | Path | None = None) -> Workspace:
    """Find or make the workspace.

    Args:
        path: its directory; unless given, MLXRAG_WORKSPACE, then the nearest directory upwards
            from the current one that holds `mlxrag.toml`, then `~/.mlxrag`.

    Raises:
        BadInput: the path is a file or cannot be written.
    """
    given = path or os.environ.get("MLXRAG_WORKSPACE")
    if given:
        root = Path(given).expanduser().resolve()
    else:
        here = Path.cwd()
        root = next((p for p in (here, *here.parents) if (p / MARKER).is_file()), Path.home() / ".mlxrag")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (root / MARKER).exists():
            write_text(root / MARKER, "# This directory is an mlxrag workspace.\n")
    except (NotADirectoryError, FileExistsError) as error:
        raise BadInput(f"{root}: is not a directory; give another --workspace") from error
    except OSError as error:
        raise BadInput(
            f"{root}: the workspace cannot be written: {error.strerror}; give another --workspace"
        ) from error
    return Workspace(root)


@contextmanager
def create(
    workspace: Workspace,
    kind: Kind,
    name: str,
    *,
    inputs: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> Iterator[Draft]:
    """Make a version: write into `draft.path`; it becomes an artefact when the block ends without an exception.

    Args:
        workspace: where.
        kind: what.
        name: letters, digits, `.`, `_` and `-`.
        inputs: refs (`kind/name@version`) of artefacts, or other words, that it is made from.
        settings: the recorded settings.
        version: a content hash; the next `vN` unless given.  If that version exists, the new files are dropped.

    Raises:
        BadInput: the name has other characters; or the disk is full.
    """
    home = _home(workspace, kind, name)
    home.mkdir(parents=True, exist_ok=True)
    started = time.time()
    draft = Draft(home / f".draft-{os.getpid()}-{time.monotonic_ns():x}")
    draft.path.mkdir()
    try:
        yield draft
        files = {str(p.relative_to(draft.path)): p for p in sorted(draft.path.rglob("*")) if p.is_file()}
        manifest = {
            "kind": kind,
            "name": name,
            "inputs": list(inputs),
            "settings": dict(settings or {}),
            **draft.facts,
            "files": {rel: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for rel, p in files.items()},
            "machine": machine(),
            "made": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
        }
        for p in files.values():
            _fsync(p)
        with lock(workspace, f"{kind}-{name}"):
            version = version or draft.version or _next_version(home)
            final = home / version
            if not (final / "manifest.json").is_file():
                if final.exists():
                    shutil.rmtree(final)
                write_json(draft.path / "manifest.json", {**manifest, "version": version})
                draft.path.rename(final)
                _fsync(home)
        draft.artefact = _read(kind, name, final)
        MADE.append((workspace, draft.artefact))
    except OSError as error:
        if error.errno == 28:
            raise BadInput(
                f"{home}: the disk is full; nothing was kept of the unfinished {kind[:-1]} {name!r}"
            ) from error
        raise
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)


def resolve(workspace: Workspace, kind: Kind, ref: str) -> Artefact:
    """Return the artefact that `name` or `name@version` stands for; of a name alone, the current or newest version.

    Raises:
        NotFound: no such name or version; says the nearest.
        Damaged: its manifest cannot be read.
    """
    name, _, version = ref.partition("@")
    known = names(workspace, kind)
    if name not in known:
        raise NotFound(f"no {kind[:-1]} {name!r} in {workspace.root}{nearest(name, known)}")
    home = _home(workspace, kind, name)
    versions = _versions(home)
    if not version:
        pointer = home / "current"
        version = pointer.read_text().strip() if pointer.is_file() else ""
        version = version if version in versions else versions[-1]
    if version not in versions:
        close = [v for v in versions if v.startswith(version)]
        if len(close) != 1:
            raise NotFound(f"{kind[:-1]} {name!r} has no version {version!r}; it has {', '.join(versions)}")
        version = close[0]
    return _read(kind, name, home / version)


def names(workspace: Workspace, kind: Kind) -> list[str]:
    """Return the names of a kind that have at least one version, sorted."""
    root = workspace.root / kind
    return sorted(p.name for p in root.iterdir() if p.is_dir() and _versions(p)) if root.is_dir() else []


def artefacts(workspace: Workspace, kind: Kind, name: str | None = None) -> list[Artefact]:
    """Return all versions of a kind (or of one name), oldest first within a name."""
    found = [name] if name else names(workspace, kind)
    return [_read(kind, n, _home(workspace, kind, n) / v) for n in found for v in _versions(_home(workspace, kind, n))]


def current(workspace: Workspace, kind: Kind, name: str) -> str:
    """Return the version that `name` alone stands for."""
    return resolve(workspace, kind, name).version


def use(workspace: Workspace, kind: Kind, ref: str) -> Artefact:
    """Move `current` to a version; rolling back is the same."""
    artefact = resolve(workspace, kind, ref)
    write_text(_home(workspace, kind, artefact.name) / "current", artefact.version + "\n")
    return artefact


def remove(workspace: Workspace, kind: Kind, ref: str, *, force: bool = False) -> Artefact:
    """Remove a version.

    Raises:
        Mismatch: something else was made from it and `force` is false.
    """
    artefact = resolve(workspace, kind, ref)
    made = [other.ref for k in KINDS for other in artefacts(workspace, k) if artefact.ref in other.manifest["inputs"]]
    if made and not force:
        raise Mismatch(f"{artefact.ref} is what {', '.join(made)} was made from; remove that first, or use --force")
    with lock(workspace, f"{kind}-{artefact.name}"):
        (artefact.path / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(artefact.path)
        home = _home(workspace, kind, artefact.name)
        if not _versions(home):
            shutil.rmtree(home, ignore_errors=True)
    return artefact


def lineage(workspace: Workspace, artefact: Artefact) -> list[Artefact]:
    """Return what an artefact was made from, and what that was made from, nearest first; inputs that are gone are left out."""
    found: list[Artefact] = []
    queue = list(artefact.manifest["inputs"])
    while queue:
        ref = queue.pop(0)
        kind, _, rest = ref.partition("/")
        if kind in KINDS and ref not in {a.ref for a in found}:
            try:
                found.append(resolve(workspace, kind, rest))
            except NotFound:
                continue
            queue += found[-1].manifest["inputs"]
    return found


def verify(artefact: Artefact) -> None:
    """Check the files of an artefact against its manifest.

    Raises:
        Damaged: a file is missing, or is not as it was written.
    """
    for rel, fact in artefact.manifest["files"].items():
        path = artefact.path / rel
        if not path.is_file() or path.stat().st_size != fact["bytes"] or sha256_file(path) != fact["sha256"]:
            raise Damaged(f"{path}: is not as it was written; remove {artefact.ref} and make it again")


def leftovers(workspace: Workspace) -> list[tuple[Path, int]]:
    """Return drafts whose process is gone, with their bytes: what a clean-up would free."""
    drafts = [p for p in workspace.root.glob("*/*/.draft-*") if not alive(int(p.name.split("-")[1]))]
    return [(path, sum(p.stat().st_size for p in path.rglob("*") if p.is_file())) for path in drafts]


def alive(pid: int) -> bool:
    """Return whether a process of this number is there, whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextmanager
def lock(workspace: Workspace, name: str) -> Iterator[None]:
    """Hold a lock between processes; it is let go when the process dies.

    Cost: waits as long as another process holds it.
    """
    folder = workspace.root / ".locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def bundled(path: str) -> Path:
    """Return where something that ships with mlxrag lies, such as `models/reader` or `configs/rag.toml`.

    Raises:
        NotFound: it does not ship with this installation.
    """
    package = Path(__file__).resolve().parent
    for root in (package.parent, package / "bundled"):
        if (root / path).exists():
            return root / path
    raise NotFound(f"{path} does not ship with this installation of mlxrag; install it again")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a temporary neighbour, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """Return the hash of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def machine() -> dict[str, str]:
    """Return what a record should say of the machine and the program."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "mlxrag": __version__,
    }


def _home(workspace: Workspace, kind: Kind, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name for a {kind[:-1]}: use letters, digits, '.', '_' and '-'")
    return workspace.root / kind / name


def _versions(home: Path) -> list[str]:
    found = [p.parent for p in home.glob("*/manifest.json") if not p.parent.name.startswith(".")]
    return [p.name for p in sorted(found, key=lambda p: (p.joinpath("manifest.json").stat().st_mtime_ns, p.name))]


def _next_version(home: Path) -> str:
    taken = [int(p.name[1:]) for p in home.iterdir() if re.fullmatch(r"v\d+", p.name)]
    return f"v{max(taken, default=0) + 1}"


def _read(kind: Kind, name: str, path: Path) -> Artefact:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(f"{path / 'manifest.json'}: cannot be read; remove {path} and make it again") from error
    return Artefact(kind, name, path.name, path, manifest)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
