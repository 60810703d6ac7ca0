"""`KeepAliveAdapter`: the keep-alive agent under requests. Needs requests, which is not imported by anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import DEFAULT_POOLSIZE, DEFAULT_RETRIES, HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import InvalidHeader

from kabench.agent.options import AgentOptions, refuse_response_limit
from kabench.agent.sync.agent import KeepAliveAgent, KeepAliveProxyAgent
from kabench.agent.sync.errors import UntrustedLengthError
from kabench.agent.sync.pool import as_adapter_default

if TYPE_CHECKING:
    from typing import Unpack

    from requests import PreparedRequest, Response
    from urllib3 import Retry

    from kabench.agent.events import EventListener
    from kabench.agent.options import AgentOptionArguments


class KeepAliveAdapter(HTTPAdapter):
    """A transport adapter whose sockets a `KeepAliveAgent` keeps.

    session = requests.Session()
    session.mount("https://", KeepAliveAdapter(max_sockets=50, free_socket_timeout="4s"))
    session.mount("http://", session.get_adapter("https://"))

    Takes the options of `AgentOptions`, by name or as `options`; `pool_connections` (origins kept at a time) and
    `max_retries` are requests' own. Where a request gives no timeout, the agent's `connect_timeout` and `timeout` hold,
    if it was given any.

    `agent` is the agent, to ask for its status; a response's `raw.reused_socket` says whether its socket was reused,
    and `kabench.agent.reused_socket(error)` the same of an error.
    """

    agent: KeepAliveAgent

    def __init__(
        self,
        options: AgentOptions | None = None,
        *,
        pool_connections: int = DEFAULT_POOLSIZE,
        max_retries: Retry | int = DEFAULT_RETRIES,
        on_event: EventListener | None = None,
        **given: Unpack[AgentOptionArguments],
    ) -> None:
        options = AgentOptions.chosen(options, given)
        refuse_response_limit(options)
        self._options = options
        self._on_event = on_event
        super().__init__(pool_connections=pool_connections, max_retries=max_retries)

    __attrs__ = [*HTTPAdapter.__attrs__, "_options"]  # noqa: RUF012  # requests' name for what is pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._options, self._on_event = state["_options"], None  # a listener is not pickled
        super().__setstate__(state)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Make the agent. Called by requests; `maxsize` and `block` have no effect, since the agent has its options."""
        self._pool_connections, self._pool_maxsize, self._pool_block = connections, maxsize, block
        self.agent = self.poolmanager = KeepAliveAgent(
            connections, options=self._options, on_event=self._on_event, **pool_kwargs
        )

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:  # as requests declares it
        """Return the agent behind a proxy; for a SOCKS proxy, requests' own manager. Called by requests."""
        if proxy.lower().startswith("socks"):
            return super().proxy_manager_for(proxy, **proxy_kwargs)
        if proxy not in self.proxy_manager:
            self.proxy_manager[proxy] = KeepAliveProxyAgent(
                proxy,
                self._pool_connections,
                proxy_headers=self.proxy_headers(proxy),
                options=self._options,
                on_event=self._on_event,
                **proxy_kwargs,
            )
        return self.proxy_manager[proxy]

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,  # whatever requests takes
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send a request as requests' own adapter does, with the agent's timeouts where `timeout` is None."""
        if timeout is None:
            timeout = self.agent.default_timeout
        as_adapter_default(self.max_retries)
        try:
            return super().send(request, stream, timeout, verify, cert, proxies)
        except RequestsConnectionError as error:
            if error.args and isinstance(error.args[0], UntrustedLengthError):  # as requests does for an InvalidHeader
                raise InvalidHeader(error.args[0], request=request) from error
            raise
