"""Public conformance suites: what whoever brings an engine runs before a fleet trusts it.

    from diptych.testing import check_engine
    check_engine(lambda: MyEngine(...))

`check_engine` runs every property of `ENGINE_PROPERTIES` and raises one `AssertionError` that lists all
that failed. Each property is a function over an `EngineTrial`, so that a test can run them one by one.

`check_worker` does the same for whoever schedules for itself and speaks the worker's facts instead
(`WORKER_PROPERTIES` over a `WorkerTrial`); our own machine takes its seat by `MachineSeat`.

`check_transport` does it for whoever copies pages between hosts (`TRANSPORT_PROPERTIES` over a
`TransportBench`).

Pages are never clean here: each trial fills its pool with NaN patterns and another tenant's sequence,
and puts guard bytes around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diptych.engine.interface import Engine
from diptych.testing.engine_rows import ENGINE_PROPERTIES
from diptych.testing.engine_sampling import SAMPLING_PROPERTIES
from diptych.testing.transport_rows import TRANSPORT_PROPERTIES, TransportBench, check_transport
from diptych.testing.trial import EngineProperty, EngineTrial, require
from diptych.testing.worker_rows import WORKER_PROPERTIES, WorkerProperty, WorkerTrial
from diptych.testing.worker_seat import MachineSeat, WorkerSeat

__all__ = [
    "ENGINE_PROPERTIES",
    "SAMPLING_PROPERTIES",
    "TRANSPORT_PROPERTIES",
    "WORKER_PROPERTIES",
    "EngineProperty",
    "EngineTrial",
    "MachineSeat",
    "TransportBench",
    "WorkerProperty",
    "WorkerSeat",
    "WorkerTrial",
    "check_engine",
    "check_transport",
    "check_worker",
]


def check_engine(
    make_engine: Callable[[], Engine],
    *,
    numerics: Sequence[str] | None = None,
    tolerance: float = 0.02,
    seed: int = 0,
) -> None:
    """Runs every property for each numerics id (default: all that the engine offers).

    `make_engine` is called once per numerics id; the engine is closed afterwards. Raises one
    `AssertionError` that names every property that failed, with what was found. `tolerance` and `seed`
    are `EngineTrial`'s.
    """
    failures: list[str] = []
    tried = 0
    remaining = list(numerics) if numerics is not None else None
    while remaining is None or remaining:
        engine = make_engine()
        try:
            if remaining is None:
                remaining = list(engine.capabilities.numerics)
                require(remaining, "capabilities.numerics is empty")
            name = remaining.pop(0)
            properties = ENGINE_PROPERTIES + (SAMPLING_PROPERTIES if engine.capabilities.samples else ())
            tried += len(properties)
            failures += _failures(EngineTrial(engine, name, tolerance=tolerance, seed=seed), properties)
        finally:
            engine.close()
    require(not failures, f"{len(failures)} of {tried} properties fail:\n" + "\n".join(failures))


def _failures(trial: EngineTrial, properties: Sequence[EngineProperty]) -> list[str]:
    failures = []
    for check in properties:
        trial.dirty()
        try:
            check(trial)
        except AssertionError as error:
            failures.append(f"  {check.__name__} ({trial.numerics}): {error}")
        except Exception as error:  # the report should name every property, not end at the first crash
            failures.append(f"  {check.__name__} ({trial.numerics}): raised {type(error).__name__}: {error}")
    return failures


def check_worker(
    make_seat: Callable[[], WorkerSeat], *, model: str, without: Sequence[WorkerProperty] = ()
) -> None:
    """Runs every worker property, each on a fresh worker made by `make_seat`.

    `model` is one that the worker announces. `without` lists properties that its capabilities say it
    cannot keep. Raises one `AssertionError` that names every property that failed, with what was found.
    """
    failures: list[str] = []
    for check in WORKER_PROPERTIES:
        if check in without:
            continue
        seat = make_seat()
        try:
            check(WorkerTrial(seat, model))
        except AssertionError as error:
            failures.append(f"  {check.__name__}: {error}")
        except Exception as error:  # the report should name every property, not end at the first crash
            failures.append(f"  {check.__name__}: raised {type(error).__name__}: {error}")
        finally:
            seat.close()
    require(
        not failures, f"{len(failures)} of {len(WORKER_PROPERTIES)} properties fail:\n" + "\n".join(failures)
    )
