"""Options that were renamed, so that one thing has one name in all commands. The old spellings still work.

No help mentions them. A new name that is empty stands for an argument without an option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "run": {"--processes": "--workers"},
    "worker": {"--processes": "--workers", "--wait": "--max-wait"},
    "probe": {"--budget": "--max-time", "-b": "--max-time"},
    "serve": {"--max-requests": "--max-requests-per-socket"},
    "proxy": {"--target": "", "-t": ""},
}
"""Old and new names, by command."""

_NO_NAMES: Mapping[str, str] = {}


def with_new_names(command: str | None, arguments: Iterable[str]) -> list[str]:
    """Return the arguments of a command with new names in place of old ones."""
    new_names = _OLD_NAMES.get(command or "", _NO_NAMES)
    renamed: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            renamed.append(argument)
            break
        renamed += _renamed(argument, new_names)
    return [*renamed, *rest]


def _renamed(argument: str, new_names: Mapping[str, str]) -> list[str]:
    name, equals, value = argument.partition("=")
    is_short = argument[:1] == "-" and argument[:2] != "--"
    if is_short:  # its value may follow without anything in between
        name, equals, value = argument[:2], argument[2:3], argument[2:]
    if name not in new_names:
        return [argument]
    new_name = [new_names[name]] if new_names[name] else []
    return [*new_name, value] if equals else new_name


def new_key(command: str | None, key: str) -> str:
    """Return the name that a scenario's key has now."""
    for old, new in _OLD_NAMES.get(command or "", _NO_NAMES).items():
        if new and key == _key(old):
            return _key(new)
    return key


def _key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")
