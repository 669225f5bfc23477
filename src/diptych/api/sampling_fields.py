"""The sampling fields that the dialects share, their limits, and what they mean for the fleet."""

from __future__ import annotations

import secrets
from typing import Annotated

import msgspec
from msgspec import Meta

from diptych.api.http.decoding import refuse_field
from diptych.engine.interface import SamplingParameters

__all__ = ["SamplingFields"]

LOGPROBS_MAX = 20
BIASES_MAX = 1024
_SEED_MASK = 2**63 - 1
# Below this temperature the most likely token is chosen whatever the logits: dividing by it would only
# overflow single precision.
_TEMPERATURE_MIN = 1e-4


class SamplingFields(msgspec.Struct, kw_only=True):
    """None is "not given". OpenAI's own fields first, then the extensions common among open servers."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    exact: bool | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None

    def sampling(
        self, vocabulary_size: int, logprobs: int | None = None, prefix: str = ""
    ) -> SamplingParameters:
        """The parameters for the engine. A request without a seed gets a random one here, at the edge.

        Raises `ApiError` naming the field (below `prefix`).
        """
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        top_k = max(0, self.top_k or 0)
        if top_p == 0:
            # No probability mass at all leaves only the most likely token.
            top_p, top_k = 1.0, 1
        return SamplingParameters(
            temperature=temperature if temperature >= _TEMPERATURE_MIN else 0.0,
            top_k=top_k,
            top_p=top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=self._biases(vocabulary_size, prefix),
            logprobs=logprobs,
            seed=secrets.randbits(63) if self.seed is None else self.seed & _SEED_MASK,
        )

    def _biases(self, vocabulary_size: int, prefix: str) -> dict[int, float]:
        field = f"{prefix}logit_bias"
        given = self.logit_bias or {}
        if len(given) > BIASES_MAX:
            raise refuse_field(field, f"at most {BIASES_MAX} entries.")
        biases = {}
        for key, bias in given.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary_size):
                raise refuse_field(
                    field, f"{key[:40]!r} is not a token id of this model (0 to {vocabulary_size - 1})."
                )
            if not -100 <= bias <= 100:
                raise refuse_field(field, f"the bias of token {key} must be from -100 to 100.")
            biases[int(key)] = bias
        return biases
