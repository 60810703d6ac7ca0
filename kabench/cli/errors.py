"""What a command fails with, and the exit codes."""

from __future__ import annotations

from typing import ClassVar


class CommandError(Exception):
    """Ends a command: the message is what the user reads, `exit_code` what his script does."""

    CANNOT_START: ClassVar[int] = 2
    COULD_NOT_MEASURE: ClassVar[int] = 3
    INTERRUPTED: ClassVar[int] = 130

    def __init__(self, message: str, exit_code: int = CANNOT_START) -> None:
        super().__init__(message)
        self.exit_code = exit_code
