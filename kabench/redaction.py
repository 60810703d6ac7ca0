"""Pure functions that take secrets, known by their name or place in a URL, out of all that kabench writes and shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from kabench.agent.urls import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"auth|token|secret|passw|passphrase|passcode|pwd|cookie|sess(ion|id)|credential|signature|jwt|[cx]srf"
    r"|((^|[-_])(api|access|private)?|api|access|private)key(id)?$|(^|[-_])(pass|otp|sid|sig)$",
    re.IGNORECASE,
)
_QUERY_VALUE = re.compile(r"([?&#;]([^=&#;?]*)=)([^&#;]*)")
_FORM_VALUE = re.compile(r"((?:^|&)([\w.%\[\]-]+)=)([^&\s]*)")
_JSON_STRING = r'"(?:[^"\\]|\\.)*(?:"|$)'  # one that is cut off, too
_JSON_VALUE = re.compile(rf'("([^"\\]*)"\s*:\s*)({_JSON_STRING}|\[[^\]]*(?:\]|$)|[^\s,{{}}\[\]"]+)', re.DOTALL)


def redacted_url(url: str) -> str:
    """Return a URL without its credentials, and without the values of parameters that are secret by their name."""
    bare = without_credentials(url, f"{REDACTED}@")
    return _QUERY_VALUE.sub(_without_secret, bare)


def redacted_headers(headers: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return headers without the values of those that are secret by their name."""
    return [[name, REDACTED if _SECRET_NAME.search(name) else value] for name, value in headers]


def redacted_text(text: str) -> str:
    """Return text without the values of form fields and JSON members that are secret by their name."""
    return _JSON_VALUE.sub(_without_secret, _FORM_VALUE.sub(_without_secret, text))


def _without_secret(found: re.Match[str]) -> str:
    return found[1] + (REDACTED if _SECRET_NAME.search(unquote(found[2])) else found[3])
