"""The training loop: batches from a process beside it, Muon, checkpoints, and scores on what was held out."""

import json
import multiprocessing
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import torch
from tokenizers import Tokenizer

from . import corpus as corpora
from . import optimize, pack, unseen
from .network import Reader, Size

SAVE = 120
"""Seconds between checkpoints."""


@dataclass(frozen=True)
class Plan:
    """How a run goes."""

    steps: int
    decay: int
    """The last so many updates lower the rate to nothing."""
    shapes: tuple[pack.Shape, ...]
    minutes: float = 0.0
    """If not 0: the run ends after so many, the rate lowered over the same share of them as `decay` is of `steps`."""
    feeders: int = 1
    """Processes that make batches."""
    every: int = 250
    """Updates between scores."""
    matrix_rate: float = 3e-3
    matrix_decay: float = 0.01
    table_rate: float = 6e-4
    warm: int = 100
    real: float = 0.2
    most: int = 5
    unanswerable: float = 0.1
    pointing: float = 0.3
    context_weight: float = 0.15
    context_share: float = 0.06
    seed: int = 1
    dropout: float = 0.0
    compiled: bool = True


def _feed(queue: "Queue[pack.Batch]", plan: Plan, data: Sequence[Path], tokenizer: str, seed: int) -> None:
    torch.set_num_threads(1)
    r = random.Random(seed)
    corpus = corpora.load(data)
    forbidden = unseen.forbidden()
    sheets = filter(
        None, (unseen.clean(s, forbidden) for s in corpora.sheets(corpus, r, plan.real, plan.most, plan.unanswerable))
    )
    for made in pack.batches(
        sheets, Tokenizer.from_file(tokenizer), plan.shapes, r, plan.context_weight, plan.context_share
    ):
        queue.put(made)


def _next(queue: "Queue[pack.Batch]", feeders: Sequence[BaseProcess]) -> pack.Batch:
    while True:
        try:
            return queue.get(timeout=5)
        except Empty:
            if not all(f.is_alive() for f in feeders):
                raise RuntimeError("a process that makes the training data has died; its error stands above") from None


def tensors(made: pack.Batch, device: str) -> dict[str, torch.Tensor]:
    """A batch's arrays on `device`."""
    return {k: torch.from_numpy(v).to(device) for k, v in made.__dict__.items()}


def groups(reader: Reader, plan: Plan) -> tuple[optimize.Muon, torch.optim.AdamW]:
    """Matrices to Muon (stacked ones are told apart), the table and the gains to AdamW."""
    matrices, rest = [], []
    for name, p in reader.named_parameters():
        if p.ndim == 2 and "embed" not in name:
            matrices.append({"params": [p], "parts": 3 if "qkv" in name else 2 if "gate_up" in name else 1})
        else:
            rest.append(p)
    return optimize.Muon(matrices, lr=plan.matrix_rate, weight_decay=plan.matrix_decay), torch.optim.AdamW(
        rest, lr=plan.table_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def score(reader: Reader, made: Sequence[pack.Batch], refusal: int, where: int, device: str) -> dict[str, float]:
    """Exact match of whole conversations, which greedy decoding would write, and how often it refuses.

    Args:
        reader: the network.
        made: batches that hold every answer token (`context_share` 0).
        refusal: the first token of the refusal.
        where: the pointing layer.
        device: to run on.
    """
    reader.eval()
    right = total = refused = answerable = well = unanswerable = 0
    for one in made:
        t = tensors(one, device)
        states, _ = reader.states(
            t["passages"], t["length"], t["talks"], t["owner"], t["offset"], t["pointing"], t["pointer"], where
        )
        c, n = one.passages.shape[1], one.talks.shape[1]
        picked = one.weight == 1.0
        best = (states[t["chosen"][picked]] @ reader.embed_tokens.weight.T).argmax(-1).cpu().numpy()
        fine: dict[tuple[int, int], bool] = {}
        first: dict[tuple[int, int], tuple[int, int, int]] = {}
        for at, want, got in zip(one.chosen[picked], one.target[picked], best, strict=True):
            row, column = divmod(int(at), c + n)
            key = (row, int(one.owner[row, column - c]))
            fine[key] = fine.get(key, True) and want == got
            first[key] = min(first.get(key, (10**9, 0, 0)), (column, int(want), int(got)))
        for key, ok in fine.items():
            _, want, got = first[key]
            total += 1
            right += ok
            if want == refusal:
                unanswerable += 1
                well += got == refusal
            else:
                answerable += 1
                refused += got == refusal
    reader.train()
    return {
        "exact": right / max(total, 1),
        "refused_wrongly": refused / max(answerable, 1),
        "refused_rightly": well / max(unanswerable, 1),
        "n": total,
    }


def run(
    reader: Reader,
    tokenizer_path: Path,
    data: Sequence[Path],
    plan: Plan,
    out: Path,
    device: str = "cpu",
    resume: bool = True,
) -> Iterator[Mapping[str, float]]:
    """Train; yields a record every 25 updates, with scores every `plan.every` and at the end.

    Args:
        reader: the network, changed in place.
        tokenizer_path: the tokenizer's file.
        data: folders of real text.
        plan: of the run.
        out: folder of the checkpoint ``last.pt``; a run that finds one goes on from it.
        device: of the network.
        resume: whether to use the checkpoint.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    corpus = corpora.load(data)
    where = reader.size.layers - 2
    optimizers = groups(reader, plan)
    step, seen = 0, 0
    if resume and (out / "last.pt").is_file():
        saved = torch.load(out / "last.pt", weights_only=True, map_location=device)
        reader.load_state_dict(saved["reader"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, seen = saved["step"], saved["seen"]
    exams = {
        name: [
            made
            for made, _ in zip(
                pack.batches(
                    corpora.held_out(corpus, real, 7),
                    tokenizer,
                    plan.shapes,
                    random.Random(7),
                    plan.context_weight,
                    0.0,
                ),
                range(4),
                strict=False,
            )
        ]
        for name, real in (("schemas", False), ("reading", True))
        if (corpus.held_articles if real else corpus.held_sections)
    }
    refusal = tokenizer.encode(" Not in the documents.").ids[0]
    context = multiprocessing.get_context("spawn")
    queue: Queue[pack.Batch] = context.Queue(maxsize=24)
    seed = plan.seed * 1_000_003 + step
    feeders = [
        context.Process(target=_feed, args=(queue, plan, list(data), str(tokenizer_path), seed + i * 7919), daemon=True)
        for i in range(plan.feeders)
    ]
    for feeder in feeders:
        feeder.start()
    if plan.compiled:
        for layer in reader.layers:  # all share one compiled graph a shape
            layer.compile(dynamic=False)
    first, kept, start, saved_at = seen, [], step, time.time()
    began, progress = time.time(), 0.0
    try:
        while progress < 1.0:
            made = _next(queue, feeders)
            factor = max(
                min(1.0, (step - start + 1) / plan.warm, (1 - progress) * plan.steps / max(plan.decay, 1)), 0.0
            )
            for optimizer, rate in zip(optimizers, (plan.matrix_rate, plan.table_rate), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
            with torch.autocast(device, dtype=torch.bfloat16):
                loss, answer, points = reader(**tensors(made, device), where=where)
            (loss + plan.pointing * points).backward()
            torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            step, seen = step + 1, seen + made.passages.size + made.talks.size
            kept.append(torch.stack([answer.detach(), points.detach()]))
            spent = (time.time() - began) / 60
            progress = max(step / plan.steps, spent / plan.minutes if plan.minutes else 0.0)
            if step % 25 == 0 or progress >= 1.0:
                means = torch.stack(kept).mean(0).tolist()
                record = {
                    "step": step,
                    "tokens": seen,
                    "answer_loss": round(means[0], 4),
                    "pointing_loss": round(means[1], 4),
                    "rate": round(factor, 4),
                    "tokens_per_second": round((seen - first) / (time.time() - began)),
                }
                kept = []
                if step % plan.every == 0 or progress >= 1.0:
                    for name, exam in exams.items():
                        record |= {
                            f"{name}_{k}": round(v, 3) for k, v in score(reader, exam, refusal, where, device).items()
                        }
                if time.time() - saved_at > SAVE or progress >= 1.0:
                    _save(reader, optimizers, step, seen, out)
                    saved_at = time.time()
                yield record
    finally:
        for feeder in feeders:
            feeder.terminate()


def _save(reader: Reader, optimizers: Sequence[torch.optim.Optimizer], step: int, seen: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {
        "reader": reader.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
        "seen": seen,
        "size": asdict(reader.size),
    }
    torch.save(state, out / "new.pt")
    (out / "new.pt").replace(out / "last.pt")
    (out / "last.json").write_text(json.dumps({"step": step, "tokens": seen}))


def restore(path: Path) -> Reader:
    """The network of a checkpoint."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    reader = Reader(Size(**saved["size"]))
    reader.load_state_dict(saved["reader"])
    return reader
