"""The agents for threads, on urllib3: pool managers that take their sockets from the agent's book."""

from kabench.agent.sync.agent import KeepAliveAgent, KeepAliveProxyAgent, PlainAgent

__all__ = ["KeepAliveAgent", "KeepAliveProxyAgent", "PlainAgent"]
