"""Large files of the hub: gone on with, checked, and what is said when that fails."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from mlxrag.errors import Damaged, NotFound
from mlxrag.model import hub
from mlxrag.model.download import PIECE, fetch_large, intact, refuse_damage

CONTENT = bytes(range(256)) * (3 * PIECE // 256)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Hub:
    """What the server gives: `content`, at most `most` bytes a request, with or without ranges; and what it was asked."""

    cache: Path
    content: bytes = CONTENT
    most: int = len(CONTENT)
    ranges: bool = True
    asked: list[int] = field(default_factory=list)

    @property
    def blobs(self) -> Path:
        return self.cache / "models--org--tiny" / "blobs"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine with one repository of one large file."""
    found = Hub(tmp_path / "cache")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def do_GET(self) -> None:
            if "/resolve/" not in self.path:
                lfs = {"sha256": SHA256, "size": len(CONTENT), "pointerSize": 130}
                files = [{"rfilename": "model.safetensors", "size": len(CONTENT), "lfs": lfs}, {"rfilename": "config.json"},
                         {"rfilename": "other.bin", "size": 1, "lfs": {**lfs, "sha256": "0" * 64}}]  # fmt: skip
                body, start = json.dumps({"id": "org/tiny", "sha": "c" * 40, "siblings": files}).encode(), 0
            else:
                wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(wanted[1]) if wanted and found.ranges else 0
                found.asked.append(start)
                body = found.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: found.most] if "/resolve/" in self.path else body)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    here = f"http://127.0.0.1:{running.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(found.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield found
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.mark.loopback
def test_a_download_goes_on_where_it_broke_off(server: Hub) -> None:
    """A connection that breaks is made anew while there is progress, and another process takes up what was kept."""
    server.most = PIECE
    fetch_large("org/tiny", None, ("*.safetensors",))
    assert server.asked == [0, PIECE, 2 * PIECE]
    blob = server.blobs / SHA256
    assert blob.read_bytes() == CONTENT and [file.name for file in server.blobs.iterdir()] == [SHA256]
    fetch_large("org/tiny", None, ("*.safetensors",))
    assert len(server.asked) == 3, "what is there is not fetched again"
    blob.rename(blob.with_name(f"{SHA256}.part"))
    (server.blobs / f"{SHA256}.part").write_bytes(CONTENT[:PIECE])
    fetch_large("org/tiny", None, ("*.safetensors",))
    assert server.asked[3:] == [PIECE, 2 * PIECE] and blob.read_bytes() == CONTENT


@pytest.mark.loopback
def test_a_server_without_ranges_begins_anew(server: Hub) -> None:
    """Bytes that were there are not put before the whole file."""
    server.ranges = False
    server.blobs.mkdir(parents=True)
    (server.blobs / f"{SHA256}.part").write_bytes(b"old")
    fetch_large("org/tiny", None, ("*.safetensors",))
    assert (server.blobs / SHA256).read_bytes() == CONTENT


@pytest.mark.loopback
def test_content_with_another_hash_is_thrown_away(server: Hub) -> None:
    """Nothing of it stays, so that the next attempt begins anew."""
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(Damaged, match="another hash"):
        hub.fetch("org/tiny")
    assert list(server.blobs.iterdir()) == []


@pytest.mark.loopback
def test_what_breaks_off_for_good_is_one_sentence(server: Hub) -> None:
    """The reason is said, what has arrived is kept, and the same command is the way out."""
    server.content = CONTENT[: PIECE + 1000]
    server.most = PIECE
    server.ranges = True
    with pytest.raises(NotFound, match=r"the download broke off .* the same command goes on"):
        hub.fetch("org/tiny")
    assert (server.blobs / f"{SHA256}.part").stat().st_size >= PIECE


def test_no_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline, a model that is not in the cache is not found, and the sentence says how to bring it here."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match=r"cannot be reached; run `hf download org/none`"):
        hub.fetch("org/none@v1")


def test_files_of_the_cache_are_checked_by_the_hash_they_are_named_by(tmp_path: Path) -> None:
    """Large files by sha256, small ones as git names them; a file that is no blob has nothing to be checked by."""
    blob = hashlib.sha1(b"blob 3\0abc").hexdigest()
    (tmp_path / blob).write_bytes(b"abc")
    (tmp_path / "config.json").symlink_to(tmp_path / blob)
    assert intact(tmp_path / "config.json") and intact(tmp_path / blob)
    (tmp_path / blob).write_bytes(b"abd")
    with pytest.raises(Damaged, match=r"org/x: config.json in the hub cache"):
        refuse_damage("org/x", [tmp_path / "config.json"])
    (tmp_path / "notes.txt").write_bytes(b"")
    assert intact(tmp_path / "notes.txt")
