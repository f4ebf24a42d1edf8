"""Large files of the Hugging Face hub into its cache: gone on with where a download broke off, and checked by hash.

huggingface_hub keeps the whole files of a broken download, but begins a file anew and does not look at its hash; some
gigabytes are worth more care.  What is fetched here lies where huggingface_hub looks for it, under the hash it has
there, so that it only makes the links and fetches the small files.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is there, but not marked as exported
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # the same
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    tqdm,
)

from mlxrag.errors import Damaged
from mlxrag.workspace import sha256_file

PIECE = 1 << 20
SHA256, GIT_SHA1 = 64, 40  # hex digits of the hashes that blobs are named by


def fetch_large(name: str, revision: str | None, patterns: tuple[str, ...]) -> None:
    """Put the large files of a repository into the cache; those that are there stay.

    Args:
        name: `organisation/name`.
        revision: branch, tag or commit; the main branch unless given.
        patterns: files that are wanted.

    Raises:
        Damaged: a file arrived with another hash than the hub names; it is thrown away.
        LocalEntryNotFoundError: the hub cannot be reached.
        HTTPError, OSError: a download broke off; what has arrived is kept.
    """
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except HfHubHTTPError:
        raise
    except HTTPError as error:
        raise LocalEntryNotFoundError(f"{name}: the hub cannot be reached") from error
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "blobs")
    for file in info.siblings or ():
        if file.lfs is None or not any(fnmatch(file.rfilename, pattern) for pattern in patterns):
            continue
        blob = blobs / file.lfs.sha256
        if blob.exists():
            continue
        blobs.mkdir(parents=True, exist_ok=True)
        part = blobs / f"{file.lfs.sha256}.part"
        with part.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at the same file
            if blob.exists():
                continue
            complete(hf_hub_url(name, file.rfilename, revision=info.sha), part, file.lfs.size, file.rfilename)
            if sha256_file(part) != file.lfs.sha256:
                part.unlink()
                raise Damaged(f"{name}: {file.rfilename} arrived with another hash than the hub names; fetch it again")
            part.rename(blob)


def complete(url: str, part: Path, size: int, label: str) -> None:
    """Fetch what `part` lacks of a file of `size` bytes; a connection that breaks is made anew while there is progress.

    Raises:
        HTTPError, OSError: it broke and nothing more came.
    """
    with tqdm(total=size, initial=part.stat().st_size, unit="B", unit_scale=True, desc=label) as bar:  # type: ignore[no-untyped-call]  # tqdm has no types
        while (had := part.stat().st_size) < size:
            broke: Exception | None = None
            try:
                append(url, part, had, bar)
            except HTTPError as error:
                broke = error
            if part.stat().st_size <= had:
                raise broke or OSError(f"{label} ends after {had} of {size} bytes")


def append(url: str, part: Path, start: int, bar: tqdm) -> None:
    """Fetch a file from byte `start` on and append it to `part`; from the beginning where a server cannot do that."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:
            part.write_bytes(b"")
            bar.reset()
        with part.open("ab") as stream:
            for piece in response.iter_raw(PIECE):
                stream.write(piece)
                bar.update(len(piece))


def refuse_damage(ref: str, files: Iterable[Path]) -> None:
    """Read files of the hub cache and raise Damaged if one is not what the hub has."""
    if wrong := [file.name for file in files if not intact(file)]:
        raise Damaged(f"{ref}: {wrong[0]} in the hub cache is not what the hub has; delete it there and fetch it again")


def intact(file: Path) -> bool:
    """Return whether a file of the hub cache has the hash that its blob is named by; true where a name is no hash."""
    blob = file.resolve()
    if any(c not in "0123456789abcdef" for c in blob.name):
        return True
    if len(blob.name) == SHA256:
        return sha256_file(blob) == blob.name
    if len(blob.name) == GIT_SHA1:
        data = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == blob.name
    return True
