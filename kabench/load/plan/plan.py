"""`LoadPlan`: the load to be made. It does not say by which agents: the same plan goes through each.

A plan is checked once, when it is made, and never changes, so nobody who gets one checks it again. `share` cuts out a
worker's part; `pacing` says when its requests are due.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kabench.agent import AgentOptions, TlsOptions
from kabench.load.plan.pacing import Ramp, Stage
from kabench.load.plan.record import recorded_targets, recorded_text, recorded_texts, recorded_url
from kabench.load.plan.target_names import TargetNames
from kabench.load.plan.targets import LoadTarget, check_target
from kabench.published import (
    PUBLISHED_BODY,
    PUBLISHED_DELAY_S,
    PUBLISHED_FREE_SOCKET_TIMEOUT_S,
    PUBLISHED_MAX_SOCKETS,
    PUBLISHED_REQUESTS_PER_USER,
    PUBLISHED_USERS,
)
from kabench.redaction import redacted_headers
from kabench.result import FIRST_FINAL_STATUS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Arrivals = Literal["constant", "poisson"]
Order = Literal["turn", "random"]

_CAREFUL_USERS = 10
_CAREFUL_DURATION_S = 10.0
"""The load on somebody's server, and the time of a load at a rate, where nothing else is asked for."""

_SOCKETS_NOT_GIVEN = AgentOptions(free_socket_timeout=PUBLISHED_FREE_SOCKET_TIMEOUT_S)

GIVES_UP_AFTER_S = 10.0
"""A load of which nothing has succeeded for this long ends, unless it is to keep trying."""


def _described(*, recorded: Callable[[Any], object] | None = None, not_for_peers: str = "") -> dict[str, Any]:
    """Return the metadata of a field.

    `recorded` turns its value into what a record may hold. `not_for_peers` names what the field asks for, if only
    kabench's own agents can do it; a plan that sets the field is then refused to peers.
    """
    return {"recorded": recorded, "not_for_peers": not_for_peers}


def default_max_sockets(*, has_own_server: bool, is_open: bool) -> int | None:
    """Return the sockets of a load for which none were given: the published benchmark's, else as many as it needs."""
    return PUBLISHED_MAX_SOCKETS if has_own_server and not is_open else None


class PlanError(ValueError):
    """The plan cannot be carried out. The message says which field is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """The load to be made, and what counts as a failure.

    The default is agentkeepalive's published benchmark, against kabench's own server. With a `url` or `targets` the
    default is careful, because the server is somebody's: 10 users who send GET requests for 10 s.

    There are two models. In the closed model, `concurrency` users send a request, wait for the answer and send again.
    In the open model, which a `rate` asks for, requests are due on a schedule, whether or not earlier ones have been
    answered.

    One stop rule ends the load: `requests`, `total`, `duration_s`, or the last of the `stages`. Without any, the load
    lasts 10 s; in the published benchmark, each user sends 1000 requests.

    Raises `PlanError` for a plan that cannot be carried out.
    """

    # -- which requests

    url: str | None = field(default=None, metadata=_described(recorded=recorded_url))
    """Without `url` and `targets`, requests go to kabench's own echo server."""
    targets: tuple[LoadTarget, ...] = field(default=(), metadata=_described(recorded=recorded_targets))
    """Requests to choose from. What a target leaves open is as the plan says."""
    order: Order | None = None
    """Choose targets in "turn" or at "random"; None: at random if their weights differ, else in turn."""
    method: str | None = None
    """None: POST with a body, else GET; the published benchmark posts."""
    headers: tuple[tuple[str, str], ...] = field(default=(), metadata=_described(recorded=redacted_headers))
    data: bytes | None = field(default=None, metadata=_described(recorded=recorded_text))
    """The body of each request; None: none, or that of the published benchmark if kabench's own server is posted to."""
    data_lines: tuple[bytes, ...] = field(default=(), metadata=_described(recorded=recorded_texts))
    """Bodies to be sent in turn, in place of `data`."""
    templates: bool = False
    """Fill in the placeholders in URLs (path and query) and bodies; see `kabench.load.plan.templates`."""
    cookies: bool = field(default=False, metadata=_described(not_for_peers="users who keep their cookies"))
    """Have each user keep the cookies that it is given."""
    agent_options: AgentOptions = _SOCKETS_NOT_GIVEN
    """Options of the agent. By default, free sockets are kept for 30 s, and the published benchmark has 50 sockets, any
    other load as many as it needs. The workers share limits of sockets."""

    # -- how much load

    concurrency: int | None = None
    """Users of the closed model; None: 1 if there are `stages`, else 10, or the published benchmark's 60."""
    rate: float | None = None
    """Requests/s of the open model; None: the closed model."""
    arrivals: Arrivals = "constant"
    """Requests of the open model are due at equal intervals ("constant") or at random (a "poisson" process)."""
    max_in_flight: int = 10_000
    """While this many requests are in flight, a request that comes due is not sent, and counts as not started."""
    stages: tuple[Stage, ...] = ()
    """Levels that the load reaches in turn, linearly: requests/s from `rate` on, or users from `concurrency` on."""

    # -- how long

    requests: int | None = None
    """Stop rule: requests of each user."""
    total: int | None = None
    """Stop rule: requests of the whole load."""
    duration_s: float | None = None
    """Stop rule: seconds, without the warm-up."""
    stop_after_s: float | None = None
    """Seconds after which a load of `requests` or a `total` ends all the same, without the warm-up."""
    keep_trying: bool = False
    """Go on although nothing has succeeded for `GIVES_UP_AFTER_S` from the start."""
    warmup_s: float = 0.0
    """Seconds of load before measuring begins; they are left out of the figures."""
    grace_s: float = 5.0
    """Seconds that requests in flight may still take when time has ended the load; then they are cut off."""

    # -- how the server is reached

    delay_s: float = PUBLISHED_DELAY_S
    """Seconds after which kabench's own server answers."""
    tls: bool = False
    """Have kabench's own server speak https."""
    cacert: str | None = None
    """File with the authorities that certificates of https servers are verified against; None: the system's."""
    cert: str | None = None
    """File with the client's own certificate, and with its key unless `key` names another file."""
    key: str | None = None
    insecure: bool = False
    """Do not verify certificates."""
    connect_to: str | None = field(default=None, metadata=_described(not_for_peers="another address than the URL's"))
    """`host:port` to connect to, whatever the URL says."""
    unix_socket: str | None = field(default=None, metadata=_described(not_for_peers="Unix sockets"))
    """Path of the Unix socket to connect to, whatever the URL says."""

    # -- what is a failure

    total_timeout_s: float | None = field(
        default=None, metadata=_described(not_for_peers="a limit on the time of a whole request")
    )
    """Seconds that a whole request may take, from when it is due; None: only the agent's own timeouts hold."""
    expect_status: tuple[int, ...] = ()
    """An answer with another status is a failure. If empty, an answer with a status of 400 or more is a failure."""
    expect_body: bytes | None = field(default=None, metadata=_described(recorded=recorded_text))
    """An answer without these bytes in its body is a failure."""

    # -- how it is made

    workers: int = 1
    """Processes that share the load."""
    seed: int = 1
    """Decides what is random: which target is next, what placeholders become, when requests arrive."""

    def __post_init__(self) -> None:
        self._fill_in_what_is_sent()
        options = self.agent_options
        if options is _SOCKETS_NOT_GIVEN:
            sockets = default_max_sockets(has_own_server=self.has_own_server, is_open=self.is_open)
            options = dataclasses.replace(options, max_sockets=sockets)
        # written out, so that the record has it, and clients with another default are given the same
        object.__setattr__(self, "agent_options", dataclasses.replace(options, timeout=options.activity_timeout))
        self._check_load()
        self._check_stop_rule()
        self._check_times()
        self._check_target()
        self._check_shares()

    def _fill_in_what_is_sent(self) -> None:
        """Fill in the body and the method that were left open. A target with a body of its own is a POST, too."""
        data, method = self.data, self.method
        if data is None:
            is_published = self.has_own_server and not self.data_lines and method in (None, "POST")
            data = PUBLISHED_BODY if is_published else b""
        if method is None:
            has_body = self.data is not None or bool(data or self.data_lines)  # an empty body is a body, too
            method = "POST" if has_body else "GET"
            targets = [
                dataclasses.replace(target, method="POST") if target.body and target.method is None else target
                for target in self.targets
            ]
            object.__setattr__(self, "targets", tuple(targets))
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "method", method)

    @property
    def has_own_server(self) -> bool:
        """Whether the load goes to kabench's own server."""
        return self.url is None and not self.targets

    def refused_to_peers(self) -> list[str]:
        """Return what the plan asks for that only kabench's own agents can do, in words."""
        words = [
            each.metadata["not_for_peers"]
            for each in dataclasses.fields(self)
            if each.metadata and getattr(self, each.name)
        ]
        return [each for each in words if each]

    @property
    def is_open(self) -> bool:
        """Whether requests are due on a schedule."""
        return self.rate is not None

    def _check_load(self) -> None:
        if self.rate is None:
            if self.concurrency is None:
                users = PUBLISHED_USERS if self.has_own_server else _CAREFUL_USERS
                object.__setattr__(self, "concurrency", 1 if self.stages else users)
        elif self.concurrency is not None:
            raise PlanError("rate and concurrency: give only one; a rate has no users")
        elif self.cookies:
            raise PlanError("rate and cookies: give only one; cookies belong to a user, and a rate has no users")
        elif not math.isfinite(self.rate) or self.rate < 0 or (self.rate == 0 and not self.stages):
            raise PlanError(f"rate: {self.rate:g} is not a finite number above 0")
        for name, count in (
            ("concurrency", self.concurrency),
            ("requests", self.requests),
            ("total", self.total),
            ("max_in_flight", self.max_in_flight),
            ("workers", self.workers),
        ):
            if count is not None and count < 1:
                raise PlanError(f"{name}: {count} is below 1")
        for stage in self.stages:
            if not (math.isfinite(stage.duration_s) and stage.duration_s > 0):
                raise PlanError(f"stage: its time of {stage.duration_s:g} s is not a finite time above 0")
            if not (math.isfinite(stage.level) and stage.level >= 0):
                raise PlanError(f"stage: its level of {stage.level:g} is not a finite number, 0 or above")
        if self.stages and self.most == 0:
            raise PlanError("stage: all levels are 0, so there is nothing to do")
        if self.arrivals not in ("constant", "poisson"):
            raise PlanError(f"arrivals: {self.arrivals!r} is neither constant nor poisson")
        if self.arrivals != "constant" and self.rate is None:
            raise PlanError("arrivals: only with a rate; users send when they have their answer")

    def _check_stop_rule(self) -> None:
        rules: Mapping[str, object] = {
            "requests": self.requests,
            "total": self.total,
            "duration": self.duration_s,
            "stage": self.stages or None,
        }
        given = [name for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise PlanError(f"{' and '.join(given)}: give only one of them; it says when the load ends")
        if self.is_open and self.requests is not None:
            raise PlanError("requests: are for each user, and a rate has no users; use total or duration")
        if not given and (self.is_open or not self.has_own_server):
            object.__setattr__(self, "duration_s", _CAREFUL_DURATION_S)
        elif not given:
            object.__setattr__(self, "requests", PUBLISHED_REQUESTS_PER_USER)

    def _check_times(self) -> None:
        for name, limit_s in (
            ("duration", self.duration_s),
            ("stop_after", self.stop_after_s),
            ("total_timeout", self.total_timeout_s),
        ):
            if limit_s is not None and not (math.isfinite(limit_s) and limit_s > 0):
                raise PlanError(f"{name}: {limit_s:g} s is not a finite time above 0")
        if self.stop_after_s is not None and self.ends_after_s is not None:
            raise PlanError("stop_after: is for requests and total; a duration or stages end the load anyway")
        for name, seconds in (("delay", self.delay_s), ("warmup", self.warmup_s), ("grace", self.grace_s)):
            if not math.isfinite(seconds) or seconds < 0:
                raise PlanError(f"{name}: {seconds:g} s is not a finite time, 0 or above")

    def _check_target(self) -> None:
        if self.targets and self.url is not None:
            raise PlanError("url and targets: give only one of them")
        if self.tls and not self.has_own_server:
            raise PlanError("tls: is for kabench's own server; begin the URL with https:// instead")
        if self.cacert is not None and self.insecure:
            raise PlanError("cacert and insecure: give only one of them")
        if self.key is not None and self.cert is None:
            raise PlanError("key: needs a cert")
        about_tls = (self.cacert, self.cert, self.insecure or None)
        targets = self.targets_for("http://127.0.0.1/")
        if any(about_tls) and (self.has_own_server or not any(target.url.startswith("https:") for target in targets)):
            raise PlanError("cacert, cert, key and insecure are for https URLs")
        if self.connect_to is not None and self.unix_socket is not None:
            raise PlanError("connect_to and unix_socket: give only one of them")
        if self.has_own_server and (self.connect_to is not None or self.unix_socket is not None):
            raise PlanError("connect_to and unix_socket: are for a URL, not for kabench's own server")
        if self.order not in (None, "turn", "random"):
            raise PlanError(f"order: {self.order!r} is neither turn nor random")
        if self.order == "turn" and self.is_weighted:
            raise PlanError("order: targets with weights are chosen at random")
        if self.data_lines and any(target.body is not None for target in self.targets):
            raise PlanError("data_lines: some targets have a body of their own")
        for status in self.expect_status:
            if not FIRST_FINAL_STATUS <= status <= 999:
                raise PlanError(f"expect_status: {status} is no status code of a final answer")
        for target in targets:
            try:
                check_target(target, templates=self.templates)
            except (TypeError, ValueError) as error:
                raise PlanError(str(error)) from None

    def _check_shares(self) -> None:
        for name, limit in self._shared().items():
            if limit < self.workers:
                raise PlanError(f"workers: {self.workers} of them cannot share {_counted(limit, name)}")

    def _shared(self) -> dict[str, int]:
        """Return the limits of which every worker must get at least one."""
        options = self.agent_options
        limits: dict[str, int | None] = {
            option.called: getattr(options, name) for name, option in options.described().items() if option.is_shared
        }
        limits["requests in flight"] = self.max_in_flight if self.is_open else None
        limits["users"] = None if self.is_open else int(self.most)
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def most_workers(self) -> int:
        """The most workers that can share the load."""
        return min(self._shared().values(), default=1)

    @property
    def ramp(self) -> Ramp:
        """The requests a second, or the users, over time."""
        return Ramp((self.concurrency or 0) if self.rate is None else self.rate, self.stages)

    @property
    def most(self) -> float:
        """The highest level of the load: requests a second, or users."""
        start = (self.concurrency or 0) if self.rate is None else self.rate
        return max([start, *(stage.level for stage in self.stages)])

    @property
    def is_weighted(self) -> bool:
        """Whether some targets are to be chosen more often than others."""
        return len({target.weight for target in self.targets}) > 1

    @property
    def ends_after_s(self) -> float | None:
        """Seconds after the warm-up at which time ends the load; None where a number of requests does."""
        return self.ramp.duration_s if self.stages else self.duration_s

    @property
    def time_limit_s(self) -> float | None:
        """Seconds after the warm-up at which the load ends at the latest; None if only a number of requests ends it."""
        return self.stop_after_s if self.ends_after_s is None else self.ends_after_s

    @property
    def expected_transactions(self) -> int | None:
        """The number of requests that the plan sends; None where time ends it."""
        if self.requests is not None:
            return self.requests * (self.concurrency or 0)
        return self.total

    def targets_for(self, own_url: str) -> list[LoadTarget]:
        """Return all targets with everything filled in; `own_url` is that of kabench's own server, if it is used."""
        given = self.targets or (LoadTarget(url=self.url or own_url),)
        return [
            LoadTarget(
                url=target.url,
                method=target.method or self.method,
                headers=(*self.headers, *target.headers),
                body=self.data if target.body is None else target.body,
                weight=target.weight,
                name=target.name,
            )
            for target in given
        ]

    def target_names(self, own_url: str) -> TargetNames:
        """Return the names under which the targets count."""
        return TargetNames(self.targets_for(own_url), templates=self.templates)

    def tls_options(self, ca_data: str | None = None) -> TlsOptions | None:
        """Return how https sockets are secured; None: by default. `ca_data`: the authority of kabench's own server."""
        options = TlsOptions(
            verify=not self.insecure,
            ca_file=self.cacert,
            ca_data=ca_data,
            cert_file=self.cert,
            key_file=self.key,
        )
        return None if options == TlsOptions() else options

    def as_record(self) -> dict[str, Any]:  # JSON
        """Return every field as JSON holds it, without secrets; long bodies and lists are cut."""
        whole: dict[str, Any] = msgspec.to_builtins(self)
        for each in dataclasses.fields(self):
            recorded = each.metadata.get("recorded")
            if recorded is not None:
                whole[each.name] = recorded(getattr(self, each.name))
            elif isinstance(whole[each.name], tuple):
                whole[each.name] = list(whole[each.name])
        return whole


def _counted(number: int, things: str) -> str:
    """Return "3 sockets over all", or "1 socket over all"."""
    if number == 1:
        things = re.sub(r"\b(socket|user|request)s\b", r"\1", things)
    return f"{number} {things}"
