"""Systems of a comparison in memory: those that share a base answer as rows of one batch.

Strategy: systems whose model, sampling and caches are the same differ at most in adapter, prompt, index and retriever,
and all of that is decided before the batch: their requests run together, each row with its own adapter.  Knows nothing
of scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mlxrag.data.example import Example
from mlxrag.errors import MlxragError
from mlxrag.experiment.plan import Variant
from mlxrag.model.adapter import find_adapter, read_adapter
from mlxrag.model.attach import resident
from mlxrag.model.batch import complete_batch
from mlxrag.model.cache import open_store
from mlxrag.model.encode import load_encoder
from mlxrag.model.generate import Request
from mlxrag.model.rerank import load_reranker
from mlxrag.rag.answer import REFUSAL, Answer, make_answer
from mlxrag.rag.document import Hit
from mlxrag.rag.fit import Fitted, fit
from mlxrag.rag.follow_up import standalone
from mlxrag.rag.index import open_index
from mlxrag.rag.retrieve import retrieve_many
from mlxrag.rag.system import System, advised, finish, focused, open_system, usage_of
from mlxrag.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Arm:
    """A system that is open.

    Attributes:
        name: of the variant.
        system: what answers; systems of one group share its model.
        adapter: name of the resident adapter that its requests use, or None.
        fingerprint: of the system with its adapter on.
        model: name of the model, with version and adapter where it has them.
    """

    name: str
    system: System
    adapter: str | None
    fingerprint: str
    model: str


Group = Mapping[str, Arm]


def share(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Group the systems that can run as rows of one batch, in the order they come."""
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        tables = variant.settings
        base = tables.model.model_copy(update={"adapter_path": ""})
        key = repr((base, tables.sampling, tables.caching))
        found.setdefault(key, []).append(variant)
    return list(found.values())


@contextmanager
def open_group(variants: Sequence[Variant], workspace: Workspace) -> Iterator[Group]:
    """Open systems that share a base: one model, an index and an encoder for each that differs in them.

    Raises:
        NotFound: no such index, model or adapter; Mismatch: an adapter of another base, an index of another encoder.
    """
    first = variants[0]
    bare = first.settings.model_copy(update={"model": first.settings.model.model_copy(update={"adapter_path": ""})})
    with ExitStack() as stack:
        system = stack.enter_context(open_system(bare, workspace, first.given))
        placed = resident(system.model.network, system.model.name)
        arms: dict[str, Arm] = {}
        for variant in variants:
            adapter = None
            if ref := variant.settings.model.adapter_path:
                path = find_adapter(ref, workspace)
                same = next((n for n in placed.names if placed[n].path == path), None)
                taken = read_adapter(path).name in placed.names
                adapter = same or placed.add(read_adapter(path, f"{variant.name}.{path.name}" if taken else ""))
            own = system if variant is first else _beside(system, variant, workspace, stack)
            with using(own, adapter):
                arms[variant.name] = Arm(variant.name, own, adapter, own.fingerprint, own.model_name)
        yield arms


@contextmanager
def using(system: System, adapter: str | None) -> Iterator[None]:
    """Put an adapter on the model of a system for a while."""
    placed = resident(system.model.network, system.model.name)
    before = placed.active
    placed.use(adapter)
    try:
        yield
    finally:
        placed.use(before)


def answer_block(group: Group, examples: Sequence[Example], seed: int = 0) -> dict[str, list[Answer]]:
    """Answer the same questions with every system of a group, in one batch.

    A question that fails is an Answer with its reason.  When a batch fails as a whole, each question of each system
    is asked by itself, so that one costs one row.

    Args:
        group: systems that share a model.
        examples: what to ask.
        seed: of sampled answers; the same for all systems, another for each question.

    Returns:
        name of the system -> answers, in the order of the examples.
    """
    try:
        return _answer_block(group, examples, seed)
    except Exception as error:  # one bad question of the batch; the rest are asked by themselves
        if len(examples) == 1 and len(group) == 1:
            reason = str(error) if isinstance(error, MlxragError) else f"{type(error).__name__}: {error}"
            return {name: [Answer(examples[0].question, "", failure=reason)] for name in group}
        return {
            name: [answer_block({name: arm}, [example], seed)[name][0] for example in examples]
            for name, arm in group.items()
        }


def _answer_block(group: Group, examples: Sequence[Example], seed: int) -> dict[str, list[Answer]]:
    found: dict[tuple[str, int], Answer] = {}
    fitted: dict[tuple[str, int], Fitted] = {}
    requests = []
    any_arm = next(iter(group.values()))
    sampling, caching = any_arm.system.settings.sampling, any_arm.system.settings.caching
    for name, arm in group.items():
        for i, (example, hits) in enumerate(zip(examples, _hits(arm.system, examples), strict=True)):
            if not hits:
                found[name, i] = make_answer(example.question, REFUSAL, (), model=arm.model)
                continue
            try:
                one = fitted[name, i] = fit(arm.system, example.question, hits, example.history)
            except MlxragError as error:
                found[name, i] = Answer(example.question, "", tuple(hits), model=arm.model, failure=str(error))
                continue
            draw = seed_of(seed, example.id) if sampling.temp > 0 else None
            requests.append(
                Request(f"{i} {name}", one.ids, sampling.max_tokens, arm.adapter, draw, stop=tuple(sampling.stop))
            )
    for completion in complete_batch(any_arm.system.model, requests, sampling, caching=caching):
        number, _, name = completion.id.partition(" ")
        key = (name, int(number))
        system = group[name].system
        facts: dict[str, Any] = {"model": group[name].model}
        question = examples[key[1]].question
        found[key] = finish(question, completion, fitted[key], usage_of(system, completion, fitted[key]), facts)
    return {name: [found[name, i] for i in range(len(examples))] for name in group}


def _hits(system: System, examples: Sequence[Example]) -> list[list[Hit]]:
    assert system.index is not None
    texts = [standalone(e.question, e.history, system.model) if e.history else e.question for e in examples]
    found = retrieve_many(system.index, system.encoder, texts, system.settings.retrieval, system.reranker)
    return [list(focused(system, text, hits)) for text, hits in zip(texts, found, strict=True)]


def seed_of(seed: int, example_id: str) -> int:
    """Return the seed of a question's random numbers: the same for every system that is asked it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {example_id}".encode()).digest()[:4])


def _beside(system: System, variant: Variant, workspace: Workspace, stack: ExitStack) -> System:
    """Open a system that shares the model of another, and its encoder where that is the same."""
    settings = advised(variant.settings, system.model, variant.given)
    retrieval = settings.retrieval
    index = open_index(workspace, retrieval.index, retrieval=retrieval)
    stack.callback(index.close)
    encoder = None
    if retrieval.retriever != "lexical":
        encoding = settings.encoding if "encoder" in variant.given else index.encoding
        same = system.encoder is not None and encoding == (system.index and system.index.encoding)
        encoder = system.encoder if same else load_encoder(encoding.encoder, workspace, encoding)
    reranker = None
    if retrieval.reranker:
        same = retrieval.reranker == system.settings.retrieval.reranker
        reranker = system.reranker if same else load_reranker(retrieval.reranker, workspace)
    return replace(
        system, settings=settings, index=index, encoder=encoder, reranker=reranker, store=open_store(settings.caching)
    )
