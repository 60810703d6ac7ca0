"""Makes a `LoadPlan` from options. If they contradict each other, it raises a `CommandError` that names them."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from kabench.agent.urls import basic, parse_address
from kabench.cli import parse
from kabench.cli.errors import CommandError
from kabench.cli.open_files import within_open_files
from kabench.cli.standard_input import is_standard_input, refuse_two_readers
from kabench.load import AgentSpecError, LoadPlan, PlanError
from kabench.load.clients.specs import check_spec
from kabench.load.plan.pacing import Stage
from kabench.load.plan.plan import default_max_sockets
from kabench.load.plan.targets import LoadTarget, read_requests, read_urls
from kabench.load.workers.local import usable_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from kabench.cli.options import LoadOptions

_LOOPBACK = re.compile(r"https?://([^/@]*@)?(localhost|127\.[0-9.]+|\[::1\])([:/?#]|$)")


def plan_of(options: LoadOptions) -> LoadPlan:
    """Return the plan that the options describe. Raises `CommandError`."""
    _refuse_what_does_not_fit(options)
    targets = _targets(options)
    try:
        plan = _plan(options, targets)
    except PlanError as error:
        raise CommandError(_as_options(str(error))) from None
    _check_files(plan)
    return within_open_files(plan, is_given=options.agent_options.max_sockets is not None)


def check_specs(agents: Sequence[str], plan: LoadPlan) -> None:
    """Raise `CommandError` if an agent does not exist, or cannot carry out the plan."""
    try:
        for spec in agents:
            check_spec(spec, plan)
    except AgentSpecError as error:
        raise CommandError(f"--agent: {error}") from None


def _refuse_what_does_not_fit(options: LoadOptions) -> None:
    """Refuse what a plan cannot notice, or cannot report with the options' names."""
    _refuse_to_read_twice(options)
    given = [
        name
        for name, value in (
            ("a URL", options.urls),
            ("--url-file", options.url_file),
            ("--request-file", options.request_file),
        )
        if value
    ]
    if len(given) > 1:
        raise CommandError(f"{' and '.join(given)}: give only one of them")
    if given and options.delay is not None:
        raise CommandError("--delay is for kabench's own server; leave it out, or leave the URL out")
    if given and options.tls:
        raise CommandError("--tls is for kabench's own server; leave it out, and begin the URL with https://")
    about_tls = (options.cacert, options.cert, options.key, options.insecure)
    is_https = any(url.startswith("https:") for url in options.urls or ()) or options.url_file or options.request_file
    if any(about_tls) and not is_https:
        raise CommandError("--cacert, --cert, --key and --insecure are for https URLs")
    if options.data is not None and options.data_lines is not None:
        raise CommandError("--data and --data-lines: give only one of them")
    if options.max_in_flight is not None and not _is_open(options):
        raise CommandError("--max-in-flight is for --rate")
    if not options.templates and any("{{" in url for url in options.urls or ()):
        raise CommandError("there is {{...}} in the URL; use --templates to fill it in")
    if options.user is not None and any(name.lower() == "authorization" for name, _ in _headers(options)):
        raise CommandError("--user and --header 'Authorization: ...': give only one of them")
    if options.connect_to is not None:
        try:
            parse_address(options.connect_to)
        except ValueError as error:
            raise CommandError(f"--connect-to: {error}") from None


def _refuse_to_read_twice(options: LoadOptions) -> None:
    """Raise `CommandError` if more than one option reads standard input."""
    data = options.data if options.data is not None and options.data.startswith("@") else "@"
    files = {
        "--scenario": options.scenario,
        "--url-file": options.url_file,
        "--request-file": options.request_file,
        "--data": data[1:],
        "--data-lines": options.data_lines,
    }
    refuse_two_readers(option for option, path in files.items() if path and is_standard_input(path))


def _is_open(options: LoadOptions) -> bool:
    return options.rate is not None or any(stage.is_rate for stage in options.stage or ())


def _headers(options: LoadOptions) -> tuple[tuple[str, str], ...]:
    return parse.headers(options.header or [])


def _targets(options: LoadOptions) -> tuple[LoadTarget, ...]:
    if options.url_file is not None:
        return _read("--url-file", options.url_file, read_urls)
    if options.request_file is not None:
        return _read("--request-file", options.request_file, read_requests)
    urls = options.urls or []
    return tuple(LoadTarget(url=url) for url in urls) if len(urls) > 1 else ()


def _read(option: str, path: Path, read: Callable[[Iterable[str]], tuple[LoadTarget, ...]]) -> tuple[LoadTarget, ...]:
    try:
        return read(parse.file_lines(option, path))
    except ValueError as error:
        raise CommandError(f"{option} {path}: {error}") from None


def _plan(options: LoadOptions, targets: tuple[LoadTarget, ...]) -> LoadPlan:
    url = options.urls[0] if options.urls and not targets else None
    has_own_server = url is None and not targets
    lines = () if options.data_lines is None else _body_lines(options.data_lines)
    method = None if options.method is None else options.method.upper()
    headers = _headers(options)
    has_published_body = has_own_server and options.data is None and not lines and method in (None, "POST")
    if has_published_body and not any(name.lower() == "content-type" for name, _ in headers):
        headers = (("Content-Type", "application/json"), *headers)
    if options.user is not None:
        if ":" not in options.user:
            raise CommandError("--user: there is no colon; write NAME:PASSWORD")
        headers = (*headers, ("Authorization", basic(options.user)))
    computed: dict[str, Any] = {
        "url": url,
        "targets": targets,
        "method": method,
        "headers": headers,
        "data": None if options.data is None else parse.data(options.data),
        "data_lines": lines,
        "rate": 0.0 if options.rate is None and _is_open(options) else options.rate,
        "stages": tuple(Stage(stage.duration_s, stage.level) for stage in options.stage or ()),
        "expect_status": tuple(options.expect_status or ()),
        "expect_body": None if options.expect_body is None else options.expect_body.encode(),
        "workers": 1 if options.workers in (None, parse.AUTO) else options.workers,
    }
    if options.agent_options.max_sockets is None:
        sockets = default_max_sockets(has_own_server=has_own_server, is_open=_is_open(options))
        computed["agent_options"] = dataclasses.replace(options.agent_options, max_sockets=sockets)
    plan = LoadPlan(**{**_as_given(options), **computed})
    return _with_all_cores(plan) if options.workers == parse.AUTO else plan


def _as_given(options: LoadOptions) -> dict[str, Any]:
    """Return the fields of the plan that have an option of the same name, for the options that were given."""
    named = {field.name: getattr(options, _option_of(field.name), None) for field in dataclasses.fields(LoadPlan)}
    return {name: value for name, value in named.items() if value is not None}


def _option_of(field_name: str) -> str:
    return field_name.removesuffix("_s")


def _with_all_cores(plan: LoadPlan) -> LoadPlan:
    is_local = all(_LOOPBACK.match(target.url) for target in plan.targets_for("http://127.0.0.1/"))
    workers = usable_workers(plan.most_workers, with_server=is_local or plan.unix_socket is not None)
    return dataclasses.replace(plan, workers=workers)


def _body_lines(path: Path) -> tuple[bytes, ...]:
    lines = parse.text_bytes("--data-lines", path).splitlines()
    if not lines:
        raise CommandError(f"--data-lines {path}: the file is empty")
    return tuple(lines)


def _as_options(message: str) -> str:
    """Return a plan's error with options in place of its fields."""
    fields, colon, rest = message.partition(":")
    names = re.split(r"(?: and |, )", fields)
    if not colon or not all(re.fullmatch(r"[a-z_]+", name) for name in names):
        return message
    options = [f"--{_option_of(name).replace('_', '-')}" for name in names]
    return f"{' and '.join(options)}:{rest}"


def _check_files(plan: LoadPlan) -> None:
    """Raise `CommandError` if certificates or keys cannot be used."""
    tls = plan.tls_options()
    if tls is None:
        return
    try:
        tls.make_context()
    except ValueError as error:
        message = str(error)
        for field, option in (("ca_file:", "--cacert"), ("cert_file:", "--cert"), ("key_file:", "--key")):
            message = message.replace(field, option, 1)
        raise CommandError(message) from None
