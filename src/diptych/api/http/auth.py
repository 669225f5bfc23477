"""Optional bearer keys."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from diptych.api.errors import ApiError, ErrorKind
from diptych.api.http.asgi import HttpRequest

__all__ = ["authenticate"]


def authenticate(request: HttpRequest, keys: Mapping[str, str]) -> str:
    """The tenant of the request's bearer key; "" where no keys are set. Raises `ApiError`.

    Every key is compared, in constant time each, so that the time says nothing about a near miss.
    """
    if not keys:
        return ""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    tenant = None
    if scheme.lower() == "bearer":
        for key, owner in keys.items():
            if hmac.compare_digest(key.encode(), given.strip().encode("latin-1")):
                tenant = owner
    if tenant is None:
        what = "Incorrect API key" if given else "No API key"
        raise ApiError(ErrorKind.UNAUTHENTICATED, f"{what} given; send 'Authorization: Bearer KEY'.")
    return tenant
