"""What sends besides kabench's asyncio agents: the contract of a client, its errors, and the peers behind it."""

from kabench.load.clients.contract import BadAnswerError, Client, ClientSettings

__all__ = ["BadAnswerError", "Client", "ClientSettings"]
