"""What travels with the weights: tokenizer, chat template, stop tokens, generation config, advice; and their check.

The check opens what was copied the way the runtime will, and reports; it refuses only what would make the
model unusable: a stop token that does not exist, more tokens than the network has rows for, a template that
does not render.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxrag.errors import BadInput, NotFound
from mlxrag.model.beside import stop_ids
from mlxrag.model.tokenizer import Tokenizer, load_tokenizer

# Everything a tokenizer or a prompt is made of; weights, code and pictures stay behind.
TRAVEL = (
    "added_tokens.json", "chat_template.*", "generation_config.json", "merges.txt", "mlxrag.json", "special_tokens_map.json",
    "spiece.model", "tekken.json", "*.tiktoken", "tiktoken.model", "tokenizer*", "vocab.json", "vocab.txt", "LICENSE*",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
AWKWARD = (
    "Plain words, 1234.5 and (brackets).",
    "  two spaces\tand\na newline  ",
    "Ünïcödé, 日本語, العربية, Здравствуйте",
    "🙂👩‍👩‍👧 e\u0301 ﬁ \u00a0",
    "<|im_end|> </s> <bos>",
    "def f(x):\n    return {'a': x[1:]}",
)
CONVERSATION = ({"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"},
                {"role": "user", "content": "And twice that?"})  # fmt: skip


def copy_companions(source: Path, folder: Path) -> None:
    """Copy everything but weights and config.json from `source` to `folder`."""
    names = sorted({file.name for pattern in TRAVEL for file in source.glob(pattern) if file.is_file()})
    for name in names:
        shutil.copyfile(source / name, folder / name)


def check_companions(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Open what lies beside the weights in `folder` and return what was found.

    Returns:
        `tokenizer` (or the reason why there is none), `round_trip`: texts that come back changed, `chat_template`
        (renders, or absent), `stop_tokens`.

    Raises:
        BadInput: a stop token that is no token, a vocabulary larger than the network's, or a template that fails.
    """
    stops = stop_ids(folder, config)
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if isinstance(rows, int) and (beyond := [token for token in stops if not 0 <= token < rows]):
        raise BadInput(
            f"{folder.name}: the stop token {beyond[0]} does not exist, the vocabulary has {rows}; "
            "put eos_token_id in generation_config.json right"
        )
    try:
        tokenizer = load_tokenizer(folder, stops, str(config.get("model_type", "")))
    except NotFound:
        return {"tokenizer": "absent", "stop_tokens": stops}
    if isinstance(rows, int) and (most := max(tokenizer.backend.get_vocab().values(), default=0)) >= rows:
        raise BadInput(
            f"the tokenizer has token {most} and the network rows for {rows}; tokenizer and weights do not belong together"
        )
    return {
        "tokenizer": "present",
        "round_trip": [text for text in AWKWARD if tokenizer.decode(tokenizer.encode(text)) != text],
        "chat_template": check_template(tokenizer),
        "stop_tokens": sorted(tokenizer.eos_ids),
    }


def check_template(tokenizer: Tokenizer) -> str:
    """Render a conversation with the chat template and return whether there is one.

    Raises:
        BadInput: it fails, or drops what was said.
    """
    if tokenizer.chat_template is None:
        return "absent"
    text = tokenizer.render(CONVERSATION)
    if any(str(message["content"]) not in text for message in CONVERSATION[-1:]):
        raise BadInput("the chat template leaves out what the user says; take the template of the original model")
    return "renders"
