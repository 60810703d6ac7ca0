"""Sources of requests: what is sent next, made from a plan's targets, bodies and templates. Nothing here sends.

All requests of a load are numbered from 0, and a worker's share says which numbers are its own. The number decides
which target and body are next in turn, and it is the counter of templates. So workers take turns without speaking to
each other, and no two of them send the same counter.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kabench.agent.urls import credentials_of, encoded_url, without_credentials
from kabench.load.plan.templates import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kabench.agent.aio import PreparedRequest
    from kabench.load.plan.plan import LoadPlan
    from kabench.load.plan.share import Share
    from kabench.load.plan.targets import LoadTarget

    Prepare = Callable[[str, str, Sequence[tuple[str, str]], bytes | None], PreparedRequest]


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a client that encodes it itself. `body` is empty where there is none."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class _Choice:
    """Chooses the target and the body of a request by its number."""

    def __init__(self, plan: LoadPlan, own_url: str, share: Share) -> None:
        self.targets = plan.targets_for(own_url)
        self.names = plan.target_names(own_url)
        self.lines = plan.data_lines
        self.random = random.Random(f"{plan.seed}-{share.index}")
        self.numbers = itertools.count(share.index, share.workers)
        is_random = plan.order == "random" or plan.is_weighted
        self._weights = list(itertools.accumulate(target.weight for target in self.targets)) if is_random else None
        self._indexes = range(len(self.targets))

    def target(self, number: int) -> int:
        """Return the index of the target for the request with this number."""
        if self._weights is None:
            return number % len(self._indexes)
        return self.random.choices(self._indexes, cum_weights=self._weights)[0]

    def body(self, number: int) -> int:
        """Return the number of the body, before it is taken modulo the bodies. In turn, each goes to all targets."""
        return number if self._weights is not None else number // len(self.targets)

    def bodies(self, target: LoadTarget) -> Sequence[bytes]:
        """Return all bodies that go to a target in turn."""
        return self.lines or (target.body or b"",)

    def template(self, text: bytes, plan: LoadPlan) -> Template:
        """Return a text as a template; without placeholders, unless the plan has templates."""
        return Template.of(text, self.random) if plan.templates else Template([text], [])


class PreparedSource:
    """Requests encoded for a kabench agent. `only` is the request if all are the same, else None."""

    def __init__(self, plan: LoadPlan, own_url: str, share: Share, prepare: Prepare) -> None:
        self._choice = _Choice(plan, own_url, share)
        self._numbers = self._choice.names.numbers
        self._prepare = prepare
        self._plan = plan
        # Each is made when it is first used: there may be a million lines.
        self._forms: list[list[_Form | None]] = [
            [None] * len(self._choice.bodies(target)) for target in self._choice.targets
        ]
        first = self._form(0, 0)
        self.first = first.prepared
        is_constant = len(self._forms) == 1 and len(self._forms[0]) == 1 and first.wire is None
        self.only = self.first if is_constant else None

    def _form(self, target_index: int, body_index: int) -> _Form:
        form = self._forms[target_index][body_index]
        if form is None:
            target = self._choice.targets[target_index]
            body = self._choice.bodies(target)[body_index]
            form = self._forms[target_index][body_index] = _Form(target, body, self._prepare, self._choice, self._plan)
        return form

    def next(self) -> tuple[PreparedRequest, int]:
        """Return the next request of this worker, and the number of the name that it counts under."""
        number = next(self._choice.numbers)
        index = self._choice.target(number)
        form = self._form(index, self._choice.body(number) % len(self._forms[index]))
        prepared = form.prepared if form.wire is None else form.prepared.with_wire(form.wire.fill(number))
        return prepared, self._numbers[index]


class _Form:
    """An encoded request. Where its bytes differ each time, `wire` makes them."""

    def __init__(self, target: LoadTarget, body: bytes, prepare: Prepare, choice: _Choice, plan: LoadPlan) -> None:
        url = choice.template(target.url.partition("#")[0].encode(), plan)
        content = choice.template(body, plan)
        method = target.method or "GET"
        self.wire: _Wire | None = None
        if url.is_constant and content.is_constant:
            self.prepared = prepare(method, target.url, target.headers, body or None)
            return
        # The URL is encoded with a mark at each placeholder, which no encoding changes; the bytes are cut at the marks.
        mark = f"x{secrets.token_hex(8)}x"
        stand_in = mark.encode() if body else b""
        self.prepared = prepare(method, url.joined_by(mark.encode()).decode(), target.headers, stand_in or None)
        head = self.prepared.wire.removesuffix(stand_in)
        if body:
            before, line_end, after = head.rpartition(b"\r\nContent-Length: %d\r\n" % len(stand_in))
            before += line_end[:2]
        else:
            before, after = head, b""
        self.wire = _Wire(url.in_place_of(mark.encode(), before), after, content if body else None)


class _Wire:
    """The bytes of a request with placeholders: head before Content-Length, head after it, and the body if any."""

    def __init__(self, before: Template, after: bytes, body: Template | None) -> None:
        self._before = before
        self._after = after
        self._body = body

    def fill(self, number: int) -> bytes:
        """Return the bytes of the request with this number."""
        head = self._before.fill(number)
        if self._body is None:
            return head
        body = self._body.fill(number)
        return b"%sContent-Length: %d\r\n%s%s" % (head, len(body), self._after, body)


class RequestSource:
    """Requests for clients that encode them themselves."""

    def __init__(self, plan: LoadPlan, own_url: str, share: Share) -> None:
        self._choice = _Choice(plan, own_url, share)
        self._forms = [
            (
                target,
                self._choice.template(target.url.partition("#")[0].encode(), plan),
                [self._choice.template(body, plan) for body in self._choice.bodies(target)],
            )
            for target in map(_with_credentials, self._choice.targets)
        ]
        self._forms = [
            (dataclasses.replace(target, url=encoded_url(target.url)) if url.is_constant else target, url, bodies)
            for target, url, bodies in self._forms
        ]

    def __iter__(self) -> Iterator[tuple[Request, int]]:
        """Yield each request, and the number of the name that it counts under."""
        for number in self._choice.numbers:
            index = self._choice.target(number)
            target, url, bodies = self._forms[index]
            body = bodies[self._choice.body(number) % len(bodies)]
            sent_to = target.url if url.is_constant else encoded_url(url.fill(number).decode())
            request = Request(target.method or "GET", sent_to, target.headers, body.fill(number))
            yield request, self._choice.names.numbers[index]


def _with_credentials(target: LoadTarget) -> LoadTarget:
    """Return the target with its URL's credentials in a header: kabench's agents send them, not every client does."""
    credentials = credentials_of(target.url)
    headers = target.headers
    if credentials is not None and not any(name.lower() == "authorization" for name, _ in headers):
        headers = (*headers, ("Authorization", credentials))
    return dataclasses.replace(target, url=without_credentials(target.url).partition("#")[0], headers=headers)
