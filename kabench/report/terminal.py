"""The report on a terminal: at most 80 columns, and complete without colour."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.measure import Measurement
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from kabench.histogram import decoded_cells
from kabench.metrics import METRICS, STATISTICS, Place, shown_at
from kabench.report.binds import limit_that_binds
from kabench.report.buckets import Bucket, fitted_buckets, named_buckets
from kabench.report.siege import siege_lines, socket_line
from kabench.report.words import answers_line, counted, headline, unanswered_line, warnings, wrapped
from kabench.result import FIRST_FAILED_STATUS, UNEXPECTED_STATUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from kabench.comparison.thresholds import Outcome
    from kabench.metrics import Metric
    from kabench.result import AgentRun, RunResult, TargetFigures

WIDTH = 80
_BAR_CELLS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SAME_LOAD = ("concurrency", "requests", "delay_s", "rate", "warmup_s")
"""The fields that must be equal in two plans, besides their sockets, for the same load."""

_MOST_SIDE_BY_SIDE = 3
"""With more agents, each has a line instead of a column, because the table would be too wide to read."""

_NO_DECIMALS_FROM = 1000

_MOST_TARGETS_SHOWN = 20

_OUTCOME_STYLES = {"within": "green", "broken": "red", "cannot tell": "yellow"}


def render_result(result: RunResult, published: RunResult | None = None, *, siege: bool = False) -> RenderableType:
    """Return the report of a run: what matters of all agents first, then the details of each, then a summary.

    If the load is that of the `published` benchmark, the report shows its figures, too. `siege` asks for siege's lines;
    the benchmark has them anyway.
    """
    shows_siege = siege or not (result.plan.get("url") or result.plan.get("targets"))
    parts: list[RenderableType] = [Text(printable(headline(result)), style="bold"), Text()]
    parts.append(render_overview(result.runs, result.plan))
    for run in result.runs:
        parts += [Text(), render_agent_run(run, result.plan, siege=shows_siege)]
    if published is not None and _is_same_load(result, published):
        parts += [Text(), _beside(published)]
    return Group(*parts, Text(), _summary(result.runs))


def render_overview(runs: Sequence[AgentRun], plan: Mapping[str, object]) -> RenderableType:
    """Return what matters first: whether it worked, how fast it was, what binds, and the agents side by side."""
    parts: list[RenderableType] = [render_side_by_side(runs) if len(runs) > 1 else _figures_of(runs[0])]
    for run in runs:
        whose = f"{printable(run.agent)}: " if len(runs) > 1 else ""
        parts += [Text(wrapped(f"{whose}{line}", WIDTH)) for line in (answers_line(run), unanswered_line(run)) if line]
        binding = limit_that_binds(run, plan)
        if binding is not None:
            parts.append(Text(wrapped(f"{whose}What binds: {printable(binding.text)}", WIDTH), style="bold"))
        if run.interrupted:
            parts.append(Text(f"{whose}interrupted: the figures are those measured until then", style="yellow"))
        parts += [Text(wrapped(f"{whose}{warning}", WIDTH), style="yellow") for warning in warnings(run, plan)]
    return Group(*parts)


def _figures_of(run: AgentRun) -> RenderableType:
    table = Table.grid(padding=(0, 3, 0, 0))
    for metric in shown_at(Place.SIDE_BY_SIDE):
        table.add_row(metric.label, Text(metric.text_of(run)))
    return table


def _summary(runs: Sequence[AgentRun]) -> RenderableType:
    """Return the last lines, where the cursor is: one an agent."""
    lines = [
        f"{printable(run.agent)}: {METRICS['transaction_rate'].text_of(run)}, p99 {METRICS['p99'].text_of(run)}, "
        f"failed {METRICS['failed_pct'].text_of(run)} of {_due(run)}"
        for run in runs
    ]
    return Text("\n".join(lines), style="bold")


def _due(run: AgentRun) -> int:
    return run.transactions + run.socket_errors + run.not_started


def render_agent_run(run: AgentRun, plan: Mapping[str, object], *, siege: bool = True) -> RenderableType:
    """Return one agent's details: siege's lines if asked for, percentiles, histograms, phases, targets and sockets."""
    parts: list[RenderableType] = [rule(printable(run.agent))]
    parts += [Text("\n".join(siege_lines(run))), Text()] if siege else []
    parts.append(_times(run, is_open=plan.get("rate") is not None))
    if siege and run.buckets:
        parts += [Text(), _heading("Latency, in the buckets of the published benchmark")]
        parts.append(_bars(named_buckets(run.buckets)))
    if "total" in run.hdr:
        parts += [Text(), _heading("Latency, in buckets that fit"), _bars(fitted_buckets(_cells(run)))]
    if run.phases.first_byte.mean is not None:  # else only the total is known
        parts += [Text(), _phases(run)]
    parts += [Text(), Text(wrapped_at_commas(socket_line(run)), style="bold")]
    if run.sockets.tls_handshakes:
        handshakes = counted(run.sockets.tls_handshakes, "handshake")
        parts.append(Text(f"TLS: {handshakes}, {run.sockets.tls_resumed} of them resumed"))
    if run.client.cpu_us_per_transaction is not None:
        parts.append(Text(_client_line(run), style="dim"))
    if len(run.client.workers) > 1:
        parts += [Text(), _workers(run)]
    if len(run.targets) > 1:
        parts += [Text(), _targets(run)]
    if run.errors or run.successful_transactions < run.transactions:
        parts += [Text(), _errors(run)]
    return Group(*parts)


_OUTCOME_WORDS = {"within": "passed", "broken": "BROKEN"}


def render_side_by_side(runs: Sequence[AgentRun]) -> RenderableType:
    """Return the agents side by side, with the ratio of each to the first, as in thresholds and comparisons."""
    first, *others = [printable(run.agent) for run in runs]
    is_wide = len(runs) > _MOST_SIDE_BY_SIDE
    rows = []
    for metric in shown_at(Place.SIDE_BY_SIDE):
        figures = [metric.number(metric.of(run)) for run in runs]
        decimals = metric.number_decimals
        digits = [0 if is_wide and figure and figure >= _NO_DECIMALS_FROM else decimals for figure in figures]
        cells = [
            _cell(metric, run) if figure is None else f"{figure:.{n}f}"
            for run, figure, n in zip(runs, figures, digits, strict=True)
        ]
        ratios = ["-" if figure is None or not figures[0] else _ratio(figure / figures[0]) for figure in figures[1:]]
        rows.append([metric.short if is_wide else metric.heading, *cells, *ratios])
    if is_wide:
        _, *body = list(zip(["", first, *others, *others], *rows, strict=True))
        header = ("", *(row[0] for row in rows))
        body.insert(len(runs), (f"/ {first}", *[""] * len(rows)))
    else:
        header, body = ("", first, *others, *(f"{other}/{first}" for other in others)), [tuple(row) for row in rows]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=not number, overflow="fold")
    for line in body:
        table.add_row(*line)
    return Group(rule(f"{first} against {', '.join(others)}"), table)


def _cell(metric: Metric, run: AgentRun) -> str:
    """Return what stands in place of a figure that has no value."""
    bound = metric.number(metric.at_least(run)) if metric.at_least is not None else None
    return "-" if bound is None else f"> {bound:.{metric.number_decimals}f}"


def render_outcomes(outcomes: Sequence[Outcome]) -> RenderableType:
    """Return the outcomes of thresholds, a line each."""
    lines: list[RenderableType] = [rule("Thresholds")]
    for outcome in outcomes:
        word = _OUTCOME_WORDS.get(outcome.verdict, outcome.verdict)
        lines.append(Text.assemble((word, _OUTCOME_STYLES[outcome.verdict]), f"  {printable(str(outcome))}"))
    return Group(*lines)


def rule(title: str) -> RenderableType:
    """Return a heading over the whole width."""
    return Rule(Text(title, style="bold"), align="left", characters="-", style="dim")


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 or not ratio else f"{ratio:.2g}"


def _is_same_load(result: RunResult, published: RunResult) -> bool:
    ours, theirs = result.plan, published.plan
    if result.id == published.id or any(ours.get(name) for name in ("url", "targets", "stages", "tls")):
        return False
    same_sockets = _agent_option(ours, "max_sockets") == _agent_option(theirs, "max_sockets")
    return same_sockets and all((ours.get(name) or None) == (theirs.get(name) or None) for name in _SAME_LOAD)


def _agent_option(plan: dict[str, object], name: str) -> object:
    options = plan.get("agent_options")
    return options.get(name) if isinstance(options, dict) else None


def _beside(published: RunResult) -> RenderableType:
    keepalive, normal = published.runs
    return Text(
        f"Published by agentkeepalive ({published.environment.cpu_model}, {published.environment.python}):\n"
        f"  keep-alive {keepalive.transaction_rate:.2f} trans/sec, {keepalive.sockets.created} sockets, "
        f"{keepalive.sockets.req_per_socket:.0f} req/socket\n"
        f"  normal     {normal.transaction_rate:.2f} trans/sec, {normal.sockets.created} sockets, "
        f"{normal.sockets.req_per_socket:.2f} req/socket\n"
        "In that benchmark siege drove a proxy, and the agents were behind it. Here the\n"
        "load drives the agents directly, and plain sends one request a socket (1.00).",
        style="dim",
    )


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _times(run: AgentRun, *, is_open: bool) -> RenderableType:
    """Return response and service times side by side, and the lag if requests were due at set times."""
    columns = [("response", run.response_time_s)]
    columns += [(name, s) for name, s in (("service", run.service_time_s), ("lag", run.lag_s)) if s.mean is not None]
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Times (ms)")
    for name, _ in columns:
        table.add_column(name, justify="right", min_width=10)
    for field, name in STATISTICS.items():
        table.add_row(name, *(_ms_text(getattr(stats, field)) for _, stats in columns))
    if len(columns) == 1:
        return table
    begins = "a request was due" if is_open else "a user wanted to send a request"
    explained = f"response: from when {begins} until its last byte; service: from when it was sent"
    if run.lag_s.mean is not None:
        explained += "; lag: how late kabench gave it to the agent"
    return Group(table, Text(wrapped(explained, WIDTH), style="dim"))


def _phases(run: AgentRun) -> RenderableType:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Phases (ms)")
    columns = ("mean", "p50", "p90", "p99", "max")
    for column in columns:
        table.add_column(column, justify="right")
    phases = run.phases
    for name, stats in (
        ("queue", phases.queue),
        ("connect", phases.connect),
        ("first byte", phases.first_byte),
        ("body", phases.body),
        ("total", phases.total),
    ):
        table.add_row(name, *(_ms_text(getattr(stats, column)) for column in columns))
    return table


def _targets(run: AgentRun) -> RenderableType:
    """Return the table of targets: those with the largest share of failures first, then the slowest."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Targets", overflow="fold")
    shown = [METRICS[name] for name in ("transactions", "failed_pct", "p50", "p99")]
    for metric in shown:
        table.add_column(metric.short or metric.label.lower(), justify="right", no_wrap=True)
    by_harm = sorted(run.targets, key=lambda each: (each.failed_pct or 0.0, _slowness(each)), reverse=True)
    for target in by_harm[:_MOST_TARGETS_SHOWN]:
        cells = [metric.text_of_target(target).removesuffix(" ms").removesuffix("%") for metric in shown]
        table.add_row(Text(printable(target.name)), *map(Text, cells))
    left = len(run.targets) - _MOST_TARGETS_SHOWN
    return table if left <= 0 else Group(table, Text(f"and {left} more, in the record", style="dim"))


def _slowness(target: TargetFigures) -> float:
    """Return the p99 of a target; one that falls among the unanswered is slower than any."""
    p99_s = METRICS["p99"].of_target(target) if METRICS["p99"].of_target is not None else None
    return math.inf if p99_s is None else p99_s


def _workers(run: AgentRun) -> RenderableType:
    """Return the table of workers."""
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Workers")
    table.add_column("host")
    for column in ("transactions", "CPU s", "busiest second", "lost after s"):
        table.add_column(column, justify="right")
    for worker in run.client.workers:
        cells = (
            str(worker.transactions),
            "-" if worker.cpu_s is None else f"{worker.cpu_s:.2f}",
            "-" if worker.peak_cpu_pct is None else f"{worker.peak_cpu_pct:.0f} %",
            "" if worker.lost_at_s is None else f"{worker.lost_at_s:.1f}",
        )
        table.add_row(Text(printable(worker.name)), Text(printable(worker.host)), *cells)
    return table


def _bars(buckets: Sequence[Bucket]) -> RenderableType:
    largest = max((bucket.share for bucket in buckets), default=0.0)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(justify="right", min_width=9)
    table.add_column(justify="right", min_width=9)
    table.add_column(justify="right", min_width=8)
    table.add_column(style="cyan", width=_BAR_CELLS)
    for bucket in buckets:
        share = f"{100 * bucket.share:.2f} %"
        bar = _Bar(bucket.share / largest if largest else 0.0)
        table.add_row(Text(printable(bucket.label)), str(bucket.count), share, bar)
    return table


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar in eighths of a block, or of # if the terminal's encoding has no blocks."""

    share: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.ascii_only:
            yield Text("#" * math.ceil(self.share * _BAR_CELLS))
            return
        full, part = divmod(round(self.share * _BAR_CELLS * 8), 8)
        bar = "█" * full + (_EIGHTHS[part] if part else "")
        yield Text(bar if bar or not self.share else _EIGHTHS[1])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_BAR_CELLS, _BAR_CELLS)


def _errors(run: AgentRun) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold red")
    table.add_column("Errors")
    table.add_column("count", justify="right")
    for kind, count in run.errors.items():
        table.add_row(Text(printable(kind.replace("_", " "))), str(count))
    if UNEXPECTED_STATUS not in run.errors:  # else they are counted there
        for status, count in run.status_codes.items():
            if int(status) >= FIRST_FAILED_STATUS:
                table.add_row(f"status {status}", str(count))
    advice = _ADVICE | (_ADVICE_TO_KEEPALIVE if run.agent.startswith("keepalive") else {})
    parts: list[RenderableType] = [table]
    parts += [Text(wrapped(said, WIDTH), style="yellow") for kind, said in advice.items() if kind in run.errors]
    return Group(*parts)


_ADVICE_TO_KEEPALIVE = {
    "local_ports_exhausted": "This machine ran out of local ports, although sockets were kept: the server closes them, "
    "or they are given up. Find out why they close, send fewer requests, or widen net.ipv4.ip_local_port_range.",
}


_ADVICE = {
    "local_ports_exhausted": "This machine ran out of local ports: closed sockets rest for a minute, and a plain agent "
    "needs a new one for each request. Use keepalive, send fewer requests, or widen net.ipv4.ip_local_port_range.",
    "too_many_open_files": "Too many open files: raise the limit (ulimit -n), or use fewer sockets.",
    "certificate_rejected": "The server's certificate was not accepted: name its authority with --cacert FILE.",
    "cut_off": "Cut off: not answered when the time and --grace were over.",
    "bad_answer": "Bad answer: the client's send must return a status (int) and a body (bytes).",
    "stale_socket": "The server closes idle sockets earlier than the agent does: lower --free-socket-timeout.",
}


def _client_line(run: AgentRun) -> str:
    client = run.client
    return (
        f"client: {client.cpu_us_per_transaction or 0:.1f} us CPU per transaction, "
        f"{client.cpu_s:.2f} s in all, {client.max_rss_mb:.0f} MB"
    )


def printable(text: str) -> str:
    """Return a text from a record with ? for each control character, which a terminal might obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def wrapped_at_commas(line: str) -> str:
    """Wrap a list at its commas, so that no item is broken."""
    unbroken = printable(line).replace(" ", "\0").replace(",\0", ", ")
    return "\n".join(textwrap.wrap(unbroken, WIDTH)).replace("\0", " ")


def _cells(run: AgentRun) -> list[tuple[int, int]]:
    return list(decoded_cells(run.hdr["total"]))


def _ms_text(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3f}"
