"""The server side of HTTP/1.1 that the echo server and the proxy share: requests, watches, closing, client limits."""
