"""From the bytes of a body to typed requests, with errors that name the field."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from diptych.api.errors import ApiError, ErrorKind

__all__ = ["decode_body", "decode_value", "refuse_field", "reject_unsupported"]

T = TypeVar("T")

_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")
_LOCATION = re.compile(r" - at (?:`(?P<key>key) in )?`?\$?(?P<path>[^`]*)`?$")


def decode_body(body: bytes, kind: type[T]) -> T:
    """The body as `kind`. Raises `ApiError`: MALFORMED where it is no JSON object of the right types,
    INVALID where a value is outside its limits."""
    if not body:
        raise ApiError(ErrorKind.MALFORMED, "The request body is empty; it must be a JSON object.")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise ApiError(
                ErrorKind.MALFORMED, f"The request body is not UTF-8 (byte {error.start})."
            ) from None
    return decode_value(body, kind)


def decode_value(body: bytes | msgspec.Raw, kind: type[T], prefix: str = "") -> T:
    """JSON text as `kind`; `prefix` is the path of the field it was found in."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _field_error(str(error), prefix) from None
    except msgspec.DecodeError as error:
        raise ApiError(ErrorKind.MALFORMED, f"The request body is not valid JSON: {error}.") from None
    except UnicodeDecodeError:
        raise ApiError(ErrorKind.MALFORMED, "The request body is not UTF-8.") from None
    except RecursionError:
        raise ApiError(ErrorKind.MALFORMED, "The request body is nested too deeply.") from None


def _field_error(message: str, prefix: str) -> ApiError:
    found = _LOCATION.search(message)
    path = found["path"].lstrip(".") if found else ""
    text = message[: found.start()] if found else message
    missing = _MISSING.search(text)
    path = ".".join(part for part in (prefix, path, missing["name"] if missing else "") if part)
    # A field found in a nested list: `a.[0]` is written `a[0]`.
    field = path.replace(".[", "[")
    # msgspec writes "Expected `int` >= 1" for values and "Expected `int`, got `str`" for types.
    kind = ErrorKind.MALFORMED if ", got `" in text else ErrorKind.INVALID
    named = f"{field}: {text}." if field else f"Request body: {text}."
    return ApiError(kind, named.replace("`", "'"), field=field or None)


def refuse_field(field: str, message: str) -> ApiError:
    return ApiError(ErrorKind.INVALID, f"{field}: {message}", field=field)


def reject_unsupported(fields: dict[str, Any]) -> None:
    """Raises `ApiError` for the first field that is present and says something."""
    for field, given in fields.items():
        value = given
        if isinstance(given, msgspec.Raw):
            value = decode_value(given, object, field) if bytes(given) else None
        if value is None or value is False or value in ([], {}, ""):
            continue
        raise refuse_field(field, "not supported by this server yet.")
