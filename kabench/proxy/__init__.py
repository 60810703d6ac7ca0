"""The benchmark's proxy: what comes in goes to one target, through the keep-alive agent or through the normal one."""

from kabench.proxy.options import ProxyOptions
from kabench.proxy.server import AgentFigures, Proxy

__all__ = ["AgentFigures", "Proxy", "ProxyOptions"]
