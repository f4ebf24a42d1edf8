"""System: an index, a model and settings that answer questions; built from one config file.

    question -> retrieve -> hits -> messages -> fit into the context -> generate -> check citations

Two systems with equal fingerprints behave alike; two config files are an A/B test.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

from mlxrag import __version__
from mlxrag.errors import BadInput, Mismatch, MlxragError
from mlxrag.machine import parse_size
from mlxrag.memory import ledger
from mlxrag.model.batch import complete_batch
from mlxrag.model.cache import KVStore, open_store
from mlxrag.model.cache_key import store_key
from mlxrag.model.choose import default_model
from mlxrag.model.encode import Encoder, load_encoder
from mlxrag.model.generate import Completion, Piece, Request, gather, stream
from mlxrag.model.load import READER, Model
from mlxrag.model.lookup import Lookup
from mlxrag.model.pace import USUAL_ROWS
from mlxrag.model.rerank import Reranker, load_reranker
from mlxrag.model.row_cost import known_cost
from mlxrag.rag.answer import REFUSAL, Answer, Turn, make_answer
from mlxrag.rag.asked import note
from mlxrag.rag.document import Hit
from mlxrag.rag.fit import Fitted, fit
from mlxrag.rag.focus import focus
from mlxrag.rag.follow_up import standalone
from mlxrag.rag.index import Index, open_index, wrong_encoder
from mlxrag.rag.relief import idle, load_what_fits, persist, persist_many, told
from mlxrag.rag.retrieve import retrieve, retrieve_many
from mlxrag.rag.rungs import Relief, caching_of, watch
from mlxrag.settings import HOME, Settings, Table
from mlxrag.workspace import Workspace

WINDOW = 64  # questions whose passages are looked up, and whose answers are put in order, together


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, with the passages it is to be answered from where they are known, and what was said before."""

    question: str
    hits: tuple[Hit, ...] | None = None
    history: tuple[Turn, ...] = ()


@dataclass(eq=False)
class System:
    """What answers; use it in a `with` block or close it.

    Attributes:
        settings: as given, with the model's own advice where nothing was given.
        index: where passages are; None for a system that is always handed its passages.
        encoder: what turned them into vectors; None for a lexical retriever.
        reranker: a cross-encoder that reads the first hits again, if the settings name one.
        model: what answers.
        store: keys and values of earlier prompts.
        lookup: drafts from the passages; None when it is off.
        relief: what it has given up because memory was short.
    """

    settings: Settings
    index: Index | None
    encoder: Encoder | None
    reranker: Reranker | None
    model: Model
    store: KVStore
    lookup: Lookup | None
    relief: Relief

    def __enter__(self) -> System:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(keep=kind is None)

    def close(self, keep: bool = True) -> None:
        """Give back model, encoders, index and caches.

        Args:
            keep: write keys and values to disk first, where the settings leave room for them there.

        Raises:
            MlxragError: they could not be written; everything is given back all the same.
        """
        try:
            if keep:
                self.store.save_all()
        except (OSError, RuntimeError) as error:  # MLX's writer has no error of its own
            raise MlxragError(
                f"{self.store.folder}: keys and values of the prompts could not be kept: {error}; "
                "free some space, or leave --cache-disk out"
            ) from error
        finally:
            self._release()

    def _release(self) -> None:
        self.relief.unbind()
        self.store.close()
        self.model.close()
        if self.encoder is not None:
            self.encoder.hidden.unload()
        if self.reranker is not None:
            self.reranker.network.unload()
        if self.index is not None:
            self.index.close()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over everything that changes behaviour: settings, weights, adapter, index and program."""
        tables = {
            name: table.model_dump()
            for name, table in self.settings
            if name in ("retrieval", "sampling", "answering", "encoding")
        }
        parts = {
            "tables": tables,
            "model": store_key(self.model, self.settings.caching),
            "index": self.index.fingerprint if self.index is not None else "",
            "encoder": self.encoder.fingerprint if self.encoder is not None else "",
            "mlxrag": __version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def model_name(self) -> str:
        """The model's name, with version and adapter where it has them."""
        version = f"@{self.model.version}" if self.model.version else ""
        adapter = f"+{self.model.adapter}" if self.model.adapter else ""
        return f"{self.model.name}{version}{adapter}"


def open_system(
    settings: Settings, workspace: Workspace, given: Collection[str] = (), *, index: bool = True, degrade: bool = False
) -> System:  # fmt: skip
    """Open what the settings name.

    Args:
        settings: one config's worth.
        workspace: where index, models and adapters are.
        given: keys that the user set; the model's advice does not override them.
        index: False for a system that is always handed its passages.
        degrade: where memory is short, take steps that change answers too; for a person who asks, never to measure.

    Raises:
        NotFound: no such index, model or adapter.
        Mismatch: the index was made by another encoder, or the adapter for another model.
    """
    opened = encoder = reranker = None
    if index:
        opened = open_index(workspace, settings.retrieval.index, retrieval=settings.retrieval)
    try:
        if opened is not None and settings.retrieval.retriever != "lexical":
            # Unless told otherwise, a question is encoded by what the index was made with.
            encoding = settings.encoding if "encoder" in given else opened.encoding
            encoder = load_encoder(encoding.encoder, workspace, encoding)
            if encoder.fingerprint != opened.fingerprint:
                raise Mismatch(wrong_encoder(opened, encoder))
        if opened is not None and settings.retrieval.reranker:
            reranker = load_reranker(settings.retrieval.reranker, workspace)
        if settings.memory.memory_budget:
            ledger().set_size(parse_size(settings.memory.memory_budget))
        ref = settings.model.model or default_model(lambda: ledger().target, READER)
        model, moves = load_what_fits(ref, workspace, settings.model, encoder, degrade=degrade)
    except MlxragError:
        if opened is not None:
            opened.close()
        raise
    settings = advised(settings, model, given)
    drafts = Lookup(known_cost(model, workspace.root / "cache")) if settings.caching.lookup else None
    store = open_store(settings.caching, workspace.root / "cache" / "kv")
    system = System(settings, opened, encoder, reranker, model, store, drafts, Relief(workspace))
    system.relief = watch(system, workspace)
    system.relief.ladder.exact_only = not degrade
    system.relief.ladder.moves += moves
    return system


def advised(settings: Settings, model: Model, given: Collection[str] = ()) -> Settings:
    """Return the settings with what the model's makers advise, where the user said nothing.

    mlxrag.json beside the model's config.json may hold any setting's key; `num_passages` is the usual one.
    """
    changed: dict[str, Table] = {}
    for key, value in model.advice.items():
        if key in HOME and key not in given and HOME[key] in ("retrieval", "sampling", "answering", "caching"):
            table = changed.get(HOME[key]) or getattr(settings, HOME[key])
            changed[HOME[key]] = type(table).model_validate({**table.model_dump(), key: value})
    return settings.model_copy(update=changed) if changed else settings


def ask(system: System, question: str, history: Sequence[Turn] = ()) -> Answer:
    """Answer one question.

    Raises:
        BadInput: the question alone does not fit into the model's context.
    """
    answer: Answer | None = None
    for part in stream_answer(system, question, history):
        answer = part if isinstance(part, Answer) else None
    assert answer is not None
    return answer


def stream_answer(system: System, question: str, history: Sequence[Turn] = ()) -> Iterator[str | Answer]:
    """Answer one question, yielding text as it comes and the whole Answer at the end.

    A follow-up is searched for by a question that stands alone; the model gets the conversation and the
    question as it was asked.

    Args:
        system: what answers.
        question: the question.
        history: earlier turns, `Answer.turn` each, oldest first.

    Raises:
        BadInput: the question alone does not fit into the model's context.
        WontFit: there is no room for it, and nothing left to give up; says what would fit.
    """
    yield from persist(system, lambda: _stream_answer(system, question, history))


def _stream_answer(system: System, question: str, history: Sequence[Turn]) -> Iterator[str | Answer]:
    started = time.perf_counter()
    assert system.index is not None
    system.relief.busy = True
    searched = standalone(question, history, system.model) if history else question
    with idle(system):
        found = retrieve(system.index, system.encoder, searched, system.settings.retrieval, system.reranker)
        hits = focused(system, searched, found)
    retrieval = time.perf_counter() - started
    facts = {"searched": searched if searched != question else "", "model": system.model_name}
    if not hits:
        yield REFUSAL
        yield make_answer(question, REFUSAL, (), usage={"retrieval_seconds": round(retrieval, 4)}, **facts)
        return
    fitted = fit(system, question, hits, history)
    if hits is found and not history and system.store.folder is not None:
        note(system.store.folder.parent, system.index.name, fitted.hits)
    system.relief.asked = (len(fitted.ids) + system.settings.sampling.max_tokens, 1)
    pieces: list[Piece] = []
    generation = stream(
        system.model,
        fitted.ids,
        system.settings.sampling,
        caching=caching_of(system),
        store=system.store,
        segments=fitted.segments,
        drafter=system.lookup,
    )
    for piece in generation:
        pieces.append(piece)
        if piece.text:
            yield piece.text
    completion = gather(system.model, "", pieces)
    first = pieces[0].prompt_seconds
    usage = usage_of(system, completion, fitted) | {
        "retrieval_seconds": round(retrieval, 4),
        "first_token_seconds": round(retrieval + first, 4),
        "seconds": round(time.perf_counter() - started, 4),
        "drafted_tokens": sum(piece.drafted for piece in pieces),
    }
    yield finish(question, completion, fitted, usage, facts)


def ask_many(system: System, questions: Iterable[str | Asked]) -> Iterator[Answer]:
    """Answer many questions in batches, in their order.

    A question that cannot be answered (too long, a fault of the retriever) is an Answer with its `failure`.

    Args:
        system: what answers.
        questions: texts, or `Asked` with passages or history.
    """
    window: list[Asked] = []
    for question in questions:
        window.append(Asked(question) if isinstance(question, str) else question)
        if len(window) == WINDOW:
            yield from persist_many(system, window, lambda left: _ask_window(system, left))
            window = []
    yield from persist_many(system, window, lambda left: _ask_window(system, left))


def _ask_window(system: System, window: Sequence[Asked]) -> Iterator[Answer]:
    started = time.perf_counter()
    hits = _hits(system, window)
    found: dict[int, Answer] = {}
    fitted: dict[int, Fitted] = {}
    for i, asked in enumerate(window):
        if not hits[i]:
            found[i] = make_answer(asked.question, REFUSAL, (), model=system.model_name)
            continue
        try:
            fitted[i] = fit(system, asked.question, hits[i], asked.history)
        except MlxragError as error:
            found[i] = Answer(asked.question, "", tuple(hits[i]), model=system.model_name, failure=str(error))
    sampling = system.settings.sampling
    requests = [Request(str(i), one.ids, sampling.max_tokens) for i, one in fitted.items()]
    longest = max((len(r.prompt) + r.max_tokens for r in requests), default=0)
    system.relief.asked = (longest, min(len(requests), caching_of(system).decode_concurrency or USUAL_ROWS))
    retrieval = round((time.perf_counter() - started) / max(len(window), 1), 4)
    position = 0
    caching = caching_of(system)
    for completion in complete_batch(system.model, requests, sampling, caching=caching, store=system.store):
        i = int(completion.id)
        usage = usage_of(system, completion, fitted[i]) | {"retrieval_seconds": retrieval}
        found[i] = finish(window[i].question, completion, fitted[i], usage, {"model": system.model_name})
        while position in found:
            yield found.pop(position)
            position += 1
    while position in found:
        yield found.pop(position)
        position += 1


def _hits(system: System, window: Sequence[Asked]) -> list[Sequence[Hit]]:
    """Look up the passages of the questions that did not bring theirs."""
    hits: list[Sequence[Hit]] = [asked.hits or () for asked in window]
    open_ones = [i for i, asked in enumerate(window) if asked.hits is None]
    if open_ones:
        if system.index is None:
            raise BadInput("this system has no index; hand it the passages of every question")
        system.relief.busy = True
        texts = [
            standalone(window[i].question, window[i].history, system.model) if window[i].history else window[i].question
            for i in open_ones
        ]
    with idle(system):
        if open_ones:
            assert system.index is not None
            found = retrieve_many(system.index, system.encoder, texts, system.settings.retrieval, system.reranker)
            for i, one in zip(open_ones, found, strict=True):
                hits[i] = one
        return [focused(system, asked.question, found) for asked, found in zip(window, hits, strict=True)]


def focused(system: System, question: str, hits: Sequence[Hit]) -> Sequence[Hit]:
    """Return what the model is shown of the hits: all, or the few sentences that the settings ask for."""
    count = system.settings.retrieval.num_sentences
    return focus(hits, question, system.encoder, count) if count else hits


def usage_of(system: System, completion: Completion, fitted: Fitted) -> dict[str, Any]:
    """Return what an answer cost, for `Answer.usage`."""
    saved = system.store.usage
    return {
        "prompt_tokens": completion.prompt_tokens,
        "reused_tokens": completion.reused_tokens,
        "answer_tokens": len(completion.tokens),
        "seconds": round(completion.seconds, 4),
        "finish_reason": completion.finish_reason,
        "cache": {
            "hit_rate": None if saved.hit_rate is None else round(saved.hit_rate, 4),
            "seconds_saved": round(saved.seconds_saved, 4),
            "bytes": system.store.nbytes,
        },
        **told(system),
    }


def finish(
    question: str, completion: Completion, fitted: Fitted, usage: dict[str, Any], facts: dict[str, Any]
) -> Answer:
    """Return the answer that a completion is."""
    scores = completion.logprobs
    return make_answer(
        question,
        completion.text,
        fitted.hits,
        dropped_passages=fitted.dropped_passages,
        dropped_turns=fitted.dropped_turns,
        prompt=fitted.text,
        usage=usage,
        logprob=sum(scores) / len(scores) if scores else None,
        **facts,
    )
