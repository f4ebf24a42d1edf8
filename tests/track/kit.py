"""Runs made by hand: an evaluation with answers and scores, a trained adapter, votes."""

from __future__ import annotations

import json
from typing import Any

from mlxrag.data.dataset import freeze
from mlxrag.data.example import Example, example
from mlxrag.data.journal import Journal
from mlxrag.evaluate.evaluate import SCORES
from mlxrag.evaluate.run import ANSWERS, row_of
from mlxrag.evaluate.score import Score, to_row
from mlxrag.rag.answer import make_answer
from mlxrag.rag.document import Hit, Passage, document_id, passage_id
from mlxrag.workspace import Artefact, Workspace, create

PROMPT = "Answer in one word."


def examples(n: int = 4) -> list[Example]:
    found = []
    for i in range(n):
        document = document_id(f"docs/{i}.md", "text")
        text = f"The owl number {i} eats mice."
        passage = Passage(
            passage_id(document, 0, len(text)), document, f"docs/{i}.md", f"Owl {i}", "", 0, len(text), text
        )
        found.append(example(f"What does owl {i} eat?", ("mice",), (passage,), "test", tags=("food",)))
    return found


def dataset(ws: Workspace, n: int = 4) -> str:
    return freeze(ws, "owls", [("test", e) for e in examples(n)]).ref


def evaluation(
    ws: Workspace,
    name: str = "system",
    right: tuple[int, ...] = (0, 1, 2),
    n: int = 4,
    prompt: str = PROMPT,
    **more: Any,
) -> Artefact:
    """An evaluation in which the questions `right` were answered well."""
    ref = dataset(ws, n)
    settings = {
        "answering": {"system_prompt": prompt},
        "retrieval": {"num_passages": 1},
        "evaluating": {"right_by": "correct"},
        **more,
    }
    with create(ws, "runs", name, inputs=[ref], settings=settings) as draft:
        with Journal(draft.path / ANSWERS) as answers, Journal(draft.path / SCORES) as scores:
            for i, e in enumerate(examples(n)):
                usage = {"seconds": 0.5, "retrieval_seconds": 0.1, "prompt_tokens": 50, "answer_tokens": 3}
                hit = Hit(e.passages[0], 1.0, "test", 1)
                answers.add(
                    row_of(
                        e.id,
                        make_answer(
                            e.question,
                            "mice [1]" if i in right else "hay",
                            (hit,),
                            usage=usage,
                            logprob=-0.1,
                            model="toy",
                        ),
                    )
                )
                scores.add(to_row(Score(e.id, "correct", float(i in right))))
                scores.add(
                    to_row(Score(e.id, "faithful_judge", 1.0 if i else None, "judge@v1", "" if i else "no verdict"))
                )
        mean = len(right) / n
        draft.note(
            what="evaluation", system={"model": "toy", "fingerprint": "f00"}, dataset={"ref": ref, "split": "test"},
            examples=n, failed=0, answer_seconds=2.0,
            figures={"correct": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": n, "missing": 0}},
        )  # fmt: skip
        (draft.path / "report.html").write_text("<h1>report</h1>")
    assert draft.artefact is not None
    return draft.artefact


def trained(ws: Workspace, name: str = "adapter", steps: int = 3) -> Artefact:
    with create(ws, "adapters", name, settings={"rank": 8}) as draft:
        lines = [
            json.dumps(
                {
                    "iteration": i,
                    "train_loss": 3.0 - i,
                    "valid_loss": 2.5 if i == steps else None,
                    "measures": {"f1": 0.5},
                }
            )
            for i in range(1, steps + 1)
        ]
        (draft.path / "steps.jsonl").write_text("\n".join(lines) + "\n")
        draft.note(scores={"best": {"valid_loss": 2.5}})
    assert draft.artefact is not None
    return draft.artefact


def votes(ws: Workspace, run: Artefact) -> Artefact:
    with create(ws, "runs", f"{run.name}-votes", inputs=[run.ref]) as draft:
        with Journal(draft.path / SCORES) as scores:
            for e in examples():
                scores.add(to_row(Score(e.id, "preferred", 1.0, "ada", "left")))
        draft.note(what="votes", votes={"ada": 4}, dataset=run.manifest["dataset"])
    assert draft.artefact is not None
    return draft.artefact
