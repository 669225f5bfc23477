"""What this room raises. All are `ValueError`s whose message names the file, the field and the limit."""

from __future__ import annotations


class ModelError(ValueError):
    """A model file that is damaged, incomplete, or asks for something no engine here computes."""


class UnsupportedArchitectureError(ModelError):
    """The model's architecture (or an option of it) is none of those that are built and tested."""


class ModelNotFoundError(ModelError):
    """No model under this path or name, or it could not be fetched; the message says what to do."""


class ChatTemplateError(ModelError):
    """The chat template does not parse, refused the messages, or used something it may not."""
