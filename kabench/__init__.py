"""kabench: a keep-alive agent library, and the load-testing toolkit that proves what keep-alive is worth."""

__version__ = "0.1.0"
