"""`LoadPlan`: what load is to be made. It does not say by which agents; the same plan goes through each."""

from __future__ import annotations

import base64
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from kabench.agent import AgentOptions
from kabench.agent.aio.request import parse_url, prepare
from kabench.agent.tls import TlsOptions

PUBLISHED_BODY = (
    b'{"id":1,"name":"agentkeepalive","published":"2020 trans/sec",'
    b'"sockets":50,"users":60,"delay_ms":5,"filler":"xxxxxxxxxxxxxxxxxx"}'
)
"""The JSON body of about 128 bytes that is posted where nothing else is asked for."""

_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"})
_REDACTED = "[redacted]"


class PlanError(ValueError):
    """A plan that cannot be carried out; it says which field is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Load in the closed model: `concurrency` users who send, wait for the answer and send again.

    The default is agentkeepalive's published benchmark. `url` None: kabench's own echo server, which answers after
    `delay_s`, over https if `tls`. `cacert` is a file with the authorities an https URL's certificate is verified
    against (the system's), `insecure` does without. At most one stop rule is given: `requests` for each user, `total`
    over all, or `duration_s`; with none, 1000 requests for each user.

    Raises `PlanError` for what makes no sense.
    """

    url: str | None = None
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    data: bytes = PUBLISHED_BODY
    agent_options: AgentOptions = field(default_factory=lambda: AgentOptions(max_sockets=50, free_socket_timeout=30))
    concurrency: int = 60
    requests: int | None = None
    total: int | None = None
    duration_s: float | None = None
    delay_s: float = 0.005
    tls: bool = False
    cacert: str | None = None
    insecure: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        rules = {"requests": self.requests, "total": self.total, "duration": self.duration_s}
        given = [name for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise PlanError(f"{' and '.join(given)}: give only one of them; it says when the load ends")
        if not given:
            object.__setattr__(self, "requests", 1000)
        for name, count in (("concurrency", self.concurrency), ("requests", self.requests), ("total", self.total)):
            if count is not None and count < 1:
                raise PlanError(f"{name}: {count} is below 1")
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise PlanError(f"duration: {self.duration_s:g} is not above 0")
        if not math.isfinite(self.delay_s) or self.delay_s < 0:
            raise PlanError(f"delay: {self.delay_s:g} is below 0")
        if self.tls and self.url is not None:
            raise PlanError("tls: is for kabench's own server; a URL says it by itself, with https://")
        if self.cacert is not None and self.insecure:
            raise PlanError("cacert and insecure: give only one of them")
        if (self.cacert is not None or self.insecure) and not (self.url or "").startswith("https:"):
            raise PlanError("cacert and insecure are for https URLs")
        if self.workers != 1:
            raise PlanError(f"workers: {self.workers}; one worker is what there is")
        try:
            prepare(self.method, self.url or "http://127.0.0.1/", self.headers, self.data, keep_alive=True)
        except (TypeError, ValueError) as error:
            raise PlanError(str(error)) from None

    def tls_options(self, ca_data: str | None = None) -> TlsOptions | None:
        """How https sockets are secured; `ca_data` is the authority of kabench's own server. None: by default."""
        if self.insecure:
            return TlsOptions(verify=False)
        if ca_data is None and self.cacert is None:
            return None
        return TlsOptions(ca_file=self.cacert, ca_data=ca_data)

    @property
    def expected_transactions(self) -> int | None:
        """How many requests the plan sends; None where time ends it."""
        if self.requests is not None:
            return self.requests * self.concurrency
        return self.total

    def as_record(self) -> dict[str, Any]:  # JSON
        """Every field as JSON has it, without secrets."""
        fields = self._as_json()
        fields["headers"] = [[n, _REDACTED if n.lower() in _SECRET_HEADERS else v] for n, v in self.headers]
        fields["data"] = self.data.decode("utf-8", "replace")
        if self.url is not None and parse_url(self.url).credentials is not None:
            scheme, _, rest = self.url.partition("://")
            fields["url"] = f"{scheme}://{_REDACTED}@{rest.rpartition('@')[2]}"
        return fields

    def to_message(self) -> dict[str, Any]:  # JSON
        """Every field as JSON has it, for a worker: `from_message` has the plan back."""
        fields = self._as_json()
        fields["headers"] = [list(header) for header in self.headers]
        fields["data"] = base64.b64encode(self.data).decode("ascii")
        return fields

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> LoadPlan:
        """The plan that `to_message` made `message` of."""
        fields = dict(message)
        fields["headers"] = tuple((name, value) for name, value in fields["headers"])
        fields["data"] = base64.b64decode(fields["data"])
        fields["agent_options"] = AgentOptions(**fields["agent_options"])
        return cls(**fields)

    def _as_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["agent_options"] = dataclasses.asdict(self.agent_options)
        return fields
