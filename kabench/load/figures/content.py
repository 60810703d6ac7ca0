"""The decoded content of a response: what a body is once gzip and the like have been taken off. urllib3 decodes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from kabench.agent.aio import ResponseHead


def decoded_content(head: ResponseHead, body: bytes) -> bytes:
    """Return the body without its content coding, or as it is where it has none, or one that cannot be decoded."""
    codings = [value.decode("latin-1") for name, value in head.raw_headers if name.lower() == b"content-encoding"]
    if not codings or not body:
        return body
    try:
        return HTTPResponse(io.BytesIO(body), headers={"Content-Encoding": ", ".join(codings)}, status=head.status).data
    except HTTPError:
        return body
