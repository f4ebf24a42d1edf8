"""Makers by a local model: a passage -> question, answer and quoted evidence, of several kinds.

The model is asked for three lines; what does not have them, or quotes what is not there, is no candidate.  A weak
model makes few, none makes faulty ones pass: the gates are the same as for rules.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence

from mlxrag.data.candidate import Candidate, Maker, literal
from mlxrag.data.corpus import Corpus
from mlxrag.data.make_unanswerable import swapped
from mlxrag.model.batch import complete_batch
from mlxrag.model.generate import Request
from mlxrag.model.load import Model
from mlxrag.rag.document import Passage
from mlxrag.settings import Caching, Sampling

KINDS: dict[str, str] = {
    "fact": "asks for a fact that the text states, such as a name, a place or a thing",
    "number": "asks for a number, an amount, a date or a duration that the text states",
    "definition": "asks what something in the text is or means",
    "why": "asks why something is so, or how something is done, as the text explains it",
}
LAYOUT = """{passages}

Write one question that {kind}. It must be understood without seeing the text: name things, do not write "it" or "the text". \
The answer must be short and stand word for word in the text. Reply with exactly three lines:
Question: ...
Answer: ...
Evidence: (the sentence of the text that holds the answer, word for word)"""
COMPARE = "needs both texts, and compares what they say about two different things"
LENGTH = 160


def by_model(model: Model, kinds: Sequence[str] = tuple(KINDS), seed: int = 0) -> Iterator[tuple[str, Maker]]:
    """Yield (name, maker) for each kind, bound to a model."""
    for kind in kinds:
        yield f"model:{kind}", _maker(model, kind, seed)
    yield "model:comparison", _comparer(model, seed)
    yield "model:unanswerable", _swapper(model, seed + 1)


def _maker(model: Model, kind: str, seed: int) -> Maker:
    def maker(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
        prompts = [_prompt(model, f"Text:\n{p.text}", KINDS[kind]) for p in passages]
        for passage, text in zip(passages, _complete(model, prompts, seed), strict=True):
            made = parse(text, (passage,), f"model:{kind}", (kind,))
            if made is not None:
                yield made

    maker.__doc__ = f"Ask the model for a question that {KINDS[kind]}."
    return maker


def _comparer(model: Model, seed: int) -> Maker:
    def maker(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
        """Ask the model for a question across two passages of one document."""
        pairs = [(a, b) for a, b in itertools.pairwise(passages) if a.document_id == b.document_id]
        prompts = [_prompt(model, f"Text 1:\n{a.text}\n\nText 2:\n{b.text}", COMPARE) for a, b in pairs]
        for pair, text in zip(pairs, _complete(model, prompts, seed), strict=True):
            made = parse(text, pair, "model:comparison", ("comparison",))
            if made is not None:
                yield made

    return maker


def _swapper(model: Model, seed: int) -> Maker:
    ask = _maker(model, "fact", seed)

    def maker(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
        """Ask the model for a fact, and swap the name, year or place in its question for one that nothing answers."""
        for candidate in ask(passages, corpus):
            twin = swapped(candidate, corpus, "model:unanswerable")
            if twin is not None:
                yield twin

    return maker


def parse(text: str, passages: tuple[Passage, ...], maker: str, tags: tuple[str, ...]) -> Candidate | None:
    """Return the candidate in what a model wrote: three labelled lines, or one JSON object; None if there is none.

    Example:
        >>> parse("Question: Who?\\nAnswer: Ann\\nEvidence: Ann did.", (), "model:fact", ()).answers
        ('Ann',)
    """
    found: dict[str, str] = {}
    braces = re.search(r"\{.*\}", text, re.DOTALL)
    if braces:
        try:
            value = json.loads(braces[0])
            found = {str(k).lower(): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
        except ValueError:
            found = {}
    for match in re.finditer(r"^[\W\d]*(question|answer|evidence)\W*:\s*(.+)$", text, re.IGNORECASE | re.MULTILINE):
        found.setdefault(match[1].lower(), match[2].strip(' "*“”'))
    if not all(found.get(name) for name in ("question", "answer", "evidence")):
        return None
    quote = next(
        (literal(found["evidence"], p) for p in passages if literal(found["evidence"], p) in p.text), found["evidence"]
    )
    return Candidate(found["question"], (found["answer"].rstrip("."),), passages, (quote,), maker, tags)


def _prompt(model: Model, passages: str, kind: str) -> list[int]:
    return model.tokenizer.prompt([{"role": "user", "content": LAYOUT.format(passages=passages, kind=kind)}])


def _complete(model: Model, prompts: Sequence[list[int]], seed: int) -> list[str]:
    """Complete prompts together; one that does not fit the context gives an empty text."""
    room = model.context - LENGTH
    requests = [Request(str(i), tuple(ids), LENGTH, seed=seed + i) for i, ids in enumerate(prompts) if len(ids) <= room]
    texts = [""] * len(prompts)
    for completion in complete_batch(
        model, requests, Sampling(max_tokens=LENGTH, temp=0.7, top_p=0.9), caching=Caching()
    ):
        texts[int(completion.id)] = completion.text
    return texts
