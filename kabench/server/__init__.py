"""The delayed echo server: answers after a delay with what it was sent. Knows nothing of the rest of kabench."""

from kabench.http1.client_limits import ClientLimits
from kabench.server.counts import ServerCounts, read_counts
from kabench.server.embedded import EmbeddedServer, ServerError
from kabench.server.faults import Fault, FaultKind
from kabench.server.options import ServerOptions

__all__ = [
    "ClientLimits",
    "EmbeddedServer",
    "Fault",
    "FaultKind",
    "ServerCounts",
    "ServerError",
    "ServerOptions",
    "read_counts",
]
