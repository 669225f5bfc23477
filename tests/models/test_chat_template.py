"""Templates are programs from a stranger: what they may do, and what their errors become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.models.chat_template import ChatTemplate, template_from_folder, template_from_gguf
from diptych.models.errors import ChatTemplateError, ModelError

MESSAGES = [{"role": "user", "content": "Hi <b> & 'you'"}]


def test_renders_as_hugging_face_documents_it() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}\n"
        "    {% if m.role == 'user' %}\n[{{ m.content }}]\n    {% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}>{% endif %}",
        {"bos_token": "<s>"},
    )
    # Blocks leave no line and no indent behind; nothing is HTML-escaped.
    assert template.render(MESSAGES) == "<s>[Hi <b> & 'you']\n>"
    assert template.render(MESSAGES, add_generation_prompt=False) == "<s>[Hi <b> & 'you']\n"


def test_tools_and_other_variables_reach_it() -> None:
    template = ChatTemplate(
        "{{ tools | tojson }}{% if thinking %}T{% endif %}{{ strftime_now('%Y')|length }}"
    )
    assert template.render(MESSAGES, tools=[{"name": "é<"}], thinking=True) == '[{"name": "é<"}]T4'


def test_loop_controls_are_there() -> None:
    template = ChatTemplate(
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert template.render(MESSAGES) == "1"


def test_its_own_refusal_is_passed_on() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match="refused the messages: roles must alternate"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages | no_such_filter }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].missing.deeper }}",
        "{% include 'x' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_nothing_but_a_chat_template_error_comes_out(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="chat template"):
        ChatTemplate(source).render(MESSAGES)
    assert MESSAGES == [{"role": "user", "content": "Hi <b> & 'you'"}]


def test_syntax_error_is_found_at_load() -> None:
    with pytest.raises(ChatTemplateError, match="does not parse"):
        ChatTemplate("{% for %}")


def test_from_gguf(tiny: Any) -> None:
    metadata = {
        "tokenizer.chat_template": "{{ bos_token }}|{{ eos_token }}",
        "tokenizer.ggml.tokens": list(tiny.tokens),
        "tokenizer.ggml.bos_token_id": tiny.tokens.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": tiny.tokens.index("<|im_end|>"),
    }
    template = template_from_gguf(metadata)
    assert template is not None
    assert template.render(MESSAGES) == "<|im_start|>|<|im_end|>"
    assert template_from_gguf({}) is None


def test_from_folder(tmp_path: Path) -> None:
    assert template_from_folder(tmp_path) is None
    settings: dict[str, Any] = {"bos_token": {"content": "<s>"}, "chat_template": "one {{ bos_token }}"}

    def rendered() -> str:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        template = template_from_folder(tmp_path)
        assert template is not None
        return template.render(MESSAGES)

    assert rendered() == "one <s>"
    settings["chat_template"] = [
        {"name": "tool_use", "template": "two"},
        {"name": "default", "template": "three {{ bos_token }}"},
    ]
    assert rendered() == "three <s>"
    (tmp_path / "chat_template.jinja").write_text("four {{ bos_token }}")
    assert rendered() == "four <s>"


def test_senseless_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 5}')
    with pytest.raises(ModelError, match="chat_template is neither"):
        template_from_folder(tmp_path)
