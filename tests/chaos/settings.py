"""The fleets that are attacked. On one machine all of a kind compute the same, so they share answers."""

from __future__ import annotations

from pathlib import Path

from asked import Size
from stage import Setting

PAIR = ("prefill-0", "decode-0")
LEASE_S = 6.0
"""Long enough that a busy machine runs no lease out, short enough that beats tell where the pages are."""
SHORT_LEASE_S = 3.0
"""What `serve` takes by itself."""

_NATIVE = Size(words=110, words_long=560, tokens=40)
NATIVE_REFERENCE = Setting(
    name="native", arguments=("--pool-mib", "512"), workers=PAIR, size=_NATIVE, lease_s=60.0
)
NATIVE = Setting(name="native", arguments=("--pool-mib", "192"), workers=PAIR, size=_NATIVE, lease_s=LEASE_S)
NATIVE_SHORT_LEASE = Setting(
    name="native", arguments=("--pool-mib", "192"), workers=PAIR, size=_NATIVE, lease_s=SHORT_LEASE_S
)
NATIVE_SMALL_POOL = Setting(
    name="native, small pool", arguments=("--pool-mib", "20"), workers=PAIR, size=_NATIVE, lease_s=LEASE_S
)

_PROMPT_TOKEN_S = 400e-6
_STEP_S = 4e-3
_COSTS = (
    "--scripted-prompt-token-us",
    f"{_PROMPT_TOKEN_S * 1e6:g}",
    "--scripted-step-us",
    f"{_STEP_S * 1e6:g}",
)
_SCRIPTED = Size(words=50, words_long=90, tokens=40)
SCRIPTED_REFERENCE = Setting(
    name="scripted",
    arguments=("--scripted", "--pool-mib", "8", "--scripted-step-us", f"{_STEP_S * 1e6:g}"),
    workers=PAIR,
    size=_SCRIPTED,
    lease_s=60.0,
)
SCRIPTED = Setting(
    name="scripted",
    arguments=("--scripted", "--pool-mib", "1", *_COSTS),
    workers=PAIR,
    size=_SCRIPTED,
    lease_s=LEASE_S,
    work_s_per_token=_PROMPT_TOKEN_S,
)
SCRIPTED_SHORT_LEASE = Setting(
    name="scripted",
    arguments=SCRIPTED.arguments,
    workers=PAIR,
    size=_SCRIPTED,
    lease_s=1.5,
    work_s_per_token=_PROMPT_TOKEN_S,
)
SCRIPTED_TWO_EACH = Setting(
    name="scripted, two of each",
    arguments=("--prefill", "scripted:widex2", "--decode", "scripted:narrowx2", "--pool-mib", "1", *_COSTS),
    workers=("prefill-0", "prefill-1", "decode-0", "decode-1"),
    size=_SCRIPTED,
    lease_s=SHORT_LEASE_S,
    work_s_per_token=_PROMPT_TOKEN_S,
)
_UNLIKE = ("--fleet", str(Path(__file__).parent / "unlike.toml"))
UNLIKE_PATIENT = Setting(
    name="scripted, unlike",
    arguments=(*_UNLIKE, "--exact-wait", "300"),
    workers=PAIR,
    size=_SCRIPTED,
    lease_s=LEASE_S,
    work_s_per_token=_PROMPT_TOKEN_S,
)
UNLIKE_IMPATIENT = Setting(
    name="scripted, unlike",
    arguments=(*_UNLIKE, "--exact-wait", "0.5"),
    workers=PAIR,
    size=_SCRIPTED,
    lease_s=LEASE_S,
    work_s_per_token=_PROMPT_TOKEN_S,
)
