"""A probe's findings as a table, and the agent's settings as Python to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kabench.probe.findings import advice_for, seconds
from kabench.probe.idle import End
from kabench.report.terminal import WIDTH, printable
from kabench.report.words import counted, wrapped

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kabench.probe import Findings
    from kabench.probe.idle import IdleFinding

_ENDS = {End.FIN: "FIN: it closes", End.RST: "RST: it resets", End.SILENCE: "silence: it forgets them"}


def render_probe(found: Findings, shown_url: str) -> RenderableType:
    """Return the whole report."""
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows_of(found):
        table.add_row(name, Text(printable(text)))
    advice = advice_for(found)
    heading = f"{found.method} {shown_url}: {found.status}, HTTP/{found.http_version}"
    parts: list[RenderableType] = [Text(printable(heading + (f", {found.server}" if found.server else "")))]
    if found.interrupted:
        parts.append(Text("interrupted: the findings are those made until then", style="yellow"))
    parts += [Text(), table, Text(), Text("Settings that fit", style="bold"), Text(code_of(found)), Text()]
    parts += [Text(wrapped(reason, WIDTH)) for reason in advice.reasons]
    parts.append(Text(f"{counted(found.requests, 'request')} in {seconds(found.elapsed_s)}", style="dim"))
    return Group(*parts)


def code_of(found: Findings) -> str:
    """Return the settings as Python."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in advice_for(found).options.items())
    return (
        "from kabench.agent import AgentOptions, AsyncKeepAliveAgent\n\n"
        f"agent = AsyncKeepAliveAgent(AgentOptions({arguments}))"
    )


def rows_of(found: Findings) -> list[tuple[str, str]]:
    """Return the findings, each as a name and a sentence."""
    return [
        ("idle timeout", _idle_timeout(found)),
        ("ends with", _end(found.idle) if found.keeps_alive else _ENDS[End.FIN] + ", after each response"),
        ("Keep-Alive hint", _hint(found)),
        ("requests a socket", _count(found)),
        ("in the race", _race(found)),
        ("TLS sessions", _tls(found)),
    ]


def _idle_timeout(found: Findings) -> str:
    idle = found.idle
    if not found.keeps_alive:
        return "none: the server keeps no sockets"
    if idle is None:
        return "not found out"
    if idle.timeout_s is None or idle.high_s is None:
        return f"longer than {seconds(idle.low_s)}"
    if idle.is_exact:
        sockets = counted(idle.sockets, "socket")
        return f"{_exactly(idle.timeout_s)} ({sockets}: {_exactly(idle.low_s)} to {_exactly(idle.high_s)})"
    return f"between {_exactly(idle.low_s)} and {_exactly(idle.high_s)}; a longer --max-time finds it to 5 %"


def _exactly(value_s: float) -> str:
    return f"{value_s:.2f} s" if value_s < 10 else f"{value_s:.1f} s"


def _end(idle: IdleFinding | None) -> str:
    if idle is None or idle.end is None:
        return "not found out"
    if idle.end is not End.SILENCE:
        return _ENDS[idle.end]
    return _ENDS[idle.end] + (", and answers the next bytes with RST" if idle.is_reset_later else ", and never answers")


def _hint(found: Findings) -> str:
    hint = found.hint
    if hint is None:
        return "none"
    verdicts = {True: "true", False: "not true", None: "not known whether it is true"}
    said = []
    if hint.timeout_s is not None:
        said.append(f"timeout={hint.timeout_s:g}: {verdicts[found.hint_is_true]}")
    if hint.max_requests is not None:
        said.append(f"max={hint.max_requests}: {verdicts[found.max_hint_is_true]}")
    return ", ".join(said)


def _count(found: Findings) -> str:
    count = found.count
    if count is None:
        return "not found out"
    if not count.closed:
        return f"{count.requests} at least"
    return f"{count.requests}, then the server closes it" + ("; it says so" if count.announced else " without a word")


def _race(found: Findings) -> str:
    race = found.race
    if race is not None:
        return f"{race.lost} of {counted(race.sent, 'request')} lost, sent within 50 ms of the server's close"
    if found.idle is not None and found.idle.end is End.SILENCE:
        return "lost: nothing tells the client that the socket is gone"
    return "-" if not found.keeps_alive else "not found out: no time was left"


def _tls(found: Findings) -> str:
    if found.tls is None:
        return "-" if not found.url.startswith("https") else "not found out"
    return f"{found.tls.version}, {'resumed' if found.tls.resumed else 'not resumed: each socket is a full handshake'}"
