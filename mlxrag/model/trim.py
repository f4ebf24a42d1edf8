"""A smaller vocabulary: the tokens that the user's documents, the chat template and everyday language need.

Embeddings are a third of a small multilingual model.  Rows of tokens that are never used go, the rest keep their
numbers' order; the tokenizer is rebuilt so that the texts are cut exactly as before.  What it costs is said: the
probability that the original gave to tokens that are gone, and how many more tokens other text takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.likelihood import log_softmax, passes
from mlxrag.model.network import Assembled, build, quantize_to_fit
from mlxrag.model.tokenizer import Tokenizer

ROUND = 64  # rows are kept in multiples of this, as kernels and quantization like them
STALE = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json", "added_tokens.json")
ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens stay: `kept[new id] = old id`, and the tokenizer.json that knows them."""

    kept: tuple[int, ...]
    tokenizer: Mapping[str, Any]

    @property
    def new_id(self) -> dict[int, int]:
        """New ids by old ones."""
        return {old: new for new, old in enumerate(self.kept)}


def choose_tokens(source: Path, tokenizer: Tokenizer, texts: Iterable[str], keep_top: int) -> Vocabulary:
    """Choose the tokens to keep and rebuild the tokenizer.

    Kept are all tokens of the texts and of the chat template, special tokens, single letters and bytes, the parts that
    kept tokens are merged from, and the `keep_top` most common of the rest (the first merges, or the best scores).

    Args:
        source: directory with tokenizer.json.
        tokenizer: the same, opened.
        texts: the user's documents.
        keep_top: how many tokens of everyday language stay besides.

    Raises:
        BadInput: a tokenizer without tokenizer.json, or of another kind than BPE and Unigram.
    """
    file = source / "tokenizer.json"
    if not file.is_file():
        raise BadInput(f"{source} has no tokenizer.json; a vocabulary can only be trimmed in that format")
    table = json.loads(file.read_text(encoding="utf-8"))
    kind = table["model"]["type"]
    if kind not in ("BPE", "Unigram"):
        raise BadInput(f"{file}: a {kind} vocabulary cannot be trimmed, only BPE and Unigram")
    used = {i for text in [*texts, tokenizer.chat_template or ""] for i in tokenizer.encode(text)}
    used |= {int(token["id"]) for token in table.get("added_tokens", [])} | set(tokenizer.eos_ids)
    kept = keep_bpe(table, used, keep_top) if kind == "BPE" else keep_unigram(table, used, keep_top)
    return Vocabulary(tuple(sorted(kept)), renumber(table, sorted(kept)))


def pair(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, which is written as a list or as one text with a space."""
    first, second = merge if isinstance(merge, list) else merge.split(" ", 1)
    return str(first), str(second)


def keep_bpe(table: Mapping[str, Any], used: set[int], keep_top: int) -> set[int]:
    """Return the ids to keep of a BPE vocabulary, closed under "is merged from"."""
    ids: dict[str, int] = table["model"]["vocab"]
    merges = [pair(merge) for merge in table["model"]["merges"]]
    made = {first + second for first, second in merges}
    kept = used | {i for token, i in ids.items() if token not in made}
    order = [ids[first + second] for first, second in merges if first + second in ids]
    kept |= set(order[:keep_top])

    def close() -> None:
        for first, second in reversed(merges):
            if ids.get(first + second) in kept:
                kept.update(ids[part] for part in (first, second) if part in ids)

    close()
    for token in order:
        if len(kept) % ROUND == 0:
            break
        kept.add(token)  # its parts are more common, so they are there already
    close()
    return kept


def keep_unigram(table: Mapping[str, Any], used: set[int], keep_top: int) -> set[int]:
    """Return the ids to keep of a Unigram vocabulary: the used ones, single letters and bytes, and the best scores."""
    vocabulary: list[list[Any]] = table["model"]["vocab"]
    short = {i for i, (token, _) in enumerate(vocabulary) if len(token.strip("▁")) <= 1 or token.startswith("<0x")}
    kept = used | short | {int(table["model"].get("unk_id") or 0)}
    for i in sorted(range(len(vocabulary)), key=lambda i: -vocabulary[i][1])[:keep_top]:
        kept.add(i)
    for i in sorted(range(len(vocabulary)), key=lambda i: -vocabulary[i][1]):
        if len(kept) % ROUND == 0:
            break
        kept.add(i)
    return kept


def renumber(table: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return tokenizer.json with the kept tokens alone, numbered from 0."""
    place = {old: new for new, old in enumerate(kept)}
    done = json.loads(json.dumps(table))
    model = done["model"]
    if model["type"] == "BPE":
        model["vocab"] = {
            token: place[i] for token, i in sorted(model["vocab"].items(), key=lambda t: t[1]) if i in place
        }
        known = model["vocab"]
        model["merges"] = [m for m in model["merges"] if all(p in known for p in (*pair(m), "".join(pair(m))))]
    else:
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in place]
        if model.get("unk_id") is not None:
            model["unk_id"] = place[model["unk_id"]]
    for token in done.get("added_tokens", []):
        token["id"] = place[token["id"]]
    done["post_processor"] = processor_ids(done.get("post_processor"), place)
    return done


def processor_ids(part: Any, place: Mapping[int, int]) -> Any:
    """Return a post-processor with new ids, wherever it names one."""
    if isinstance(part, list):
        # `["</s>", 2]` is how Roberta's and Bert's processors name a token.
        if len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
            return [part[0], place.get(part[1], part[1])]
        return [processor_ids(item, place) for item in part]
    if isinstance(part, dict):
        return {
            key: [place.get(i, i) for i in value] if key == "ids" else processor_ids(value, place)
            for key, value in part.items()
        }
    return part


def trim_network(found: Assembled, vocabulary: Vocabulary) -> Assembled:
    """Return the network with the rows of the kept tokens alone; weights stay unread.

    Raises:
        BadInput: nothing in it has one row per token.
    """
    config = dict(found.config)
    table = config["text_config"] = dict(config["text_config"]) if isinstance(config.get("text_config"), dict) else {}
    if not table:
        del config["text_config"]
        table = config
    rows = int(table["vocab_size"])
    weights: dict[str, mx.array] = dict(tree_flatten(found.network.parameters()))
    take = mx.array(list(vocabulary.kept))
    cut = [name for name, array in weights.items() if array.ndim and array.shape[0] == rows and of_tokens(name)]
    if not cut:
        raise BadInput(f"the network has no table of {rows} tokens to trim")
    for name in cut:
        weights[name] = mx.take(weights[name], take, axis=0)
    table["vocab_size"] = len(vocabulary.kept)
    for where in (config, table):
        for key in ID_KEYS:
            if key in where:
                where[key] = new_ids(where[key], vocabulary.new_id)
    network = build(config)
    if config.get("quantization"):
        quantize_to_fit(network, config["quantization"], weights)
    network.eval()
    network.load_weights(list(weights.items()), strict=True)
    note = f"vocabulary: {len(vocabulary.kept)} of {rows} tokens kept"
    return replace(found, network=network, config=config, notes=(*found.notes, note))


def of_tokens(name: str) -> bool:
    """Return whether a parameter's name says that it has a row per token."""
    return any(part in name for part in ("embed", "lm_head", "wte", "word", "output"))


def new_ids(value: Any, place: Mapping[int, int]) -> Any:
    """Return an id, or a list of them, by its new number; an id that is gone becomes null."""
    if isinstance(value, list):
        return [place[i] for i in value if i in place]
    return place.get(value) if isinstance(value, int) else value


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Rewrite tokenizer and generation config in a folder that was written with the old ones."""
    for name in STALE:
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary.tokenizer, ensure_ascii=False), encoding="utf-8")
    place = vocabulary.new_id
    told = folder / "tokenizer_config.json"
    if told.is_file():
        config = json.loads(told.read_text(encoding="utf-8"))
        if isinstance(tokens := config.get("added_tokens_decoder"), dict):
            config["added_tokens_decoder"] = {
                str(place[int(i)]): token for i, token in tokens.items() if int(i) in place
            }
        told.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    generation = folder / "generation_config.json"
    if generation.is_file():
        config = json.loads(generation.read_text(encoding="utf-8"))
        for key in ID_KEYS:
            if key in config:
                config[key] = new_ids(config[key], place)
        generation.write_text(json.dumps(config, indent=1), encoding="utf-8")


def same_cuts(old: Tokenizer, new: Tokenizer, vocabulary: Vocabulary, texts: Sequence[str]) -> float:
    """Return the share of texts that the new tokenizer cuts exactly like the old one."""
    place = vocabulary.new_id
    same = sum([place.get(i) for i in old.encode(text)] == new.encode(text) for text in texts)
    return same / max(len(texts), 1)


def lost_mass(network: nn.Module, rows: Sequence[Sequence[int]], kept: Sequence[int]) -> float:
    """Return the mean probability that a network gives to tokens that are not in `kept`, over all positions of texts."""
    gone, total, count = None, 0.0, 0
    for row in rows:
        for out in passes(network, row):
            if gone is None:
                gone = np.ones(out.shape[-1], dtype=bool)
                gone[list(kept)] = False
            total += float(np.exp(log_softmax(out))[:, gone].sum())
            count += len(out)
    return total / max(count, 1)
