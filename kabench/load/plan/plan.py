"""`LoadPlan`: what load is to be made. It does not say by which agents; the same plan goes through each."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kabench.agent import AgentOptions, TlsOptions
from kabench.load.plan.pacing import Ramp, Stage
from kabench.load.plan.record import recorded_targets, recorded_text, recorded_texts, recorded_url
from kabench.load.plan.targets import LoadTarget, check_target
from kabench.published import (
    PUBLISHED_BODY,
    PUBLISHED_DELAY_S,
    PUBLISHED_FREE_SOCKET_TIMEOUT_S,
    PUBLISHED_MAX_SOCKETS,
    PUBLISHED_REQUESTS_A_USER,
    PUBLISHED_USERS,
)
from kabench.redaction import redacted_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Arrivals = Literal["constant", "poisson"]
Order = Literal["turn", "random"]

_DEFAULT_OPEN_DURATION_S = 10.0


def _described(*, recorded: Callable[[Any], object] | None = None, not_for_peers: str = "") -> dict[str, Any]:
    """Return the metadata of a field.

    `recorded` makes of its value what a record may hold. `not_for_peers` says in words what only kabench's own agents
    can be told; a peer is refused where it is asked for.
    """
    return {"recorded": recorded, "not_for_peers": not_for_peers}


class PlanError(ValueError):
    """A plan that cannot be carried out; it says which field is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Load in the closed model, `concurrency` users who send, wait for the answer and send again; or, with a `rate`,
    in the open model, requests that are due on a schedule, answers or not. The default is agentkeepalive's published
    benchmark.

    Where to: `url`, or `targets` to choose from (`order`: in turn or at random; at random if they have weights), whose
    own method, headers and body come before `method`, `headers` and `data`; with neither, kabench's own echo server,
    which answers after `delay_s`, over https if `tls`. `data_lines` are bodies that are sent in turn. With `templates`,
    placeholders in URLs (path and query) and bodies are filled in; see `templates`. `cookies`: each user
    keeps those he is given. `connect_to` (`host:port`) and `unix_socket` (a path) are where sockets lead to whatever
    the URL says. `cacert` is a file with the authorities an https URL's certificate is verified against (the system's),
    `insecure` does without, `cert` and `key` are the client's own.

    How much: `rate` in requests/s, with `arrivals` at equal distances or at random (a Poisson process), and at most
    `max_in_flight` under way; what is due when so many are is not started, and counted. `stages` lead linearly from
    `rate`, or from `concurrency` (1 then, unless given), to each one's level in turn.

    How long: at most one stop rule, `requests` for each user, `total` over all, or `duration_s`; stages end with the
    last. With none, 1000 requests for each user, or 10 s in the open model. `warmup_s` comes before all that, and is
    left out of the figures. Where time ends the load, answers that are owed are waited for, `grace_s` at most.

    What is a failure: a status that is not in `expect_status` (without any: of 400 and more), a body without
    `expect_body`. `workers` processes share the load. `seed` is for what is random.

    Raises `PlanError` for what makes no sense.
    """

    url: str | None = field(default=None, metadata=_described(recorded=recorded_url))
    targets: tuple[LoadTarget, ...] = field(default=(), metadata=_described(recorded=recorded_targets))
    order: Order | None = None
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = field(default=(), metadata=_described(recorded=redacted_headers))
    data: bytes = field(default=PUBLISHED_BODY, metadata=_described(recorded=recorded_text))
    data_lines: tuple[bytes, ...] = field(default=(), metadata=_described(recorded=recorded_texts))
    templates: bool = False
    cookies: bool = field(default=False, metadata=_described(not_for_peers="users who keep their cookies"))
    agent_options: AgentOptions = field(
        default_factory=lambda: AgentOptions(
            max_sockets=PUBLISHED_MAX_SOCKETS, free_socket_timeout=PUBLISHED_FREE_SOCKET_TIMEOUT_S
        )
    )
    concurrency: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "constant"
    max_in_flight: int = 10_000
    stages: tuple[Stage, ...] = ()
    requests: int | None = None
    total: int | None = None
    duration_s: float | None = None
    warmup_s: float = 0.0
    grace_s: float = 5.0
    delay_s: float = PUBLISHED_DELAY_S
    tls: bool = False
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
    connect_to: str | None = field(default=None, metadata=_described(not_for_peers="another address than the URL's"))
    unix_socket: str | None = field(default=None, metadata=_described(not_for_peers="Unix sockets"))
    expect_status: tuple[int, ...] = ()
    expect_body: bytes | None = field(default=None, metadata=_described(recorded=recorded_text))
    workers: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        options = self.agent_options
        # said aloud, so that the record has it, and agents that have other defaults are given the same
        object.__setattr__(self, "agent_options", dataclasses.replace(options, timeout=options.activity_timeout))
        self._check_load()
        self._check_stop_rule()
        self._check_times()
        self._check_target()
        self._check_shares()

    def refused_to_peers(self) -> list[str]:
        """Return what of the plan only kabench's own agents can be told, in words."""
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
                object.__setattr__(self, "concurrency", 1 if self.stages else PUBLISHED_USERS)
        elif self.concurrency is not None:
            raise PlanError("rate and concurrency: give only one; with a rate there are no users who wait")
        elif self.cookies:
            raise PlanError("rate and cookies: give only one; cookies are a user's, and with a rate there are none")
        elif not math.isfinite(self.rate) or self.rate < 0 or (self.rate == 0 and not self.stages):
            raise PlanError(f"rate: {self.rate:g} is not above 0")
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
                raise PlanError(f"stage: its time of {stage.duration_s:g} s is not above 0")
            if not (math.isfinite(stage.level) and stage.level >= 0):
                raise PlanError(f"stage: its level of {stage.level:g} is below 0")
        if self.stages and self.most == 0:
            raise PlanError("stage: all levels are 0, so there is nothing to do")
        if self.arrivals not in ("constant", "poisson"):
            raise PlanError(f"arrivals: {self.arrivals!r} is neither constant nor poisson")
        if self.arrivals != "constant" and self.rate is None:
            raise PlanError("arrivals: are for a rate")

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
            raise PlanError("requests: are for each user, and with a rate there are none; use total or duration")
        if not given and self.is_open:
            object.__setattr__(self, "duration_s", _DEFAULT_OPEN_DURATION_S)
        elif not given:
            object.__setattr__(self, "requests", PUBLISHED_REQUESTS_A_USER)

    def _check_times(self) -> None:
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise PlanError(f"duration: {self.duration_s:g} is not above 0")
        for name, seconds in (("delay", self.delay_s), ("warmup", self.warmup_s), ("grace", self.grace_s)):
            if not math.isfinite(seconds) or seconds < 0:
                raise PlanError(f"{name}: {seconds:g} is below 0")

    def _check_target(self) -> None:
        if self.targets and self.url is not None:
            raise PlanError("url and targets: give only one of them")
        has_own_server = self.url is None and not self.targets
        if self.tls and not has_own_server:
            raise PlanError("tls: is for kabench's own server; a URL says it by itself, with https://")
        if self.cacert is not None and self.insecure:
            raise PlanError("cacert and insecure: give only one of them")
        if self.key is not None and self.cert is None:
            raise PlanError("key: goes with a cert")
        about_tls = (self.cacert, self.cert, self.insecure or None)
        targets = self.targets_for("http://127.0.0.1/")
        if any(about_tls) and (has_own_server or not any(target.url.startswith("https:") for target in targets)):
            raise PlanError("cacert, cert, key and insecure are for https URLs")
        if self.connect_to is not None and self.unix_socket is not None:
            raise PlanError("connect_to and unix_socket: give only one of them")
        if has_own_server and (self.connect_to is not None or self.unix_socket is not None):
            raise PlanError("connect_to and unix_socket: are for a URL")
        if self.order not in (None, "turn", "random"):
            raise PlanError(f"order: {self.order!r} is neither turn nor random")
        if self.order == "turn" and self.is_weighted:
            raise PlanError("order: targets with weights are chosen at random")
        if self.data_lines and any(target.body is not None for target in self.targets):
            raise PlanError("data_lines: some targets have a body of their own")
        for status in self.expect_status:
            if not 100 <= status <= 999:
                raise PlanError(f"expect_status: {status} is no status code")
        for target in targets:
            try:
                check_target(target, templates=self.templates)
            except (TypeError, ValueError) as error:
                raise PlanError(str(error)) from None

    def _check_shares(self) -> None:
        for name, limit in self._shared().items():
            if limit < self.workers:
                raise PlanError(f"workers: {self.workers} of them cannot share {limit} {name}")

    def _shared(self) -> dict[str, int]:
        """What every worker must have at least one of."""
        options = self.agent_options
        limits: dict[str, int | None] = {
            option.called: getattr(options, name) for name, option in options.described().items() if option.is_shared
        }
        limits["requests in flight"] = self.max_in_flight if self.is_open else None
        limits["users"] = None if self.is_open else int(self.most)
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def most_workers(self) -> int:
        """As many as can share the load."""
        return min(self._shared().values(), default=1)

    @property
    def ramp(self) -> Ramp:
        """Requests a second, or users, over time."""
        return Ramp((self.concurrency or 0) if self.rate is None else self.rate, self.stages)

    @property
    def most(self) -> float:
        """The highest level of all: requests a second, or users."""
        start = (self.concurrency or 0) if self.rate is None else self.rate
        return max([start, *(stage.level for stage in self.stages)])

    @property
    def is_weighted(self) -> bool:
        """Whether some targets are to be chosen more often than others."""
        return len({target.weight for target in self.targets}) > 1

    @property
    def ends_after_s(self) -> float | None:
        """When time ends the load, without the warm-up; None where a number of requests does."""
        return self.ramp.duration_s if self.stages else self.duration_s

    @property
    def expected_transactions(self) -> int | None:
        """How many requests the plan sends; None where time ends it."""
        if self.requests is not None:
            return self.requests * (self.concurrency or 0)
        return self.total

    def targets_for(self, own_url: str) -> list[LoadTarget]:
        """All targets with everything they need; `own_url` is where kabench's own server is, if it is used."""
        given = self.targets or (LoadTarget(url=self.url or own_url),)
        return [
            LoadTarget(
                url=target.url,
                method=target.method or self.method,
                headers=(*self.headers, *target.headers),
                body=self.data if target.body is None else target.body,
                weight=target.weight,
            )
            for target in given
        ]

    def tls_options(self, ca_data: str | None = None) -> TlsOptions | None:
        """How https sockets are secured; `ca_data` is the authority of kabench's own server. None: by default."""
        options = TlsOptions(
            verify=not self.insecure,
            ca_file=self.cacert,
            ca_data=ca_data,
            cert_file=self.cert,
            key_file=self.key,
        )
        return None if options == TlsOptions() else options

    def as_record(self) -> dict[str, Any]:  # JSON
        """Return every field as JSON has it, without secrets; long bodies and lists are cut."""
        whole: dict[str, Any] = msgspec.to_builtins(self)
        for each in dataclasses.fields(self):
            recorded = each.metadata.get("recorded")
            if recorded is not None:
                whole[each.name] = recorded(getattr(self, each.name))
            elif isinstance(whole[each.name], tuple):
                whole[each.name] = list(whole[each.name])
        return whole
