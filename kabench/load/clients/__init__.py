"""Clients: what sends a load besides kabench's asyncio agents. The contract of a client, its errors, and the peers."""

from kabench.load.clients.contract import BadAnswerError, Client, ClientSettings

__all__ = ["BadAnswerError", "Client", "ClientSettings"]
