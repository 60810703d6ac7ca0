"""The findings of a probe as JSON, `kabench/probe/1`: names as in `Findings`, and the settings under `options`."""

from __future__ import annotations

import dataclasses
import json

from kabench.probe.findings import Findings, advice_for
from kabench.redaction import redacted_url

SCHEMA = "kabench/probe/1"


def to_json(found: Findings) -> bytes:
    """Return the document, indented, without what is secret in its URL."""
    advice = advice_for(found)
    record = {
        "schema": SCHEMA,
        **dataclasses.asdict(found),
        "url": redacted_url(found.url),
        "hint_is_true": found.hint_is_true,
        "options": advice.options,
        "reasons": advice.reasons,
    }
    return json.dumps(record, indent=2).encode() + b"\n"
