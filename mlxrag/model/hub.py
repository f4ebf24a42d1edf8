"""Models from the Hugging Face hub: the local cache first, the network only for what is not there.

Strategy: a snapshot that is whole in the cache is used in place, without a request; otherwise `download.py` fetches
what is large and missing, and `huggingface_hub` the rest.  Nothing is copied out of the cache.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlxrag.errors import BadInput, NotFound

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PATTERNS = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
)


def is_hub_id(ref: str) -> bool:
    """Return whether `ref` reads like `organisation/name`, with an optional `@revision`."""
    return HUB_ID.fullmatch(ref.partition("@")[0]) is not None


def fetch(ref: str, *, patterns: tuple[str, ...] = PATTERNS, download: bool = True) -> Path:
    """Return the directory of a hub repository, fetching what the cache lacks.

    Args:
        ref: `organisation/name`, or `organisation/name@revision` (a branch, a tag or a commit).
        patterns: files that are wanted.
        download: whether the network may be used.

    Raises:
        BadInput: `ref` is no hub id.
        NotFound: not in the cache and the hub cannot be reached, does not have it, or asks for a login; or the download
            broke off.
        Damaged: a file arrived with another hash than the hub names.
    """
    if not is_hub_id(ref):
        raise BadInput(f"{ref!r} is no hub id; write organisation/name or organisation/name@revision")
    name, _, revision = ref.partition("@")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is there, but not marked as exported
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        XetDownloadError,
    )

    wanted = list(patterns)
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted, local_files_only=True))
        if whole(folder):
            return folder
    except (LocalEntryNotFoundError, ValueError):
        pass
    way_out = f"run `hf download {name}` on a machine with network and copy its cache, or give a model directory"
    if not download:
        raise NotFound(f"{ref} is not in the local hub cache; {way_out}")
    try:
        from mlxrag.model.download import fetch_large  # here, since it takes long to import and is rarely needed

        fetch_large(name, revision or None, patterns)
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except GatedRepoError as error:
        raise NotFound(
            f"{ref}: the hub asks for a licence and a login; accept it there and run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise NotFound(f"{name} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise NotFound(f"the hub has no model {name!r} (or it is private: run `hf auth login`)") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise NotFound(f"{ref} is not in the local hub cache and the hub cannot be reached; {way_out}") from error
    except (HTTPError, XetDownloadError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotFound(
            f"{ref}: the download broke off ({reason}); the same command goes on where it stopped, once that is mended"
        ) from error


def whole(folder: Path) -> bool:
    """Return whether a snapshot holds a config and weights, and every shard that its index names."""
    import json

    if not (folder / "config.json").exists():
        return False
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return False
        return all((folder / name).exists() for name in names)
    return any(folder.glob("*.safetensors"))
