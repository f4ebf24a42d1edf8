"""MLflow's own pages on the loopback address, as a process of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from mlxrag.errors import BadInput, MlxragError
from mlxrag.track import home, quiet
from mlxrag.tracking.store import address
from mlxrag.workspace import Workspace

READY = 300.0  # seconds that the pages may take to come up; they import all of MLflow, three times
# Its standard input ends when the process that holds the other end has gone, however that went.
WATCH = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


@contextmanager
def pages(workspace: Workspace, port: int) -> Iterator[str]:
    """Serve MLflow's pages while the block runs; yields their address when they answer.

    One worker process, no job execution, no telemetry; the server listens on 127.0.0.1 alone.

    Raises:
        BadInput: the port is taken.
        MlxragError: the server did not come up; says where its log is.
    """
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(f"port {port} is taken; give another --ui-port") from error
    folder = home(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    with (folder / "ui.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address(workspace),
                "--default-artifact-root", (folder / "artifacts").as_uri(), "--host", "127.0.0.1", "--port", str(port),
                "--workers", "1",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=quiet(os.environ), cwd=folder,
        )  # fmt: skip
    watch = subprocess.Popen(
        [sys.executable, "-S", "-c", WATCH, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        _wait(process, url, folder / "ui.log")
        yield url
    finally:
        watch.kill()
        watch.communicate()
        # The server starts workers of its own; the whole group goes.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: object) -> None:
    end = time.monotonic() + READY
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with suppress(OSError):
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.3)
    raise MlxragError(f"MLflow's pages did not come up; see {log}")
