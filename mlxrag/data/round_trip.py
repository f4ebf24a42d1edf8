"""The round trip: retrieval finds the passage again, and the model answers with it but not without it.

Source: round-trip consistency, Alberti et al. 2019 (arXiv:1906.05416); the check without a passage drops what the
model knows by heart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from mlxrag.data.candidate import Candidate
from mlxrag.data.example import Example, example
from mlxrag.data.gates import Verdict, is_named, is_right
from mlxrag.data.journal import Journal, rows
from mlxrag.data.store import batched
from mlxrag.data.words import normal
from mlxrag.model.batch import complete_batch
from mlxrag.model.generate import Request
from mlxrag.model.load import Model
from mlxrag.rag.answer import is_refusal, messages
from mlxrag.rag.document import Hit
from mlxrag.rag.retrieve import retrieve_many
from mlxrag.rag.system import WINDOW, Asked, System, ask_many
from mlxrag.settings import Answering, Making, Sampling

CLOSED_BOOK = Answering(system_prompt="Answer the question in a few words.")
LOOKALIKES = 3
"""Passages an unanswerable question is kept with: the first hits, which look right and do not answer."""


def found_again(system: System, candidates: Sequence[Candidate], making: Making) -> list[tuple[Candidate, Verdict]]:
    """Search every question and return it with whether one of its passages is among the first hits.

    An unanswerable question passes and takes the first hits as its passages.
    """
    assert system.index is not None
    retrieval = system.settings.retrieval.model_copy(update={"num_passages": max(making.found_within, LOOKALIKES)})
    found = retrieve_many(system.index, system.encoder, [c.question for c in candidates], retrieval)
    judged = []
    for candidate, hits in zip(candidates, found, strict=True):
        if not candidate.answers:
            near = tuple(h.passage for h in hits[:LOOKALIKES]) or candidate.passages
            judged.append((replace(candidate, passages=near), Verdict(True, "unanswerable, looks like its hits")))
            continue
        ranks = {h.passage.id: h.rank for h in hits}
        mine = [ranks.get(p.id) for p in candidate.passages]
        best = min((r for r in mine if r is not None), default=0)
        if all(r is not None for r in mine) and (best == 1 or is_named(candidate.question)):
            judged.append((candidate, Verdict(True, f"rank {best}")))
        elif best > 1 and all(r is not None for r in mine):
            judged.append((candidate, Verdict(False, f"rank {best}, and no name or number says what it is about")))
        else:
            judged.append((candidate, Verdict(False, f"not within the first {making.found_within}")))
    return judged


def read_again(system: System, candidates: Sequence[Candidate], making: Making) -> list[Verdict]:
    """Have the model answer every question from its passages; a question without an answer must be refused."""
    asked = [
        Asked(c.question, tuple(Hit(p, 1.0 / n, "gold", n) for n, p in enumerate(c.passages, 1))) for c in candidates
    ]
    verdicts = []
    for candidate, answer in zip(candidates, ask_many(system, asked), strict=True):
        if answer.failure:
            verdicts.append(Verdict(False, f"no answer: {answer.failure}"))
        elif not candidate.answers:
            verdicts.append(Verdict(answer.refused, "refused" if answer.refused else f"answered {answer.text[:60]!r}"))
        else:
            right, f1 = is_right(answer.text, candidate.answers, making.read_f1)
            passed = right and not answer.refused
            verdicts.append(Verdict(passed, f"f1 {f1:.2f}" + ("" if passed else f", said {answer.text[:60]!r}")))
    return verdicts


def known_already(system: System, candidates: Sequence[Candidate], making: Making) -> list[Verdict]:
    """Have the model answer every question without a passage; one it can is no test of reading."""
    room = min(48, system.settings.sampling.max_tokens)
    requests = []
    for i, candidate in enumerate(candidates):
        ids = system.model.tokenizer.prompt(messages(candidate.question, (), CLOSED_BOOK))
        if len(ids) + room <= system.model.context:
            requests.append(Request(str(i), tuple(ids), room))
    texts = dict.fromkeys(range(len(candidates)), "")
    for completion in complete_batch(system.model, requests, system.settings.sampling, caching=system.settings.caching):
        texts[int(completion.id)] = completion.text
    verdicts = []
    for i, candidate in enumerate(candidates):
        if not candidate.answers or is_refusal(texts[i]):
            verdicts.append(Verdict(True, "f1 0.00"))
            continue
        right, f1 = is_right(texts[i], candidate.answers, making.read_f1)
        # Between two named things a guess is right half of the time, and says nothing about knowledge.
        right = right and "comparison" not in candidate.tags
        verdicts.append(Verdict(not right, f"f1 {f1:.2f}" + (f", knew {texts[i][:60]!r}" if right else "")))
    return verdicts


def grade(system: System, examples: Iterable[Example], making: Making, done: Path) -> Iterator[Example]:
    """Yield examples of any origin with what the round trip says of them noted in their gates; nothing is refused.

    So imported ones too have a rank of the gold passage, and whether the model knows the answer with and without it.

    Args:
        system: with an index.
        examples: what to grade; those without passages are not read again.
        making: limits of the gates.
        done: a journal of the notes; killed in the middle, the same call goes on after its last row.
    """
    before = rows(done)
    with Journal(done) as journal:
        for window in batched(examples, WINDOW):
            known = [row["gates"] for row in islice(before, len(window))]
            left = [
                Candidate(e.question, e.answers, e.passages, e.evidence, e.source, e.tags) for e in window[len(known) :]
            ]
            found = [verdict for _, verdict in found_again(system, left, making)] if left else []
            read = iter(read_again(system, [c for c in left if c.passages], making))
            without = known_already(system, left, making) if left else []
            for candidate, retrieval, closed in zip(left, found, without, strict=True):
                reading = next(read).note if candidate.passages else "no passage"
                gates = {"retrieval": retrieval.note, "reading": reading, "closed_book": closed.note}
                journal.add({"gates": gates})
                known.append(gates)
            for one, gates in zip(window, known, strict=True):
                yield replace(one, gates={**one.gates, **gates})


def paraphrase(model: Model) -> Callable[[Example, random.Random, Any], Iterator[Example]]:
    """Return an augmenter: the model asks the question in other words; a copy, or what is no question, is left out."""

    def augmenter(one: Example, rng: random.Random, others: Any) -> Iterator[Example]:
        text = f"Ask the same question in other words. Keep all names and numbers. Reply with the question only.\n\nQuestion: {one.question}"
        ids = model.tokenizer.prompt([{"role": "user", "content": text}])
        request = Request("0", tuple(ids), 48, seed=rng.randrange(1 << 30))
        for completion in complete_batch(model, [request], Sampling(max_tokens=48, temp=0.7, top_p=0.9)):
            said = completion.text.strip().split("\n")[0].removeprefix("Question:").strip()
            names = re.findall(r"\b[A-Z][a-z]+\b|\d[\d.,]*", one.question[1:])
            if said.endswith("?") and normal(said) != normal(one.question) and all(n in said for n in names):
                yield example(said, one.answers, one.passages, f"augment:paraphrase:{one.id}", answerable=one.answerable,
                              tags=(*one.tags, "paraphrase", "augmented"), history=one.history, evidence=one.evidence)  # fmt: skip

    return augmenter
