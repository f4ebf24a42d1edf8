"""Text to token ids and back, and messages to a prompt, without transformers.

Reads what a checkpoint's directory holds (tokenizer.json, tokenizer_config.json,
special_tokens_map.json, chat_template.jinja) with the `tokenizers` library and a sandboxed jinja2,
and gives the same ids as transformers' AutoTokenizer.  A directory without tokenizer.json goes
through AutoTokenizer once, which knows the older formats.

Rule of safety: what a message says is never read as a control token.  A document that contains
`<|im_end|>` cannot end the user's turn; the words are encoded as the letters they are.

Knows nothing of networks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from mlxrag.errors import BadInput, NotFound
from mlxrag.model.template import Message, compile_template, plain_layout

if TYPE_CHECKING:
    import jinja2

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPARE = ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model", "spiece.model")
# How Qwen cuts text.  transformers uses it for every model of type qwen2, whatever its tokenizer.json says.
# Source: transformers, models/qwen2/tokenization_qwen2.py.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Private-use letters that stand around a control token found in a message.
START, END = "\U000f0001", "\U000f0002"


class Tokenizer:
    """What turns text into the ids of one model and back.

    Attributes:
        special: the named special tokens, such as `{"bos_token": "<s>"}`.
        chat_template: jinja source of the model's own layout of a conversation, or None.
        eos_ids: ids that end an answer.
        vocab_size: ids are below this.
        template_args: what the template is given unless a call says otherwise, such as `{"enable_thinking": False}`.
    """

    def __init__(
        self,
        backend: Backend,
        special: Mapping[str, str],
        chat_template: str | None = None,
        eos_ids: Iterable[int] = (),
        cleans_spaces: bool = False,
    ) -> None:
        self.backend = backend
        self.special = dict(special)
        self.chat_template = chat_template
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        own = self.id("eos_token")
        self.eos_ids: frozenset[int] = frozenset({*eos_ids, *([own] if own is not None else [])})
        self.template_args: dict[str, Any] = {}
        self._cleans_spaces = cleans_spaces

    def id(self, name: str) -> int | None:
        """Return the id of a named special token (`"bos_token"`) or of a token as written, if there is one."""
        token: int | None = self.backend.token_to_id(self.special.get(name, name))
        return token

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of `text`; with `add_special_tokens`, also those the model expects around it."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a raw prompt: with the special tokens, unless the text brings its own first one."""
        first = self.special.get("bos_token")
        return self.encode(text, add_special_tokens=first is None or not text.startswith(first))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of the ids."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return tidy(text) if self._cleans_spaces else text

    def detokenizer(self, skip_special_tokens: bool = False) -> Detokenizer:
        """Return a fresh decoder for ids that come one by one."""
        return Detokenizer(self, skip_special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **template_args: Any,
    ) -> str:
        """Return the conversation as one text, in the model's own layout.

        Without a template the contents follow one another with a blank line between, an answer is
        led in by `Answer:`, and so is the one to come.

        Args:
            messages: `{"role": ..., "content": ...}`, oldest first.
            add_generation_prompt: end where the model is to begin its answer.
            continue_final_message: leave the last message open, for the model to go on with.
            template_args: passed to the template, such as `enable_thinking`.

        Raises:
            BadInput: the template refuses the conversation (many want turns to alternate).
        """
        if not messages:
            raise BadInput("a conversation needs at least one message")
        if self.chat_template is None:
            return plain_layout(messages, add_generation_prompt, continue_final_message)
        import jinja2

        template_args = {**self.template_args, **template_args}
        chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
        tag = "CONTINUE_FINAL_MESSAGE_TAG "
        if continue_final_message:
            chat[-1] = {**chat[-1], "content": chat[-1]["content"] + tag}
        try:
            text = self._template.render(
                messages=chat,
                tools=template_args.pop("tools", None),
                documents=template_args.pop("documents", None),
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                **{**self.special, **template_args},
            )
        except jinja2.exceptions.TemplateError as error:
            raise BadInput(f"the model's chat template refuses this conversation: {error}") from error
        if continue_final_message:
            at = text.rindex(tag.strip())
            kept = text[at : at + len(tag)] == tag
            text = text[:at] if kept else text[:at].rstrip()
        return text

    def prompt(self, messages: Sequence[Message], **render_args: Any) -> list[int]:
        """Return the ids of a conversation, ready for the model.

        Control tokens that stand in a message are encoded as plain text.

        Args:
            messages: as for `render`.
            render_args: as for `render`.
        """
        marked = [{key: self._mark(value) for key, value in message.items()} for message in messages]
        if marked == [dict(message) for message in messages]:
            text = self.render(messages, **render_args)
            return self.encode(text) if self.chat_template is not None else self.encode_prompt(text)
        return self._encode_marked(self.render(marked, **render_args))

    @cached_property
    def _template(self) -> jinja2.Template:
        return compile_template(self.chat_template or "")

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Matches any added token; the longest first, so that a token wins over what it contains."""
        tokens = sorted((token.content for token in self.backend.get_added_tokens_decoder().values()), key=len)
        return re.compile("|".join(re.escape(token) for token in reversed(tokens)) or "(?!)")

    def _mark(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = value.replace(START, "").replace(END, "")
        return self._control.sub(lambda match: f"{START}{match[0]}{END}", value)

    def _encode_marked(self, text: str) -> list[int]:
        """Encode a rendered conversation; what stands between marks is encoded as letters.

        Every piece but the first is encoded after a newline that is cut off again, since some
        tokenizers put a space before a text that begins.
        Source: `encode_marked_chat` of transformers 5.
        """
        inner = self._control.pattern
        pieces = re.split(f"{START}({inner}){END}|[{START}{END}]", text)
        first_special = self.chat_template is None
        ids = self.encode_prompt(pieces[0]) if first_special else self.encode(pieces[0])
        newline = self.encode("\n")
        for i, piece in enumerate(pieces[1:], start=1):
            if not piece:
                continue
            encode: Callable[[str], list[int]] = self._encode_letters if i % 2 else self.encode
            found = encode("\n" + piece)
            ids += found[len(newline) :] if found[: len(newline)] == newline else encode(piece)
        return ids

    def _encode_letters(self, text: str) -> list[int]:
        """Encode without added tokens."""
        if self.backend.normalizer is not None:
            text = self.backend.normalizer.normalize_str(text)
        splits = [text]
        if self.backend.pre_tokenizer is not None:
            splits = [split for split, _ in self.backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for split in splits for token in self.backend.model.tokenize(split)]


class Detokenizer:
    """Decodes ids one by one; the pieces joined are the text of all ids.

    Strategy: decode a short window twice, without and with the newest ids, and give out what was
    added.  The window begins at ids that were given out, so a decoder that drops the first space
    of a text drops it there and not in the middle.  Nothing is given out while the text ends in an
    unfinished character.

    Source: the streaming decoders of text-generation-inference; like mlx_lm's, a leading space of
    byte-level tokenizers is dropped.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = False) -> None:
        self._decode = tokenizer.decode
        self._skip = skip_special_tokens
        self._trim = type(tokenizer.backend.decoder).__name__ == "ByteLevel"
        self._ids: list[int] = []
        self._given = 0  # ids before this are given out
        self._window = 0  # the window begins here

    def add(self, token: int) -> str:
        """Take one id and return the text that is now certain, which may be empty."""
        self._ids.append(token)
        return self._take(last=False)

    def finish(self) -> str:
        """Return what was held back."""
        return self._take(last=True) if self._given < len(self._ids) else ""

    def _take(self, last: bool) -> str:
        before = self._decode(self._ids[self._window : self._given], self._skip)
        after = self._decode(self._ids[self._window :], self._skip)
        if len(after) <= len(before) or (after.endswith("\ufffd") and not last and len(self._ids) - self._given < 8):
            return ""
        self._window, self._given = self._given, len(self._ids)
        text = after[len(before) :]
        if self._trim:
            self._trim = False
            text = text.removeprefix(" ")
        return text


def load_tokenizer(path: Path, eos_ids: Iterable[int] = (), model_type: str = "") -> Tokenizer:
    """Load the tokenizer of a model directory.

    Args:
        path: the directory.
        eos_ids: ids that the model's config or generation config says end an answer.
        model_type: of config.json.

    Raises:
        NotFound: the directory has no tokenizer.
        BadInput: a file of it cannot be read.
    """
    config = _json(path / "tokenizer_config.json")
    template = _chat_template(path, config)
    file = path / "tokenizer.json"
    if not file.is_file():
        if not any((path / name).is_file() for name in SPARE):
            raise NotFound(
                f"{path} has no tokenizer (tokenizer.json or tokenizer.model); copy it from the original model"
            )
        backend, special = _by_transformers(path)
        return Tokenizer(backend, special, template, eos_ids)
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # tokenizers raises a bare Exception for every fault of the file
        raise BadInput(f"{file}: cannot be read as a tokenizer: {error}; fetch the model again") from error
    if "added_tokens_decoder" not in config:
        config = {**config, **_json(path / "special_tokens_map.json")}
    special = {name: text for name in NAMED if (text := _content(config.get(name)))}
    if model_type == "qwen2" or str(config.get("tokenizer_class")).removesuffix("Fast") == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    # add_bos_token and add_eos_token of the config are not looked at: tokenizer.json says what stands around a text.
    _add_tokens(backend, config, special)
    backend.no_truncation()
    backend.no_padding()
    # For BPE the cleaning would take away spaces that were there.
    cleans = config.get("clean_up_tokenization_spaces") is True and type(backend.model).__name__ != "BPE"
    return Tokenizer(backend, special, template, eos_ids, cleans)


def tidy(text: str) -> str:
    """Undo the spaces that word-piece tokenizers leave before punctuation, as transformers does."""
    for old, new in ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
                     (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")):  # fmt: skip
        text = text.replace(old, new)
    return text


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path}: is not valid JSON: {error}; fetch the model again") from error
    return value if isinstance(value, dict) else {}


def _content(token: Any) -> str | None:
    """A special token is written as a text or as a table with its content."""
    return token.get("content") if isinstance(token, dict) else token


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = _json(path / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else None


def _add_tokens(backend: Backend, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Add tokens that only tokenizer_config.json knows of."""
    known = backend.get_added_tokens_decoder()
    have = {token.content for token in known.values()}
    for _, entry in sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        if entry["content"] not in have:
            fields = {key: entry[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in entry}
            token = AddedToken(entry["content"], special=bool(entry.get("special")), **fields)
            (backend.add_special_tokens if entry.get("special") else backend.add_tokens)([token])
    more = [_content(token) for token in config.get("additional_special_tokens") or []]
    for text in [*special.values(), *(text for text in more if text)]:
        if text not in {token.content for token in backend.get_added_tokens_decoder().values()}:
            backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _by_transformers(path: Path) -> tuple[Backend, dict[str, str]]:
    """Convert an older format through AutoTokenizer; costs its import, about a second."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        backend = loaded.backend_tokenizer
    except (ValueError, OSError, ImportError, AttributeError) as error:
        raise BadInput(f"{path}: the tokenizer cannot be read: {str(error).splitlines()[0]}") from error
    special = {name: str(text) for name in NAMED if (text := getattr(loaded, name, None))}
    return backend, special
