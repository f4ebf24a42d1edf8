"""Texts to unit vectors: encoders from Hugging Face checkpoints, run by MLX.

Two families: BERT-like encoders with mean or first-token pooling, and decoders such as
Qwen3-Embedding with last-token pooling.  How a checkpoint pools, cuts and prefixes its texts is
read from the files that sentence-transformers writes beside the weights.

Knows nothing of documents or indexes; does not import transformers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from mlxrag.errors import BadInput, WontFit
from mlxrag.memory import ledger
from mlxrag.model.bert import FAMILY, Bert, parameters, quantized, renamed, shape_of
from mlxrag.model.checkpoint import Checkpoint, check_parameters, read_checkpoint
from mlxrag.model.encoder_files import (
    Kind,
    Pooling,
    find_encoder,
    longest_input,
    read_pooling,
    read_prefixes,
    read_tokenizer,
    sha256_remembered,
    special_ids,
)
from mlxrag.model.on_demand import HELPS, OnDemand
from mlxrag.model.pace import pace
from mlxrag.model.sizes import encoder_bytes
from mlxrag.model.tensors import read_in
from mlxrag.rag.document import mended
from mlxrag.settings import Encoding
from mlxrag.workspace import Workspace

Hidden = Callable[[mx.array, mx.array | None], mx.array]

TOGETHER_CPU, TOGETHER_GPU = 1024, 4096
"""Tokens of a batch.  A CPU is a fifth slower with 4096: what a layer makes of them leaves the cache, and each array
of that size is fetched from the system anew, page by page; a GPU wants more work at a time.  A search for the best
begins there and ends at `MOST_TIMES` as many."""
MOST_TIMES = 16

MASKED = -1e9
"""Added to a score that must not count; float32 softmax turns it into an exact zero."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder.

    Attributes:
        name: what the user called it.
        fingerprint: hash of everything that decides the vectors of passages; an index belongs to one fingerprint.
        dimension: length of a vector.
        max_tokens: most tokens of a passage, special tokens and prefix not counted.
        max_input: most tokens of anything that is encoded; the rest is cut.
        tokenizer: without truncation and padding.
        path: directory it was read from.
        pooling: how token vectors become one.
        prefixes: put before each text, by kind.
        opening: special ids before a text.
        closing: special ids after a text.
        config: its config.json, for what a batch will take.
        hidden: gives, loaded on demand, `(ids, mask)` -> last hidden states `(b, t, width)`.
    """

    name: str
    fingerprint: str
    dimension: int
    max_tokens: int
    max_input: int
    tokenizer: Tokenizer
    path: Path
    pooling: Pooling
    prefixes: Mapping[Kind, str]
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    config: Mapping[str, Any]
    hidden: OnDemand[Hidden]


def load_encoder(ref: str, workspace: Workspace, settings: Encoding | None = None) -> Encoder:
    """Load an encoder.

    Args:
        ref: directory, hub id, or the bare name of a sentence-transformers model such as `all-MiniLM-L6-v2`.
        workspace: where hashes of weights are remembered.
        settings: bits, prefixes and the longest text; the defaults unless given.

    Raises:
        NotFound: no such encoder here, nor on the hub.
        BadInput: a checkpoint that is broken, pickled, or of a family that is not known.
        Damaged: the weights of the default encoder are not the published ones.
    """
    settings = settings or Encoding()
    path = find_encoder(ref, workspace)
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    tokenizer = read_tokenizer(path)
    pooling = read_pooling(path, otherwise="mean" if config["model_type"] in FAMILY else "last")
    prefixes = read_prefixes(path, ref, settings)
    opening, closing = special_ids(tokenizer)
    limit = longest_input(path, config)
    if settings.encoder_max_tokens:
        limit = min(limit, settings.encoder_max_tokens)
    prefix_tokens = max(len(tokenizer.encode(p, add_special_tokens=False).ids) for p in (*prefixes.values(), ""))
    room = limit - len(opening) - len(closing) - prefix_tokens
    if room < 16:
        raise BadInput(f"{path}: {limit} tokens leave {room} for a passage; raise encoder_max_tokens")
    hidden = OnDemand(
        f"encoder {ref}",
        bytes_to_load(checkpoint),
        lambda: build(checkpoint, settings.encoder_bits),
        lambda built: bytes_of(built, checkpoint, settings.encoder_bits),
    )
    hidden.get()  # a faulty checkpoint is refused now
    # Not the question's prefix: it may change without the passages' vectors changing.
    facts = [pooling, prefixes.get("passage", ""), limit, settings.encoder_bits, dict(config)]
    parts = [sha256_remembered(file, workspace) for file in (*checkpoint.files, path / "tokenizer.json")]
    parts.append(json.dumps(facts, sort_keys=True, default=str))
    return Encoder(
        name=ref,
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        dimension=int(config["hidden_size"]),
        max_tokens=room,
        max_input=limit,
        tokenizer=tokenizer,
        path=path,
        pooling=pooling,
        prefixes=prefixes,
        opening=opening,
        closing=closing,
        config=config,
        hidden=hidden,
    )


def build(checkpoint: Checkpoint, bits: int = 0) -> Hidden:
    """Return the checkpoint's network with its weights, as a function of ids and mask.

    Args:
        checkpoint: a checked checkpoint, possibly quantized.
        bits: quantize to this many bits, or 0 to leave the weights as they are.

    Raises:
        BadInput: an architecture that is not known, or weights that do not fit it.
    """
    if checkpoint.config["model_type"] not in FAMILY:
        from mlxrag.model.decoder_encoder import build_decoder

        return build_decoder(checkpoint, read_weights(checkpoint), bits)
    network = build_bert(checkpoint)
    if bits:
        network = quantized(network, bits)
    read_in(network.weights.values())
    return network


def build_bert(checkpoint: Checkpoint, labels: int = 0) -> Bert:
    """Return a network of the BERT family; with `labels`, one that has a scoring head of so many outputs.

    Raises:
        BadInput: another family, or weights that do not fit config.json.
    """
    shape = shape_of(checkpoint.config, labels)
    weights = renamed(read_weights(checkpoint), labels)
    told = checkpoint.config.get("quantization") or {"bits": 0, "group_size": 64}
    given: dict[str, tuple[int, ...]] = {}
    for name, value in weights.items():
        base, _, part = name.rpartition(".")
        if f"{base}.scales" not in weights:
            given[name] = value.shape
        elif part in ("weight", "bias"):
            given[name] = (value.shape[0], value.shape[1] * 32 // told["bits"]) if part == "weight" else value.shape
    check_parameters(checkpoint.path, parameters(shape), given)
    return Bert(shape, {name: widened(value) for name, value in weights.items()}, told["bits"], told["group_size"])


def bytes_to_load(checkpoint: Checkpoint) -> int:
    """Return the bytes that a checkpoint's weights take while they are read, before they are quantized."""
    wide = mx.default_device() == mx.Device(mx.cpu)
    return sum(t.nbytes * (2 if wide and t.dtype in ("F16", "BF16") else 1) for t in checkpoint.tensors.values())


def bytes_of(built: Hidden, checkpoint: Checkpoint, bits: int) -> int:
    """Return the bytes of an encoder in memory: counted where its weights can be seen, else by its checkpoint."""
    if isinstance(built, Bert):
        return sum(value.nbytes for value in built.weights.values())
    whole = bytes_to_load(checkpoint)
    return int(whole * (bits + 1) / 32) if bits else whole


def widened(value: mx.array) -> mx.array:
    """Return half precision as float32 on the CPU, where MLX is 30 times slower with it."""
    half = value.dtype in (mx.float16, mx.bfloat16)
    return value.astype(mx.float32) if half and mx.default_device() == mx.Device(mx.cpu) else value


def read_weights(checkpoint: Checkpoint) -> dict[str, mx.array]:
    """Return all tensors of a checked checkpoint by name; they are mapped, not yet read."""
    weights: dict[str, mx.array] = {}
    for file in checkpoint.files:
        tensors = mx.load(str(file))
        assert isinstance(tensors, dict)
        weights |= tensors
    return weights


def encode(encoder: Encoder, texts: Sequence[str], kind: Kind = "passage", batch_tokens: int = 0) -> np.ndarray:
    """Return one unit vector for each text.

    Texts are sorted by length and encoded in batches of `batch_tokens`, so that little is padded;
    a text's vector does not depend on its neighbours beyond rounding (1e-6).  A text beyond the
    encoder's limit is cut at its end.

    Args:
        encoder: the encoder.
        texts: any strings; an empty one is encoded as its special tokens.
        kind: which prefix to put before them.
        batch_tokens: tokens of a batch, padding included; 0 finds the best by measuring, from what suits the device.

    Returns:
        `(len(texts), encoder.dimension)` float32, rows of length 1, in the order of `texts`.
    """
    usual = TOGETHER_CPU if mx.default_device() == mx.Device(mx.cpu) else TOGETHER_GPU
    found = pace(f"encode with {encoder.name} {encoder.fingerprint}", usual, MOST_TIMES * usual)
    vectors = np.empty((len(texts), encoder.dimension), np.float32)
    ids = tokenize(encoder, texts, kind)
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        width = len(ids[order[start]])
        with admitted(encoder.hidden, encoder.config, width, max(1, (batch_tokens or found.size) // width)) as count:
            rows = order[start : start + count]
            began = time.perf_counter()
            vectors[rows] = encode_batch(encoder, [ids[i] for i in rows])
            start += len(rows)
            if not batch_tokens:
                found.note(len(rows) * width, len(rows) * width, time.perf_counter() - began)
    return vectors


@contextmanager
def admitted(
    weights: OnDemand[Any], config: Mapping[str, Any], width: int, most: int, wait: float = 30.0
) -> Iterator[int]:
    """Have the weights in memory, and reserve what encoding as many texts at once takes as fit; yield how many that are.

    A safe point: where the budget has shrunk, the encoder is let go, and there is room for it again before it goes on.

    Args:
        weights: of an encoder or a cross-encoder; they stay as long as the block.
        config: its config.json.
        width: tokens of each text.
        most: texts at once.
        wait: seconds to wait for room.

    Raises:
        WontFit: there is none for one text after `wait` seconds.
    """
    until = time.monotonic() + wait
    least = weights.size + encoder_bytes(config, 1, width)
    with ExitStack() as held:
        while True:
            try:
                ledger().look()
                held.enter_context(weights.using())
                count = reserved(config, width, most, held)
                break
            except WontFit:
                held.close()
                weights.unload()
                left = until - time.monotonic()
                if left <= 0 or not ledger().wait_for(lambda: least, left):
                    raise
        yield count


def reserved(config: Mapping[str, Any], width: int, count: int, held: ExitStack) -> int:
    """Reserve what encoding texts at once takes, halving their number until it fits, and return it.

    Raises:
        WontFit: not even one fits.
    """
    while True:
        size = encoder_bytes(config, count, width)
        try:
            held.enter_context(ledger().reserve("texts being encoded", "scratch", size, helps=HELPS))
            return count
        except WontFit:
            if count == 1:
                raise
            count //= 2


def tokenize(encoder: Encoder, texts: Sequence[str], kind: Kind = "passage") -> list[list[int]]:
    """Return the token ids of each text with prefix and special tokens, cut to the encoder's limit."""
    # The prefix is tokenized together with the text, as the reference does: a token may span their border.
    prefix = encoder.prefixes.get(kind, "")
    whole = encoder.tokenizer.encode_batch_fast([prefix + mended(text) for text in texts], add_special_tokens=False)
    limit = encoder.max_input - len(encoder.opening) - len(encoder.closing)
    return [[*encoder.opening, *one.ids[:limit], *encoder.closing] for one in whole]


def encode_batch(encoder: Encoder, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return unit vectors `(b, d)` float32 for token ids of similar length."""
    lengths = np.array([len(one) for one in ids])
    width = int(lengths.max())
    padded = np.zeros((len(ids), width), np.int32)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = one
    there = np.arange(width)[None, :] < lengths[:, None]
    # Causal attention never looks at what is padded on the right.
    masked = encoder.pooling != "last" and not there.all()
    mask = mx.array(np.where(there, 0.0, MASKED).astype(np.float32))[:, None, None, :] if masked else None
    x = encoder.hidden.get()(mx.array(padded), mask).astype(mx.float32)
    if encoder.pooling == "first":
        pooled = x[:, 0]
    elif encoder.pooling == "last":
        pooled = x[mx.arange(len(ids)), mx.array(lengths - 1)]
    else:
        weight = mx.array(there.astype(np.float32))[:, :, None]
        pooled = (x * weight).sum(axis=1) / mx.array(lengths.astype(np.float32))[:, None]
    unit = pooled / mx.maximum(mx.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)
    return np.array(unit)
