"""Turns the text of `--fault` into a `Fault` of the echo server.

`NAME[:DURATION][:RATE%]` hits that share of the requests or sockets. `NAME:DURATION/PERIOD` hits all of them, for the
last part of each period.
"""

from __future__ import annotations

from kabench.agent.options import parse_duration
from kabench.server.faults import FAULT_KINDS, IN_PERIODS, WITH_TIME, Fault, FaultKind

_EXAMPLES = {
    FaultKind.RESET: "reset:1%",
    FaultKind.CLOSE_MID_BODY: "close-mid-body:0.5%",
    FaultKind.GARBAGE: "garbage:0.1%",
    FaultKind.EXTRA_BYTES: "extra-bytes:0.1%",
    FaultKind.NO_LENGTH: "no-length:5%",
    FaultKind.SLOW_BODY: "slow-body:1s:1%",
    FaultKind.STALL: "stall:1s/5s or stall:1s:1%",
    FaultKind.CLOSE_IDLE: "close-idle:2s or close-idle:2s:10%",
    FaultKind.DROP_IDLE: "drop-idle:2s or drop-idle:2s:10%",
    FaultKind.REFUSE: "refuse:1% or refuse:1s/10s",
}


class FaultError(ValueError):
    """A text does not describe a fault."""


def parse_fault(text: str) -> Fault:
    """Return the fault of a text such as `reset:1%`, `stall:1s/5s` or `slow-body:1s:1%`. Raises `FaultError`."""
    name, *values = text.strip().split(":")
    if name not in FAULT_KINDS:
        raise FaultError(f"{text!r}: there is no fault {name!r}; there are {', '.join(FAULT_KINDS)}")
    kind = FaultKind(name)
    given: dict[str, float] = {}
    for value in values:
        given |= _value(kind, value, text)
    is_complete = "period_s" in given or ("rate" in given and kind not in WITH_TIME) or "duration_s" in given
    if len(given) < len(values) or not is_complete or {"rate", "period_s"} <= given.keys():
        raise _not_understood(kind, text)
    try:
        return Fault(kind, **given)
    except ValueError as error:
        raise FaultError(f"{text!r}: {error}") from None


def _value(kind: FaultKind, value: str, text: str) -> dict[str, float]:
    try:
        if value.endswith("%"):
            return {"rate": float(value.removesuffix("%")) / 100}
        if "/" in value and kind in IN_PERIODS:
            duration, _, period = value.partition("/")
            return {"duration_s": parse_duration(duration), "period_s": parse_duration(period)}
        if kind in WITH_TIME:
            return {"duration_s": parse_duration(value)}
    except ValueError:
        pass
    raise _not_understood(kind, text)


def _not_understood(kind: FaultKind, text: str) -> FaultError:
    return FaultError(f"{text!r}: not understood; write for instance {_EXAMPLES[kind]}")
