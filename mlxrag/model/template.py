"""The layout of a conversation: a model's own chat template, or plain text where it has none.

Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlxrag.errors import BadInput

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template with the environment that transformers gives it.

    Templates come with a model from strangers: the sandbox forbids them to change or reach anything.

    Raises:
        BadInput: it is no jinja template.
    """
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what an assistant said, for training; here it is just its content."""

        tags = {"generation"}  # noqa: RUF012  # jinja's own name

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

        def _same(self, caller: Callable[[], str]) -> str:
            return caller()

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(form: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(form)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    try:
        return environment.from_string(source)
    except jinja2.exceptions.TemplateError as error:
        raise BadInput(f"the model's chat template is not valid jinja: {error}") from error


def plain_layout(messages: Sequence[Message], add_generation_prompt: bool, open_end: bool) -> str:
    """Return a conversation for a model without a template: the contents, and `Answer:` before what it said."""
    parts = [
        f"Answer: {message['content']}" if message["role"] == "assistant" else str(message["content"])
        for message in messages
    ]
    if add_generation_prompt and not open_end:
        parts.append("Answer:")
    return "\n\n".join(parts)
