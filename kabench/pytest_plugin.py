"""The pytest plugin: fixtures `echo_server` and `kabench`, and the marker `kabench` for tests that send real load.

pytest loads it wherever kabench is installed, by its entry point, so it imports nothing until a test needs a fixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kabench.comparison.record import Comparison
    from kabench.load import LoadPlan
    from kabench.result import RunResult
    from kabench.server import EmbeddedServer, ServerCounts


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "kabench: sends real load, which takes time; pytest -m 'not kabench' skips these tests"
    )


class EchoServer:
    """The delayed echo server, in one process for http and one for https, each started when first used.

    It answers after 5 ms with what it was sent; `url + "20"` answers after 20 ms, `url + "?size=1000"` with 1000 bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[bool, EmbeddedServer] = {}

    @property
    def url(self) -> str:
        """The server's http URL, with a slash at its end."""
        return self._server(tls=False).url

    @property
    def https_url(self) -> str:
        """The server's https URL. The authority in `cacert` has signed its certificate."""
        return self._server(tls=True).url

    @property
    def cacert(self) -> str:
        """A file with the authority's certificate, made for this session."""
        path = self._folder / "kabench-echo-server-authority.pem"
        path.write_text(self._server(tls=True).ca_data or "")
        return str(path)

    def counts(self, *, https: bool = False) -> ServerCounts:
        """Return the server's counts since its start: requests, sockets, bytes."""
        return self._server(tls=https).counts()

    def stop(self) -> None:
        """End the server's processes."""
        for server in self._servers.values():
            server.stop()

    def _server(self, *, tls: bool) -> EmbeddedServer:
        from kabench.server import EmbeddedServer, ServerOptions

        if tls not in self._servers:
            self._servers[tls] = EmbeddedServer(ServerOptions(tls=tls))
        return self._servers[tls]


class Kabench:
    """`kabench.run` and `kabench.compare` for tests. They take a plan, or its fields by name."""

    def run(self, plan: LoadPlan | None = None, agents: Sequence[str] = ("keepalive",), **load: Any) -> RunResult:
        """Send load through each agent and return the record. Raises as `kabench.run` does.

        `load` has fields of a `LoadPlan` instead of a plan: `url`, `requests`, `duration_s`, `concurrency`, `rate`, ...
        """
        import kabench

        return kabench.run(_plan(plan, load), agents)

    def compare(
        self,
        plan: LoadPlan | None = None,
        agents: Sequence[str] = ("keepalive", "plain"),
        *,
        trials: int | None = None,
        max_time_s: float | None = None,
        **load: Any,
    ) -> Comparison:
        """Compare agents with the first; `comparison.verdict("p99")` has a verdict. Raises as `kabench.compare` does.

        `load` has the same meaning as in `run`.
        """
        import kabench

        return kabench.compare(_plan(plan, load), agents, trials=trials, max_time_s=max_time_s)


def _plan(plan: LoadPlan | None, load: dict[str, Any]) -> LoadPlan:
    from kabench.load import LoadPlan

    if plan is None:
        return LoadPlan(**load)
    if load:
        raise TypeError(f"give a plan, or {', '.join(load)}, not both")
    return plan


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """Return kabench's delayed echo server, for the whole session."""
    server = EchoServer(Path(tmp_path_factory.mktemp("kabench")))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kabench() -> Kabench:
    """Return `kabench.run` and `kabench.compare` as methods that take a plan's fields."""
    return Kabench()
