"""Rules about one system: how its answers fail, and what usually mends that.

Each takes a case and yields at most one advice; with too few questions it yields none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlxrag.experiment.advice import FEWEST, Advice, Gain, at_most, bounds, matters, right, share, would_tell
from mlxrag.experiment.evidence import Asked, Case
from mlxrag.experiment.statistics import differences, mean_interval

FEW_DOCUMENTS = 10
PASSAGES = 8


def retrieval_misses(case: Case) -> Iterator[Advice]:
    """The gold passage is not in the prompt, and the answer is wrong."""
    asked = _with_gold(case)
    wrong = [a for a in asked if not a.right]
    missed = [a for a in wrong if a.rank is None]
    found = share(case, missed, asked)
    if_found = right([a for a in asked if a.rank is not None])
    retrieval = case.settings.get("retrieval", {})
    change, what = _better(retrieval)
    if found is None or not matters(found) or not what or not if_found:
        return
    ceiling = found.estimate * if_found
    yield Advice(
        "retrieval misses", case.ref, case.name, f"retrieval misses the gold passage in {_percent(missed, wrong)} of the failures: try {what}",
        f"{len(missed)} of {len(wrong)} wrong answers had no gold passage in the prompt (passages: {retrieval.get('num_passages', '?')}); with "
        f"it {100 * if_found:.0f} % are right; n = {len(asked)}",
        at_most(ceiling), would_tell(case, ceiling, change) if change else None,
    )  # fmt: skip


def reading_fails(case: Case) -> Iterator[Advice]:
    """The gold passage is in the prompt, and the answer is wrong without being a refusal."""
    asked = _with_gold(case)
    failed = [a for a in asked if a.rank is not None and not a.right and not a.refused and not a.failure]
    found = share(case, failed, asked)
    if found is None or not matters(found):
        return
    tuned = bool(case.settings.get("model", {}).get("adapter_path"))
    what = "more questions to learn from" if tuned else "an adapter trained on these documents"
    yield Advice(
        "reading fails", case.ref, case.name, f"the passage is there and is misread: try {what}, or a larger model",
        f"{len(failed)} of {len(asked)} answers are wrong with the gold passage in the prompt: {100 * found.estimate:.0f} % of all "
        f"questions, {bounds(found)}",
        at_most(found.estimate), None if tuned else would_tell(case, found.estimate, {}, adapter=True),
    )  # fmt: skip


def refuses_too_much(case: Case) -> Iterator[Advice]:
    """The gold passage is in the prompt, and the system says that the documents do not hold the answer."""
    asked = _with_gold(case)
    refused = [a for a in asked if a.rank is not None and a.refused]
    found = share(case, refused, asked)
    if found is None or not matters(found):
        return
    yield Advice(
        "refuses too much", case.ref, case.name,
        "it refuses what it could answer: train an adapter with fewer unanswerable questions (data make --unanswerable-share)",
        f"{len(refused)} of {len(asked)} questions are refused with the gold passage in the prompt: {100 * found.estimate:.0f} % of "
        f"all questions, {bounds(found)}",
        at_most(found.estimate),
    )  # fmt: skip


def answers_anyway(case: Case) -> Iterator[Advice]:
    """The documents do not hold the answer, and the system gives one."""
    asked = [a for a in case.asked if not a.answerable]
    answered = [a for a in asked if not a.refused and not a.failure]
    found = share(case, answered, case.asked)
    if len(asked) < FEWEST // 2 or found is None or not matters(found):
        return
    yield Advice(
        "answers anyway", case.ref, case.name,
        "it answers what the documents do not say: train an adapter with more unanswerable questions (data make --unanswerable-share 0.3)",
        f"{len(answered)} of {len(asked)} unanswerable questions are answered: {100 * found.estimate:.0f} % of all questions, {bounds(found)}",
        at_most(found.estimate),
    )  # fmt: skip


def order_matters(case: Case) -> Iterator[Advice]:
    """Answers are better when the gold passage stands first in the prompt than when it stands below."""
    asked = [a for a in _with_gold(case) if a.rank is not None]
    first, below = [a for a in asked if a.rank == 1], [a for a in asked if a.rank != 1]
    if len(first) < FEWEST or len(below) < FEWEST // 2:
        return
    at_first, at_below = right(first), right(below)
    # Other questions on either side, so the rates are independent and not paired.
    error = (at_first * (1 - at_first) / len(first) + at_below * (1 - at_below) / len(below)) ** 0.5
    if at_first - at_below < 1.96 * error:
        return
    ceiling = len(below) / len(case.asked) * (at_first - at_below)
    count = int(case.settings.get("retrieval", {}).get("num_passages", 5))
    fewer = max(1, min(3, count - 1))
    yield Advice(
        "order matters", case.ref, case.name, f"passages below the first are read worse: try {fewer} instead of {count}, or a reranker",
        f"right are {100 * at_first:.0f} % with the gold passage first (n = {len(first)}) and {100 * at_below:.0f} % with it below it "
        f"(n = {len(below)})",
        at_most(ceiling), would_tell(case, ceiling, {"retrieval.num_passages": fewer}),
    )  # fmt: skip


def questions_fail(case: Case) -> Iterator[Advice]:
    """Questions have no answer at all."""
    reasons = Counter(a.failure for a in case.asked if a.failure)
    if not reasons:
        return
    ((reason, _),) = reasons.most_common(1)
    failed = reasons.total()
    gain = failed / len(case.asked) * right([a for a in case.asked if not a.failure])
    yield Advice(
        "questions fail", case.ref, case.name, f"mend what makes questions fail: {reason}",
        f"{failed} of {len(case.asked)} questions have no answer", at_most(gain),
    )  # fmt: skip


def few_documents(case: Case) -> Iterator[Advice]:
    """The questions are of so few documents that intervals are rough."""
    known = [a for a in case.asked if a.score is not None]
    documents = len({a.home for a in known})
    if len(known) < FEWEST or documents >= FEW_DOCUMENTS:
        return
    scores = [a.score or 0.0 for a in known]
    found = mean_interval(differences([0.0] * len(known), scores, [a.home for a in known]), resamples=999)
    words = "an interval; of one document there is none"
    if found.low is not None and found.high is not None:
        half = 100 * (found.high - found.low) / 2
        words = (
            f"an interval of about ±{half * (documents / (2 * FEW_DOCUMENTS)) ** 0.5:.0f} points instead of ±{half:.0f}"
        )
    yield Advice(
        "few documents", case.ref, case.name, f"ask about more documents, at least {2 * FEW_DOCUMENTS}",
        f"{len(known)} questions of {documents} documents; those of one document succeed and fail together",
        Gain(None, None, None, words),
    )  # fmt: skip


def _better(retrieval: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the next thing to change of a retriever, if a config can, and what to call it, if there is any left."""
    count = int(retrieval.get("num_passages", 5))
    if retrieval.get("retriever", "hybrid") != "hybrid":
        return {"retrieval.retriever": "hybrid"}, "hybrid"
    if count < PASSAGES:
        wider = min(PASSAGES, max(3, 2 * count))
        return {"retrieval.num_passages": wider}, f"{wider} passages instead of {count}"
    if not retrieval.get("reranker"):
        return {}, "a reranker (--reranker)"
    return {}, ""


def _with_gold(case: Case) -> list[Asked]:
    return [a for a in case.asked if a.answerable and a.known]


def _percent(part: Sequence[Asked], whole: Sequence[Asked]) -> str:
    return f"{100 * len(part) / len(whole):.0f} %"
