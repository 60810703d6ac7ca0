"""locust as the engine of more than one machine, and kabench as what its workers send with.

`install` has a locust file print and save kabench's report; `KabenchUser` is a locust user that sends at kabench's
speed. Both take locust (`kabench[locust]`), which replaces Python's blocking calls in the whole process, so they are
loaded when first used.
"""

from __future__ import annotations

__all__: list[str] = []
