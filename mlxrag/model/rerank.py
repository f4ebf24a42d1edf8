"""Question and passage together to one score: cross-encoders of the BERT family.

Slower than comparing vectors by the length of the list, and better: each passage is read beside
the question.  Used on the first few dozen hits only.

Source: Nogueira and Cho 2019 (arXiv:1901.04085).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from mlxrag.errors import BadInput
from mlxrag.model.bert import FAMILY, Bert
from mlxrag.model.checkpoint import Checkpoint, read_checkpoint
from mlxrag.model.encode import MASKED, admitted, build_bert, bytes_to_load
from mlxrag.model.encoder_files import find_encoder, longest_input, read_tokenizer
from mlxrag.model.on_demand import OnDemand
from mlxrag.model.tensors import read_in
from mlxrag.rag.document import mended
from mlxrag.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Reranker:
    """A loaded cross-encoder with one output.

    Attributes:
        name: what the user called it.
        tokenizer: makes pairs, without truncation and padding.
        network: loaded on demand.
        max_input: most tokens of a pair, special tokens counted.
        config: its config.json.
    """

    name: str
    tokenizer: Tokenizer
    network: OnDemand[Bert]
    max_input: int
    config: Mapping[str, Any]


def load_reranker(ref: str, workspace: Workspace) -> Reranker:
    """Load a cross-encoder: a directory, a model of the workspace, or a hub id.

    Raises:
        NotFound: no such model here, nor on the hub.
        BadInput: a broken checkpoint, of another family, or with other than one output.
    """
    path = find_encoder(ref, workspace)
    checkpoint = read_checkpoint(path)
    if checkpoint.config["model_type"] not in FAMILY:
        raise BadInput(
            f"{path}: a cross-encoder of type {checkpoint.config['model_type']!r} is not one of {', '.join(FAMILY)}"
        )
    heads = ("classifier.weight", "classifier.out_proj.weight")
    if not any(checkpoint.tensors[name].shape[0] == 1 for name in heads if name in checkpoint.tensors):
        raise BadInput(f"{path}: has no scoring head with one output, so it is no cross-encoder")
    network = OnDemand(
        f"cross-encoder {ref}",
        bytes_to_load(checkpoint),
        lambda: _read(checkpoint),
        lambda built: sum(value.nbytes for value in built.weights.values()),
    )
    network.get()  # a faulty checkpoint is refused now
    return Reranker(ref, read_tokenizer(path), network, longest_input(path, checkpoint.config), checkpoint.config)


def _read(checkpoint: Checkpoint) -> Bert:
    network = build_bert(checkpoint, labels=1)
    read_in(network.weights.values())
    return network


def score_pairs(reranker: Reranker, question: str, texts: Sequence[str], batch_tokens: int = 2048) -> np.ndarray:
    """Return how well each text answers the question: logits, higher is better.

    Args:
        reranker: the cross-encoder.
        question: cut to half of the input where it is longer.
        texts: cut at their ends to what then fits.
        batch_tokens: tokens of a batch, padding included.

    Returns:
        `(len(texts),)` float32, in the order of `texts`.

    Raises:
        WontFit: there is no room for a pair, also after some seconds.
    """
    pairs = [pair_ids(reranker, question, text) for text in texts]
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]))
    scores = np.empty(len(texts), np.float32)
    start = 0
    while start < len(order):
        width = len(pairs[order[start]][0])
        with admitted(reranker.network, reranker.config, width, max(1, batch_tokens // width)) as count:
            rows = order[start : start + count]
            ids, types = np.zeros((2, len(rows), width), np.int32)
            mask = np.full((len(rows), 1, 1, width), MASKED, np.float32)
            for i, row in enumerate(rows):
                n = len(pairs[row][0])
                ids[i, :n], types[i, :n] = pairs[row]
                mask[i, :, :, :n] = 0.0
            network = reranker.network.get()
            scores[rows] = np.array(score_ids(network, mx.array(ids), mx.array(mask), mx.array(types)))
        start += len(rows)
    return scores


def score_ids(network: Bert, ids: mx.array, mask: mx.array | None, types: mx.array) -> mx.array:
    """Return the first logit `(b,)` float32 of token ids `(b, t)` with segments `(b, t)`."""
    return network.scores(network(ids, mask, types))[:, 0].astype(mx.float32)


def pair_ids(reranker: Reranker, question: str, text: str) -> tuple[list[int], list[int]]:
    """Return token ids and segments of a pair, cut to what the network can read."""
    tokenizer = reranker.tokenizer
    first = tokenizer.encode(mended(question), add_special_tokens=False)
    second = tokenizer.encode(mended(text), add_special_tokens=False)
    room = reranker.max_input - tokenizer.num_special_tokens_to_add(is_pair=True)
    first.truncate(min(len(first.ids), room // 2))
    second.truncate(min(len(second.ids), room - len(first.ids)))
    both = tokenizer.post_process(first, second)
    # RoBERTa has one segment; its tokenizer may still number two.
    types = both.type_ids if reranker.network.get().shape.types > 1 else [0] * len(both.ids)
    return both.ids, types
