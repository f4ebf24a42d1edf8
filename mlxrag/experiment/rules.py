"""The rules of advice as a table: what each looks at, when it speaks, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from mlxrag.experiment import failures
from mlxrag.experiment.advice import FEWEST, MATTERS, Advice, Experiment, Gain, size
from mlxrag.experiment.evidence import Case, Contest, Evidence

STEADY = 0.01  # relative fall of the validation loss in its last quarter from which a training was still learning
TURNED = 0.6  # share of the batches before which the lowest validation loss came early
CLOSE = 0.95  # share of equal first choices from which a quantization counts as close to the original
SPARED = 0.05  # share of the memory from which a saving counts

Find = Callable[[Evidence], Iterator[Advice]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table.

    Attributes:
        name: of the rule; its advice carries it.
        looks: at what.
        says: when it speaks, and what it says.
        source: where that comes from.
        find: evidence -> advice.
    """

    name: str
    looks: str
    says: str
    source: str
    find: Find


def winners(evidence: Evidence) -> Iterator[Advice]:
    """A comparison found one system better."""
    for c in _newest(evidence.contests):
        if c.row["decided"] in ("better", "worse"):
            good, other = (c.row["b"], c.row["a"]) if c.row["decided"] == "better" else (c.row["a"], c.row["b"])
            gain, low, high = _seen_from(good, c.row)
            yield Advice(
                "better", c.ref, good, f"use {good} instead of {other}",
                f"{100 * gain:.1f} points better on {c.row['measure']}, p = {c.row['corrected']:.2g}, n = {c.row['n']}{_costs(c, good, other)}",
                Gain(gain, low, high, f"{100 * gain:+.1f} points{_between(low, high)}"),
            )  # fmt: skip


def same_for_less(evidence: Evidence) -> Iterator[Advice]:
    """Two systems are not told apart, and one takes less."""
    for c in _newest(evidence.contests):
        row, error = c.row, c.row["standard_error"]
        saved = _cheaper(c) if row["decided"] in ("alike", "not worse", "not distinguishable") else None
        if saved is None:
            continue
        less, more, words = saved
        gain, low, high = _seen_from(less, row)
        shown = row["decided"] == "alike" or (row["decided"] == "not worse" and less == row["b"])
        margin = c.settings["margin"]
        doubt = "" if shown else f"; that it loses less than {100 * margin:g} points is not shown"
        yield Advice(
            "same for less", c.ref, less, f"{less} is {row['decided'] if shown else 'not distinguishable'} from {more}: {words}",
            f"{100 * gain:+.1f} points on {row['measure']}{_between(low, high)}, n = {row['n']}{doubt}", Gain(gain, low, high, words),
            None if shown or not error else Experiment(
                ((c.ref, more), (c.ref, less)), gain, error, _spread(c), {}, goal="noninferiority", questions=_needed(c, margin),
            ),
        )  # fmt: skip


def undecided(evidence: Evidence) -> Iterator[Advice]:
    """A comparison could not tell two systems apart, with too few questions for the effect that was asked for."""
    for c in _newest(evidence.contests):
        row, error, wanted = c.row, c.row["standard_error"], c.settings["effect"]
        if row["decided"] != "not distinguishable" or not error or row["detectable"] <= wanted:
            continue
        count = _needed(c, wanted)
        yield Advice(
            "undecided", c.ref, row["b"], f"ask {row['b']} and {row['a']} more questions: about {count:,} in all",
            f"{100 * row['difference']:+.1f} points{_between(row['low'], row['high'])}, with {row['n']} questions of {row['documents']} documents; so "
            f"many show {100 * row['detectable']:.0f} points, and {100 * wanted:g} were asked for",
            Gain(row["difference"], row["low"], row["high"], f"{100 * row['difference']:+.1f} points, if it is real"),
            Experiment(((c.ref, row["a"]), (c.ref, row["b"])), row["difference"], error, _spread(c), {}, questions=count),
        )  # fmt: skip


def still_learning(evidence: Evidence) -> Iterator[Advice]:
    """The validation loss of an adapter was still falling when training ended."""
    for t in evidence.trainings:
        end, last = t.losses[-1]
        before = [loss for i, loss in t.losses if i <= 0.75 * end][-1:]
        if before and last == min(loss for _, loss in t.losses) and last < before[0] * (1 - STEADY):
            fall = before[0] - last
            yield Advice(
                "still learning", t.ref, "", f"train {t.ref} longer: about --iters {2 * end}",
                f"its validation loss fell by {100 * fall / before[0]:.1f} % in the last quarter of {end} batches, to {last:.3f}",
                Gain(None, None, None, f"{fall:.3f} nats of validation loss, if the next quarter is as the last"),
            )  # fmt: skip


def learnt_by_heart(evidence: Evidence) -> Iterator[Advice]:
    """The validation loss of an adapter turned long before training ended."""
    for t in evidence.trainings:
        end, last = t.losses[-1]
        at, best = min(t.losses, key=lambda x: x[1])
        if at < TURNED * end and last > best * (1 + STEADY):
            rate = f" and less than --learning-rate {t.rate:g}" if at == 0 and t.rate else ""
            yield Advice(
                "learnt by heart", t.ref, "", f"give {t.ref} more questions to learn from, or --iters {max(1, round(1.2 * at))}{rate}",
                f"its validation loss was lowest, {best:.3f}, after {at} of {end} batches, and is {last:.3f} at the end",
                Gain(None, None, None, f"{100 - 100 * at / end:.0f} % of its training time; the kept weights are those of batch {at} anyway"),
            )  # fmt: skip


def smaller(evidence: Evidence) -> Iterator[Advice]:
    """A sweep has a quantization that chooses as the original does."""
    for ref, report in evidence.sweeps:
        measured = {r["recipe"]: r for r in report["rows"] if r.get("quality")}
        whole = measured.pop("original", None)
        close = [
            r for r in measured.values() if r["quality"]["top1"] - 1.96 * r["quality"]["top1_error"] >= CLOSE
        ]  # fmt: skip
        if whole is not None and close:
            row = min(close, key=lambda r: r["nbytes"])
            q, saved = row["quality"], whole["nbytes"] - row["nbytes"]
            yield Advice(
                "smaller", ref, "", f"quantize to {row['recipe']}, and let ab plan --goal noninferiority show that answers are no worse",
                f"its first choice is the original's in {100 * q['top1']:.1f} % of the tokens (± {196 * q['top1_error']:.1f}); KL {q['kl_mean']:.2g} nats",
                Gain(None, None, None, f"{size(saved)} less of {size(whole['nbytes'])}"),
            )  # fmt: skip


def _each(rule: Callable[[Case], Iterator[Advice]]) -> Find:
    return lambda evidence: (advice for case in evidence.cases for advice in rule(case))


RULES: tuple[Rule, ...] = (
    Rule(
        "better", "comparisons", "one system is better, corrected p at most alpha: use it",
        "the comparison itself: sign-flip permutation, Holm", winners,
    ),
    Rule(
        "same for less", "comparisons", f"not told apart, and one takes {100 * SPARED:g} % less memory, or less time: use that one",
        "Schuirmann 1987, two one-sided tests; Lakens 2017, Equivalence Tests", same_for_less,
    ),
    Rule(
        "retrieval misses", "evaluations",
        f"wrong without the gold passage in the prompt, from {100 * MATTERS:g} % of the questions on: hybrid, more passages, a reranker",
        "Barnett et al. 2024, Seven Failure Points (2 and 3), arXiv 2401.05856", _each(failures.retrieval_misses),
    ),
    Rule(
        "reading fails", "evaluations", "wrong with the gold passage in the prompt: train an adapter, or take a larger model",
        "Barnett et al. 2024 (point 4); Zhang et al. 2024, RAFT, arXiv 2403.10131", _each(failures.reading_fails),
    ),
    Rule(
        "refuses too much", "evaluations", "refused with the gold passage in the prompt: train with fewer unanswerable questions",
        "Rajpurkar, Jia & Liang 2018, SQuAD 2.0, arXiv 1806.03822", _each(failures.refuses_too_much),
    ),
    Rule(
        "answers anyway", "evaluations", "answered what the documents do not hold: train with more such questions",
        "Rajpurkar, Jia & Liang 2018, SQuAD 2.0, arXiv 1806.03822", _each(failures.answers_anyway),
    ),
    Rule(
        "order matters", "evaluations", "right more often with the gold passage first: fewer passages, or a reranker",
        "Liu et al. 2023, Lost in the Middle, arXiv 2307.03172", _each(failures.order_matters),
    ),
    Rule(
        "questions fail", "evaluations", "questions without an answer: mend the commonest reason",
        "the reasons recorded with the answers", _each(failures.questions_fail),
    ),
    Rule(
        "few documents", "evaluations", f"questions of fewer than {failures.FEW_DOCUMENTS} documents: ask about more",
        "Cameron, Gelbach & Miller 2008, Bootstrap-Based Improvements for Inference with Clustered Errors",
        _each(failures.few_documents),
    ),
    Rule(
        "undecided", "comparisons", "not told apart, with too few questions for the effect that was asked for: ask more",
        "Miller 2024, Adding Error Bars to Evals, equation 9, arXiv 2411.00640", undecided,
    ),
    Rule(
        "still learning", "adapters", f"validation loss lowest at the end, and down {100 * STEADY:g} % in the last quarter: train longer",
        "Prechelt 1998, Early Stopping - But When?", still_learning,
    ),
    Rule(
        "learnt by heart", "adapters", f"validation loss lowest before {100 * TURNED:g} % of the batches: more questions, or fewer batches",
        "Prechelt 1998, Early Stopping - But When?", learnt_by_heart,
    ),
    Rule(
        "smaller", "sweeps", f"first choice as the original's for {100 * CLOSE:g} % of the tokens: quantize, and compare",
        "Dutta et al. 2024, Accuracy is Not All You Need, arXiv 2407.09141", smaller,
    ),
)  # fmt: skip


def _newest(contests: Sequence[Contest]) -> list[Contest]:
    """Return the newest comparison of each pair of systems on the same questions, where there were enough of those."""
    found = {(*sorted(c.fingerprints), c.questions): c for c in contests}
    return [c for c in found.values() if c.row["n"] >= FEWEST]


def _spread(c: Contest) -> float:
    """Return the standard deviation of a question's difference, as if questions were independent."""
    return float(c.row["standard_error"]) * float(c.row["n"]) ** 0.5


def _needed(c: Contest, effect: float) -> int:
    """Return about how many questions show `effect` with the wanted chance, by the normal law."""
    normal = NormalDist()
    z = normal.inv_cdf(1 - c.settings["alpha"] / 2) + normal.inv_cdf(c.settings["power"])
    return max(int(c.row["n"]) + 1, round((z * _spread(c) / effect) ** 2))


def _seen_from(system: str, row: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    """Return the difference and its bounds in favour of one of the pair."""
    difference, low, high = float(row["difference"]), row["low"], row["high"]
    if system == row["b"]:
        return difference, low, high
    return -difference, None if high is None else -high, None if low is None else -low


def _cheaper(c: Contest) -> tuple[str, str, str] | None:
    """Return which of a pair takes less and nothing more, the other, and what is saved."""
    a, b = c.row["a"], c.row["b"]
    if a not in c.costs or b not in c.costs:
        return None
    saved = {b: c.costs[a]["peak"] - c.costs[b]["peak"], a: c.costs[b]["peak"] - c.costs[a]["peak"]}
    low, ratio, high = (None, None, None) if c.times is None else (c.times["low"], c.times["ratio"], c.times["high"])
    quick = {b: high is not None and high < 1, a: low is not None and low > 1}
    for less, more in ((b, a), (a, b)):
        some = SPARED * c.costs[more]["peak"]
        if (saved[less] > some and not quick[more]) or (quick[less] and saved[less] > -some):
            words = [f"save {size(saved[less])}"] if saved[less] > some else []
            if quick[less] and ratio:
                words.append(f"{100 * (1 - (ratio if less == b else 1 / ratio)):.0f} % less time")
            return less, more, " and ".join(words)
    return None


def _costs(c: Contest, good: str, other: str) -> str:
    if good not in c.costs or other not in c.costs:
        return ""
    one, two = c.costs[good], c.costs[other]
    return f"; it takes {one['seconds'] / two['seconds']:.2g} times as long and {size(one['peak'])} instead of {size(two['peak'])}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f", {100 * low:.1f} to {100 * high:.1f}"
