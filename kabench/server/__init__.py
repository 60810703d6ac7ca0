"""The delayed echo server: answers after a delay with what it was sent. Knows nothing of the rest of kabench."""

from kabench.server.counts import ServerCounts
from kabench.server.embedded import EmbeddedServer, ServerError
from kabench.server.options import ServerOptions

__all__ = ["EmbeddedServer", "ServerCounts", "ServerError", "ServerOptions"]
