"""`mlxrag generate`: the flags and the output of mlx_lm.generate, with our runtime below."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Caching, Memory, ModelSettings, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlxrag.model.generate import Piece
    from mlxrag.model.load import Model

KEPT_OUT = ("decode_concurrency", "cache_memory", "cache_disk", "cache_disk_bits")
LEAST_STEP = 64
"""Prompt tokens at once below which a step takes hardly less memory."""


@click.command()
@click.option("--prompt", "-p", default="hello", help="What to say to the model; - reads from stdin.  [default: hello]")
@click.option("--system-prompt", default=None, help="Instruction before it, for the chat template.")
@click.option("--prefill-response", default=None, help="Beginning of the answer, for the model to go on with.")
@click.option("--ignore-chat-template", is_flag=True, help="Give the model the prompt as it is.")
@click.option("--chat-template-config", default=None, metavar="JSON", help="More variables for the chat template.")
@click.option(
    "--extra-eos-token", multiple=True, help="A token, or its number, that ends the answer (may be repeated)."
)
@click.option(
    "--prompt-cache-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keys and values that `mlx_lm cache_prompt` saved; the prompt follows them.",
)
@click.option("--verbose", default=True, type=bool, help="Also print how fast it was.  [default: True]")
@click.option("-m", "max_tokens_short", type=int, hidden=True)
@knobs(ModelSettings, Sampling)
@knobs(Caching, leave=KEPT_OUT)
@knobs(Memory, only=("memory_wait",))
@shared
def generate(
    prompt: str,
    system_prompt: str | None,
    prefill_response: str | None,
    ignore_chat_template: bool,
    chat_template_config: str | None,
    extra_eos_token: tuple[str, ...],
    prompt_cache_file: Path | None,
    verbose: bool,
    max_tokens_short: int | None,
    workspace: Path | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Generate text, with the flags of mlx_lm.generate.

    No documents are read.  The output is mlx_lm.generate's too, token for token; 100 tokens at most unless given.  Where
    memory is short the prompt is read in smaller steps, then it waits; it is refused if that does not help.
    """
    from mlxrag import settings as s
    from mlxrag.cli import show
    from mlxrag.machine import parse_seconds
    from mlxrag.model.admit import patiently
    from mlxrag.model.cache_layers import read_cache_file
    from mlxrag.model.generate import gather, stream
    from mlxrag.model.load import READER, load
    from mlxrag.model.lookup import DraftModel
    from mlxrag.workspace import open_workspace

    if max_tokens_short is not None:
        flags["max_tokens"] = max_tokens_short
    if "max_tokens" not in s.given(config, flags):
        flags["max_tokens"] = 100  # mlx_lm's default
    settings = s.read(config, flags)
    ws = open_workspace(workspace)
    facts = read_cache_file(prompt_cache_file)[1] if prompt_cache_file is not None else {}
    ref = settings.model.model or facts.get("model") or READER
    text = sys.stdin.read() if prompt == "-" else prompt.replace("\\n", "\n").replace("\\t", "\t")
    wait = parse_seconds(settings.memory.memory_wait)
    adapter = settings.model.adapter_path or None
    with patiently(lambda: load(ref, ws, adapter=adapter, settings=settings.model), wait) as model:
        _more_stops(model, extra_eos_token)
        ids = _ids(
            model,
            text,
            system_prompt,
            prefill_response,
            ignore_chat_template,
            chat_template_config,
            prompt_cache_file is not None,
        )
        drafter = None
        if settings.model.draft_model:
            drafter = DraftModel(_draft(model, settings.model, ws), settings.model.num_draft_tokens)
        if verbose and not as_json:
            click.echo("=" * 10)
        sampling = settings.sampling
        if sampling.seed is None:  # another attempt must give the same tokens
            sampling = sampling.model_copy(update={"seed": secrets.randbits(32)})

        def again(caching: Caching) -> Iterator[Piece]:
            # A cache from a file is changed while it is used; another attempt begins with what the file says.
            before = read_cache_file(prompt_cache_file)[0] if prompt_cache_file is not None else None
            return stream(model, ids, sampling, before, caching=caching, drafter=drafter, skip_special_tokens=False)

        pieces = _with_room(again, settings.caching, wait, (lambda _: None) if as_json else _print)
        done = gather(model, "", pieces)
        usage = _usage(pieces)
    value = {"text": done.text, "finish_reason": done.finish_reason, "model": model.name, "usage": usage}

    def draw() -> None:
        click.echo()
        if not verbose:
            return
        click.echo("=" * 10)
        if not done.text:
            click.echo("No text generated for this prompt")
            return
        click.echo(f"Prompt: {usage['prompt_tokens']} tokens, {usage['prompt_tps']:.3f} tokens-per-sec")
        click.echo(f"Generation: {usage['generation_tokens']} tokens, {usage['generation_tps']:.3f} tokens-per-sec")
        click.echo(f"Peak memory: {usage['peak_memory']:.3f} GB")

    show.result(value, as_json, draw)


def _print(text: str) -> None:
    click.echo(text, nl=False)


def _with_room(
    make: Callable[[Caching], Iterator[Piece]], caching: Caching, wait: float, show: Callable[[str], None]
) -> list[Piece]:
    """Generate; where memory is short, take smaller steps of the prompt, then wait, and begin anew.

    What was shown is not shown again: the same seed gives the same tokens.

    Raises:
        WontFit: there is no room with the smallest steps after `wait` seconds.
    """
    from mlxrag.errors import WontFit
    from mlxrag.model.admit import patiently

    shown = 0

    def attempt() -> list[Piece]:
        nonlocal shown
        pieces = []
        for piece in make(caching):
            pieces.append(piece)
            if len(pieces) > shown:
                shown += 1
                show(piece.text)
        return pieces

    while caching.prefill_step_size > LEAST_STEP:
        try:
            return attempt()
        except WontFit:
            caching = caching.model_copy(update={"prefill_step_size": max(LEAST_STEP, caching.prefill_step_size // 2)})
    return patiently(attempt, wait)


def _ids(
    model: Model,
    text: str,
    system: str | None,
    prefill: str | None,
    raw: bool,
    config: str | None,
    follows: bool,
) -> list[int]:
    """Return the prompt's ids as mlx_lm.generate makes them; after a cache, only what follows it."""
    from mlxrag.errors import BadInput

    tokenizer = model.tokenizer
    if raw or tokenizer.chat_template is None:
        return tokenizer.encode(text, add_special_tokens=True)
    try:
        more = json.loads(config) if config else {}
    except ValueError as error:
        raise BadInput(f"--chat-template-config is not JSON: {error}") from error
    if not isinstance(more, dict):
        raise BadInput("--chat-template-config must be a JSON object")
    # As mlx_lm: models that can think are asked to.
    more.setdefault("enable_thinking", tokenizer.backend.token_to_id("<think>") is not None)
    chat = [{"role": "system", "content": system}] if system is not None else []
    chat.append({"role": "user", "content": text})
    if prefill is not None:
        chat.append({"role": "assistant", "content": prefill})
    args = {"continue_final_message": prefill is not None, "add_generation_prompt": prefill is None, **more}
    if not follows:
        return tokenizer.prompt(chat, **args)
    whole = tokenizer.render(chat, **args)
    probe = tokenizer.render([*chat[:-1], {**chat[-1], "content": "<query>"}], **args)
    return tokenizer.encode(whole[probe.index("<query>") :])


def _more_stops(model: Model, tokens: tuple[str, ...]) -> None:
    from mlxrag.errors import BadInput

    for token in tokens:
        number = int(token) if token.isdigit() else model.tokenizer.backend.token_to_id(token)
        if number is None:
            raise BadInput(f"--extra-eos-token {token!r} is not a token of this model")
        model.tokenizer.eos_ids |= {number}


def _draft(model: Model, settings: ModelSettings, ws: Any) -> Any:
    from mlxrag.errors import Mismatch
    from mlxrag.model.load import load

    draft = load(settings.draft_model, ws, settings=settings)
    if draft.tokenizer.vocab_size != model.tokenizer.vocab_size:
        raise Mismatch(
            f"the draft model {draft.name} has {draft.tokenizer.vocab_size} tokens and {model.name} has "
            f"{model.tokenizer.vocab_size}; take one with the same tokenizer"
        )
    return draft.network


def _usage(pieces: list[Any]) -> dict[str, Any]:
    from mlxrag.model.generate import peak_memory

    last = pieces[-1]
    rest = last.seconds - last.prompt_seconds
    return {
        "prompt_tokens": last.prompt_tokens,
        "prompt_tps": last.prompt_tokens / max(last.prompt_seconds, 1e-9),
        "generation_tokens": len(pieces),
        "generation_tps": len(pieces) / max(rest, 1e-9),
        "first_token_seconds": last.prompt_seconds,
        "seconds": last.seconds,
        "drafted_tokens": sum(piece.drafted for piece in pieces),
        "peak_memory": peak_memory(),
    }
