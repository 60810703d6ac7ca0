#!/usr/bin/env bash
# httptools 0.7.1 (llhttp): does a `Connection: close` in the trailers of a chunked response end the connection?
#
# Guess, before it was run: no. RFC 9110 section 6.5.1 forbids a sender to put framing and connection fields into
# trailers, and section 6.5.2 lets a recipient merge a trailer into the headers only if the field's definition allows
# it, so a parser passes the field on and goes on.
#
# Seen: the parser obeys the trailer. should_keep_alive() is False afterwards, and the next response on the same socket
# is an HttpParserError, "Data after `Connection: close`", whatever the head of the first response said. A client that
# asks should_keep_alive() when the head is complete, and keeps the parser with the socket, fails the next request.
#
# For kabench: its agents read responses with a reader of their own, in which trailers have no say (AK-54).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q httptools==0.7.1
"$work/venv/bin/python" - <<'PYTHON'
import httptools

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Seen:
    at_head = None

    def on_headers_complete(self) -> None:
        self.at_head = parser.should_keep_alive()


seen = Seen()
parser = httptools.HttpResponseParser(seen)
parser.feed_data(HEAD + b"2\r\nok\r\n0\r\nConnection: close\r\n\r\n")
print("keep-alive when the head is complete:", seen.at_head)
print("keep-alive when the response is complete:", parser.should_keep_alive())
try:
    parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    found = "read"
except httptools.HttpParserError as error:
    found = f"HttpParserError: {error}"
print("the next response:", found)

other = httptools.HttpResponseParser(Seen())
parser = other
other.feed_data(HEAD + b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n")
other.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
print("with another trailer: read")

assert (seen.at_head, found) == (True, "HttpParserError: Data after `Connection: close`"), "the behaviour has changed"
PYTHON
