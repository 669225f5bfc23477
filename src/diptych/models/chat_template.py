"""A model's chat template: messages to prompt text, in a sandbox.

Templates come with the weights and are programs, so they run in jinja2's immutable sandbox: no
attribute that begins with an underscore, no change to what is passed in. The environment is the one
Hugging Face documents for chat templates (trimmed blocks, `raise_exception`, `strftime_now`, `tojson`
without HTML escapes).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from diptych.models.errors import ChatTemplateError, ModelError
from diptych.models.tokenizer import read_json, token_text


class _RefusedError(Exception):
    """Raised by the template itself, through `raise_exception`."""


class ChatTemplate:
    """One compiled template. `source` is its text, `special` the token texts it may refer to
    (`bos_token`, `eos_token`, ...). Raises `ChatTemplateError` where the template does not parse."""

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._special = dict(special or {})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"chat template does not parse: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt text, control tokens written out: encode it with `special=True`.

        Each message has `role` and `content` (and whatever else the template knows). `variables` reach
        the template by name. Raises `ChatTemplateError` with the template's own words where it refuses
        (roles that must alternate, say), or naming what it could not do.
        """
        names = {**self._special, **variables}
        try:
            return self._template.render(
                messages=list(messages),
                tools=None if tools is None else list(tools),
                add_generation_prompt=add_generation_prompt,
                **names,
            )
        except _RefusedError as error:
            raise ChatTemplateError(f"chat template refused the messages: {error}") from error
        except RecursionError as error:
            raise ChatTemplateError("chat template failed: messages are nested too deeply") from error
        except Exception as error:  # a template is a program: it may fail in any way
            raise ChatTemplateError(f"chat template failed: {type(error).__name__}: {error}") from error


def template_from_gguf(metadata: Mapping[str, Any]) -> ChatTemplate | None:
    """The template in a GGUF file's metadata; None where it has none (a base model)."""
    source = metadata.get("tokenizer.chat_template")
    if source is None:
        return None
    texts = metadata.get("tokenizer.ggml.tokens", [])
    special = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int) and 0 <= token < len(texts):
            special[f"{name}_token"] = texts[token]
    return ChatTemplate(source, special)


def template_from_folder(folder: Path) -> ChatTemplate | None:
    """The template of a Hugging Face folder: `chat_template.jinja`, else `chat_template` in
    `tokenizer_config.json` (of several named ones, `default`); None where there is none."""
    settings = read_json(folder / "tokenizer_config.json")
    path = folder / "chat_template.jinja"
    source: Any = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise ModelError(f"{folder}: chat_template is neither text nor a list with a 'default' entry")
    special = {
        key: text
        for key, value in settings.items()
        if key.endswith("_token") and (text := token_text(value)) is not None
    }
    return ChatTemplate(source, special)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
