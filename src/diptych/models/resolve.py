"""From what a person types to a loaded model.

A model is named by the path of a GGUF file, by the path of a folder with `config.json` and safetensors,
by the embedded model's name, or by a Hugging Face id (`owner/name`), in that order.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from diptych.models.chat_template import ChatTemplate, template_from_folder, template_from_gguf
from diptych.models.embedded import EMBEDDED_NAME, fetch_embedded
from diptych.models.errors import ModelNotFoundError
from diptych.models.gguf import config_from_gguf, model_from_gguf
from diptych.models.gguf_file import GgufFile
from diptych.models.safetensors import load_config, load_safetensors
from diptych.models.tokenizer import Tokenizer, tokenizer_from_folder, tokenizer_from_gguf
from diptych.models.weights import Model, ModelConfig

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ("*.json", "*.jinja", "*.safetensors")


class TextModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a door needs of a model: words, not weights."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None for a base model, which has no notion of turns."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker or a one-process program needs: weights and words."""

    model: Model
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None


def load(model: str | Path) -> LoadedModel:
    """The model named `model` (a path or an id), fetched first where need be.

    Raises `ModelNotFoundError` saying what was looked for and what to do, or `ModelError` naming what is
    wrong with the files.
    """
    path, name = locate(model)
    if path.is_dir():
        return LoadedModel(
            model=load_safetensors(path, name=name),
            tokenizer=tokenizer_from_folder(path),
            chat_template=template_from_folder(path),
        )
    file = GgufFile(path)
    return LoadedModel(
        model=model_from_gguf(file, name=name),
        tokenizer=tokenizer_from_gguf(file.metadata, str(path)),
        chat_template=template_from_gguf(file.metadata),
    )


def load_text(model: str | Path) -> TextModel:
    """As `load`, without reading a weight: for the HTTP door, which must be up at once."""
    path, name = locate(model)
    if path.is_dir():
        return TextModel(
            name=name,
            config=load_config(path),
            tokenizer=tokenizer_from_folder(path),
            chat_template=template_from_folder(path),
        )
    file = GgufFile(path)
    return TextModel(
        name=name,
        config=config_from_gguf(file),
        tokenizer=tokenizer_from_gguf(file.metadata, str(path)),
        chat_template=template_from_gguf(file.metadata),
    )


def locate(model: str | Path) -> tuple[Path, str]:
    """The file or folder on this machine, and the name that clients use. May download."""
    text = str(model)
    path = Path(text).expanduser()
    if path.is_file():
        return path, path.stem
    if path.is_dir():
        return path, path.resolve().name
    if text.lower() == EMBEDDED_NAME:
        return fetch_embedded(), EMBEDDED_NAME
    if _HUB_ID.fullmatch(text) and not text.endswith(".gguf"):
        return _from_hub(text), text
    raise ModelNotFoundError(
        f"model {text!r}: no such file or folder, and not an id; give the path of a GGUF file or of a "
        f"folder with config.json, {EMBEDDED_NAME!r}, or a Hugging Face id such as 'owner/name'"
    )


def _from_hub(model_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelNotFoundError(
            f"model {model_id!r} is a Hugging Face id, which needs the optional package huggingface_hub: "
            "pip install 'diptych[hub]'"
        ) from None
    try:
        return Path(snapshot_download(model_id, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the package lets its HTTP client's exceptions through
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelNotFoundError(
            f"model {model_id!r} could not be fetched from Hugging Face: {first_line}. "
            "If this machine is offline, give the path of a folder that holds the model"
        ) from error
