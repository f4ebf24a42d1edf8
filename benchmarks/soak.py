"""Mixed work under a budget that shrinks and grows at random: `python -m benchmarks.soak [--minutes 30] [--seed 7]`.

One process asks, converses, evaluates, ingests and swaps models over the sample documents, with the bundled reader (as it
is, in 8 and in 4 bits) and MiniLM, while the budget jumps between 150 and 500 MB every few seconds and now and then falls
to 40 MB, where nothing can answer.  A thread compares, a hundred times a second, what the ledger holds with the budget in
force, and what MLX really has with what was granted.  Exits with 1 unless: no answer is lost; in every sample no more is
held than the budget in force; nothing was granted beyond the budget of its moment, and no safe point passed above it; MLX
never had more than `TOLERANCE` beyond what was granted or allowed; all memory is back at the end (within 2 %).  For how
long more was held than the budget had fallen to is printed.  `--cost` measures what a look at the machine and at the
ledger takes.
"""

from __future__ import annotations

import argparse
import bisect
import gc
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxrag import memory, pressure
from mlxrag.data.example import Example
from mlxrag.errors import WontFit
from mlxrag.evaluate.run import answer_all
from mlxrag.machine import budget, this_machine
from mlxrag.memory import EVERY, Hold, Ledger
from mlxrag.model.encode import load_encoder
from mlxrag.model.load import READER, locate
from mlxrag.model.quick import quantized
from mlxrag.model.recipe import parse
from mlxrag.model.swap import exchange
from mlxrag.rag.answer import Answer, Turn
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.system import System, ask, open_system
from mlxrag.settings import Caching, Memory, ModelSettings, Retrieval, Sampling, Settings
from mlxrag.workspace import Workspace, open_workspace

import mlx.core as mx  # isort: skip  # after mlxrag, which loads MKL

MB = 1_000_000
LOW, HIGH, DIP = 150 * MB, 500 * MB, 40 * MB
TOLERANCE = 16 * MB
"""Bytes that MLX may have beyond what was granted: predictions may lie 5 % too low, and what was freed is counted late."""
SAMPLES = Path(__file__).resolve().parent.parent / "mlxrag" / "samples" / "documents"
QUESTIONS = Path(__file__).with_name("reader_questions.jsonl")


class Walk:
    """A budget that jumps every 1 to 8 seconds, and in one jump of eight falls to `DIP` for 1 to 4 seconds."""

    def __init__(self, seconds: float, seed: int) -> None:
        rng = random.Random(seed)
        self.times, self.sizes = [0.0], [HIGH]
        while self.times[-1] < seconds + 600:
            dip = rng.random() < 1 / 8 and self.sizes[-1] != DIP
            self.times.append(self.times[-1] + rng.uniform(*((1, 4) if self.sizes[-1] == DIP else (1, 8))))
            self.sizes.append(DIP if dip else rng.randrange(LOW, HIGH))
        self.started = time.monotonic()

    def now(self) -> int:
        """Return the budget of this moment."""
        return self.sizes[bisect.bisect(self.times, time.monotonic() - self.started) - 1]


class Witness(Ledger):
    """A ledger that notes, besides, where it grants or lets pass what it must not.

    Attributes:
        grants: times that something was granted.
        beyond: of them, those after which more was held than the budget of that moment.
        points: safe points passed.
        above: of them, those at which more was held than the budget last heard of.
    """

    def __init__(self, walk: Walk) -> None:
        super().__init__(walk.now(), source=self.hear)
        self.walk, self.heard = walk, walk.now()
        self.grants = self.beyond = self.points = self.above = 0

    def hear(self, held: int) -> int:
        """Return the budget of this moment, and remember it."""
        self.heard = self.walk.now()
        return self.heard

    def _take(self, hold: Hold, size: int) -> int:
        more = size > hold.size
        missing = super()._take(hold, size)
        if more and not missing:
            self.grants += 1
            self.beyond += self.held > self.heard
        return missing

    def look(self, every: float = EVERY) -> None:
        super().look(every)
        self.points += 1
        self.above += self.held > self.heard

    def state(self) -> tuple[int, int]:
        """Return what is held and the budget in force at one moment."""
        with self._turn:
            return self.held, self.size


@dataclass
class Watch:
    """What a thread saw.

    Attributes:
        samples: how often it looked.
        exceeded: of them, those in which more was held than the budget in force.
        lags: seconds for which more was held than the budget had fallen to, each time.
        beyond: the most bytes MLX had beyond what was granted or allowed.
        peak: the most bytes MLX had; of the process, in memory.
    """

    ledger: Witness
    walk: Walk
    samples: int = 0
    exceeded: int = 0
    lags: list[float] = field(default_factory=list)
    beyond: int = -(1 << 60)
    peak: int = 0
    resident: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        since: float | None = None
        while not self.stop.wait(0.01):
            (held, size), real = self.ledger.state(), mx.get_active_memory() + mx.get_cache_memory()
            allowed, now = self.walk.now(), time.monotonic()
            self.exceeded += held > size
            if held > allowed:
                since = since or now
            elif since is not None:
                self.lags.append(now - since)
                since = None
            granted = max(held, self.ledger.held)  # what came or went while MLX was asked is not its fault
            self.beyond = max(self.beyond, real - max(granted, allowed))
            self.peak, self.resident = max(self.peak, real), max(self.resident, pressure.resident_bytes())
            self.samples += 1


def world(root: Path) -> tuple[Workspace, Settings, Path, list[str]]:
    """Make a workspace with an index of the samples and three sizes of the reader; return the names of those."""
    docs = root / "documents"
    shutil.copytree(SAMPLES, docs)
    ws = open_workspace(root / "workspace")
    path, name, version = locate(READER, ws)
    refs = [READER]
    for recipe in ("8-g64", "4-g64"):
        _, made, number = quantized(path, name, version, parse(recipe), ws)
        refs.append(f"{made}@{number}")
    settings = Settings(
        model=ModelSettings(model=READER),
        retrieval=Retrieval(num_passages=3),
        sampling=Sampling(max_tokens=48),
        caching=Caching(cache_memory=64),
        memory=Memory(memory_wait="60s"),
    )
    encoder = load_encoder(settings.encoding.encoder, ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        for _ in ingest(index, encoder, [docs], settings):
            pass
    encoder.hidden.unload()
    return ws, settings, docs, refs


def soak(root: Path, seconds: float, seed: int, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Work for so many seconds and return the figures."""
    memory.use(Ledger(1 << 40))
    ws, settings, docs, refs = world(root)
    questions = [json.loads(line)["question"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    gc.collect()
    mx.clear_cache()
    before, resident = mx.get_active_memory(), pressure.resident_bytes()
    walk = Walk(seconds, seed)
    ledger = Witness(walk)
    memory.use(ledger)
    watch = Watch(ledger, walk)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    rng, done, steps = random.Random(seed), Counter[str](), Counter[str]()
    until = time.monotonic() + seconds
    said = time.monotonic()
    while time.monotonic() < until:
        with opened(settings, ws, done) as system:
            for _ in range(40):
                work(system, ws, docs, refs, questions, rng, done)
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    tell(f"{until - said:6.0f} s left: {dict(done)}")
                if time.monotonic() >= until:
                    break
            steps.update(f"{m.direction}: {m.rung}" for m in system.relief.ladder.moves)
        done["systems opened"] += 1
    watch.stop.set()
    thread.join()
    del system
    gc.collect()
    mx.clear_cache()
    after = mx.get_active_memory()
    lags = sorted(watch.lags)
    return {
        "seconds": seconds, "seed": seed, "work": dict(done), "steps": dict(steps), "samples": watch.samples,
        "budget_changes": bisect.bisect(walk.times, seconds), "exceeded": watch.exceeded,
        "grants": ledger.grants, "granted_beyond": ledger.beyond,
        "safe_points": ledger.points, "passed_above": ledger.above, "times_above": len(lags),
        "lag_median": lags[len(lags) // 2] if lags else 0.0, "lag_longest": lags[-1] if lags else 0.0,
        "share_above": sum(lags) / seconds, "peak_held": ledger.peak, "mlx_peak": watch.peak, "mlx_beyond": watch.beyond,
        "held_after": ledger.held, "mlx_before": before, "mlx_after": after,
        "back_within": (after - before) / max(watch.peak, 1), "resident_before": resident,
        "resident_peak": watch.resident, "resident_after": pressure.resident_bytes(),
    }  # fmt: skip


def opened(settings: Settings, ws: Workspace, done: Counter[str]) -> System:
    """Open a system; where nothing fits just now, that is refused, and tried again."""
    while True:
        try:
            return open_system(settings, ws, degrade=True)
        except WontFit:
            done["openings refused"] += 1
            time.sleep(0.5)
            memory.ledger().refresh()


def work(
    system: System,
    ws: Workspace,
    docs: Path,
    refs: list[str],
    questions: list[str],
    rng: random.Random,
    done: Counter[str],
) -> None:
    """Do one piece of work, chosen at random, and count what came of it."""
    kind = rng.choices(["ask", "talk", "evaluate", "ingest", "swap"], [8, 3, 3, 2, 2])[0]
    try:
        if kind == "ask":
            count(done, [ask(system, rng.choice(questions))])
        elif kind == "talk":
            history: list[Turn] = []
            for _ in range(3):
                answer = ask(system, rng.choice(questions), history)
                count(done, [answer])
                history.append(answer.turn)
        elif kind == "evaluate":
            chosen = rng.sample(questions, rng.randrange(4, 17))
            examples = [Example(str(i), q, ("",), (), True, "soak") for i, q in enumerate(chosen)]
            with tempfile.TemporaryDirectory() as folder:
                count(done, [row.answer for row in answer_all(system, examples, Path(folder))])
            done["evaluations"] += 1
        elif kind == "ingest":
            file = rng.choice(sorted(p for p in docs.rglob("*.md")))
            with file.open("a", encoding="utf-8") as handle:
                handle.write(f"\n\nNote {rng.randrange(10**6)}: nothing has changed.\n")
            assert system.index is not None and system.encoder is not None
            for _ in ingest(system.index, system.encoder, [docs], system.settings):
                pass
        else:
            exchange(system.model, rng.choice(refs), ws, settings=system.settings.model)
            system.store.clear()
        done[kind] += 1
    except WontFit as error:
        # A swap to a larger model that does not fit is refused, and the old one answers on; anything else is lost.
        done["swaps refused" if kind == "swap" else "lost"] += 1
        if kind != "swap":
            done[str(error)[:200]] += 1


def count(done: Counter[str], answers: list[Answer]) -> None:
    """Count answers, and those that failed."""
    done["answers"] += len(answers)
    for answer in answers:
        if answer.failure:
            done["lost"] += 1
            done[answer.failure[:200]] += 1


def cost() -> None:
    """Print what a look takes, median of 2,000."""
    ledger = Ledger(1 << 40)
    table = Memory()
    file = Path(tempfile.mkdtemp()) / "budget.json"
    shared = Ledger(1 << 40, file, lambda held: budget(this_machine(), table, held))
    looks: list[tuple[str, Callable[[], Any]]] = [
        ("machine and pressure", pressure.read),
        ("ledger, not yet due", ledger.look),
        ("ledger and machine, due", lambda: shared.look(every=0)),
    ]
    for name, look in looks:
        taken = []
        for _ in range(2000):
            started = time.perf_counter()
            look()
            taken.append(time.perf_counter() - started)
        print(f"{name}: {sorted(taken)[1000] * 1e6:.1f} microseconds")


def faults(found: dict[str, Any]) -> list[str]:
    """Return what is not as it should be."""
    return [
        text
        for text, wrong in (
            ("answers were lost", found["work"].get("lost", 0) > 0),
            ("more was held than the budget in force", found["exceeded"] > 0),
            ("something was granted beyond the budget", found["granted_beyond"] > 0),
            ("a safe point was passed above the budget", found["passed_above"] > 0),
            ("MLX had more than was granted", found["mlx_beyond"] > TOLERANCE),
            ("something is still held", found["held_after"] > 0),
            ("memory is not back", found["back_within"] > 0.02),
        )
        if wrong
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.cost:
        cost()
        return
    with tempfile.TemporaryDirectory() as root:
        found = soak(Path(root), 60 * args.minutes, args.seed, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=1))
    wrong = faults(found)
    print("; ".join(wrong) or "nothing beyond the budget, nothing lost, everything back")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
