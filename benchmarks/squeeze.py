"""The same questions under a real memory limit, by mlx_lm and by mlxrag: `python -m benchmarks.squeeze [--limits 215 185]`.

A child process answers three questions over the sample documents with a random model (6 layers of 384, float32, and an
8-bit version of it beside) and long prompts.  One child runs mlx_lm as its README
shows it, the other opens a System.  Each runs without a limit first, then inside a control group with `memory` limited
(in MB; versions 1 and 2, as root), where the kernel kills what takes more; where there are no control groups, the limit is
RLIMIT_DATA, at which an allocation fails.  Prints who survived, what was answered, the peak and mlxrag's steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUESTIONS = (
    "How many hours a week do I work if I'm full time?",
    "What time does the late shift finish?",
    "How many days of leave are there?",
)
PASSAGES, ANSWER = 8, 16
GROUPS = Path("/sys/fs/cgroup")


def prepare(root: Path) -> None:
    """Make model, smaller version, index and the prompts that both children answer."""
    from mlxrag import device as device  # MKL, before mlx.core

    import mlx.core as mx  # isort: skip
    from mlx.utils import tree_flatten  # isort: skip

    from mlxrag.model.encode import load_encoder
    from mlxrag.model.load import READER, locate
    from mlxrag.model.network import build
    from mlxrag.model.quick import quantized
    from mlxrag.model.recipe import parse
    from mlxrag.rag.fit import fit
    from mlxrag.rag.index import open_index
    from mlxrag.rag.ingest import ingest
    from mlxrag.rag.retrieve import retrieve
    from mlxrag.rag.system import open_system
    from mlxrag.settings import Settings
    from mlxrag.workspace import open_workspace

    reader, _, _ = locate(READER)
    folder = root / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(reader / name, folder / name)
    config = json.loads((reader / "config.json").read_text(encoding="utf-8"))
    config = {
        "model_type": "llama", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1152,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "vocab_size": config["vocab_size"], "tie_word_embeddings": True, "max_position_embeddings": 8192,
        "bos_token_id": config.get("bos_token_id"), "eos_token_id": config.get("eos_token_id"),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    network = build(config)
    weights = {
        name: mx.random.normal(w.shape) * 0.03 if w.ndim > 1 else w for name, w in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    ws = open_workspace(root / "workspace")
    quantized(folder, "model", "", parse("8-g64"), ws)
    encoder = load_encoder(Settings().encoding.encoder, ws)
    documents = Path(__file__).resolve().parent.parent / "mlxrag" / "samples" / "documents"
    with open_index(ws, "documents", encoder, create=True) as index:
        for _ in ingest(index, encoder, [documents], Settings()):
            pass
    prompts = []
    with open_system(settings(root), ws) as system:
        assert system.index is not None
        for question in QUESTIONS:
            hits = retrieve(system.index, None, question, system.settings.retrieval)
            prompts.append(list(fit(system, question, hits).ids))
    (root / "prompts.json").write_text(json.dumps(prompts))


def settings(root: Path) -> Any:
    from mlxrag.settings import Caching, ModelSettings, Retrieval, Sampling, Settings

    return Settings(
        caching=Caching(lookup=False),
        model=ModelSettings(model=str(root / "model")),
        retrieval=Retrieval(retriever="lexical", num_passages=PASSAGES),
        sampling=Sampling(max_tokens=ANSWER),
    )


def plain(root: Path) -> None:
    """Answer the prompts with mlx_lm as its README shows it."""
    from mlxrag import device as device  # MKL, so that both multiply alike

    from mlx_lm import load, stream_generate  # isort: skip

    model, tokenizer = load(str(root / "model"))
    tokenizer.eos_token_ids = set()
    for prompt in json.loads((root / "prompts.json").read_text()):
        for _ in stream_generate(model, tokenizer, prompt, max_tokens=ANSWER):
            pass
        print(json.dumps({"prompt": len(prompt)}), flush=True)


def ours(root: Path) -> None:
    """Answer the questions with a System."""
    from mlxrag.rag.system import ask, open_system
    from mlxrag.workspace import open_workspace

    with open_system(settings(root), open_workspace(root / "workspace"), degrade=True) as system:
        for question in QUESTIONS:
            usage = ask(system, question).usage
            steps = [step["rung"] for step in usage.get("memory", {}).get("steps", ())]
            print(json.dumps({"prompt": usage["prompt_tokens"], "steps": steps}), flush=True)


@contextlib.contextmanager
def group(limit: int | None) -> Iterator[Path | None]:
    """Make a control group with this limit in bytes, or none where that is not possible or not asked for."""
    first = (GROUPS / "memory").is_dir()
    folder = (GROUPS / "memory" if first else GROUPS) / f"mlxrag-squeeze-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        if limit is not None:
            (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
        yield folder
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def run(root: Path, who: str, limit: int | None) -> dict[str, Any]:
    """Run a child and return how it ended."""
    with group(limit) as folder:

        def enter() -> None:
            if folder is not None:
                (folder / "cgroup.procs").write_text(str(os.getpid()))
            elif limit is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

        started = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.squeeze", "--child", who, "--root", str(root)],
            capture_output=True, text=True, preexec_fn=enter, env={**os.environ, "MKL_NUM_THREADS": "1", "HOME": str(root)},
        )  # fmt: skip
        peak = 0
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with contextlib.suppress(OSError, AttributeError, TypeError):
                peak = int((folder / name).read_text())  # type: ignore[operator]  # None where there are no control groups: left at 0
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    steps = [step for line in lines for step in line.get("steps", ())]
    return {
        "who": who, "limit": limit, "by": "control group" if folder is not None else "RLIMIT_DATA",
        "code": child.returncode, "answered": len(lines), "of": len(QUESTIONS), "peak": peak, "steps": steps,
        "prompts": [line["prompt"] for line in lines], "seconds": round(time.perf_counter() - started, 1),
        "last_words": child.stderr.strip().splitlines()[-1:] if child.returncode else [],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limits", type=int, nargs="*", default=[215, 185], help="in MB of 10^6 bytes")
    parser.add_argument("--child", choices=["mlx_lm", "mlxrag"])
    parser.add_argument("--root", type=Path)
    args = parser.parse_args()
    if args.child:
        (plain if args.child == "mlx_lm" else ours)(args.root)
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a child of its own, so that nothing of the preparation is in memory when the limited ones start.
        code = f"from pathlib import Path; from benchmarks.squeeze import prepare; prepare(Path({folder!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)
        rows = [
            run(Path(folder), who, limit and limit * 1_000_000)
            for limit in (None, *args.limits)
            for who in ("mlx_lm", "mlxrag")
        ]
    print("| limit | who | ended | answered | peak | steps |\n|---:|---|---|---:|---:|---|")
    for r in rows:
        ended = "survived" if r["code"] == 0 else f"killed ({-r['code']})" if r["code"] < 0 else f"failed ({r['code']})"
        limit = f"{r['limit'] / 1e6:.0f} MB" if r["limit"] else "none"
        steps = ", ".join(dict.fromkeys(r["steps"])) or "-"
        print(f"| {limit} | {r['who']} | {ended} | {r['answered']} of {r['of']} | {r['peak'] / 1e6:.0f} MB | {steps} |")
    print(json.dumps(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
