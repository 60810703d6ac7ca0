"""Scenario files: TOML with the names of a command's options, with underscores for dashes.

A file's values become the command's defaults. So the command line overrides them, and typer checks both alike.
"""

from __future__ import annotations

import difflib
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Any

import typer  # noqa: TC002  # typer reads the annotations

from kabench.cli.errors import CommandError
from kabench.cli.old_names import new_key
from kabench.cli.parse import text_bytes
from kabench.cli.standard_input import is_standard_input

_METAVAR_OF_FILES = "FILE"
"""The metavar of options that name a file to read. A scenario's paths for them are relative to its folder."""


def read_scenario(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the command's defaults. Raises `CommandError`, naming the file and the line."""
    if path is None:
        return None
    import tomllib

    try:
        given = tomllib.loads(text_bytes("--scenario", path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"--scenario {path}: {error}") from None
    if "url" in given and "urls" in given:
        raise CommandError(f"--scenario {path}: url and urls: give only one of them")
    if "url" in given:
        given["urls"] = [given.pop("url")]
    given = {new_key(context.command.name, name): value for name, value in given.items()}
    parameters = {parameter.name: parameter for parameter in context.command.params if parameter.name}
    known = parameters.keys() - {"scenario"}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise CommandError(
                f"--scenario {path}: there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        values = _value(parameters[name], value, path)
        takes_several = getattr(parameters[name], "multiple", False) or parameters[name].nargs == -1
        given[name] = [values] if takes_several and not isinstance(values, list) else values
    context.default_map = {**(context.default_map or {}), **given}
    return path


_ALTERNATIVES = (
    ({"requests", "total", "duration", "stage"},) * 2,
    ({"rate"}, {"concurrency", "requests", "cookies"}),
    ({"concurrency"}, {"rate", "arrivals", "max_in_flight"}),
    ({"urls", "url_file", "request_file"}, {"urls", "url_file", "request_file", "delay", "tls"}),
    ({"data", "data_lines"},) * 2,
    ({"cacert", "insecure"},) * 2,
    ({"connect_to", "unix_socket"},) * 2,
)
"""If the command line has an option of the first set, it overrides the scenario's options of the second set."""


def overridden(context: typer.Context) -> set[str]:
    """Return the scenario's options that an alternative on the command line overrides."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    from_file = {name for name, source in sources.items() if source is not None and source.name == "DEFAULT_MAP"}
    return {name for first, others in _ALTERNATIVES if typed & first for name in from_file & others}


def _value(parameter: Any, value: Any, path: Path) -> Any:  # from any value of TOML's to one of typer's
    if isinstance(value, dict):
        raise CommandError(f"--scenario {path}: {parameter.name}: an option's value cannot be a table")
    if isinstance(value, list):
        return [_value(parameter, each, path) for each in value]
    if parameter.metavar == _METAVAR_OF_FILES:
        return _beside(path, str(value))
    if parameter.name == "data" and isinstance(value, str) and value.startswith("@"):
        return f"@{_beside(path, value[1:])}"
    return value


def _beside(scenario: Path, path: str) -> str:
    return path if is_standard_input(path) else str(scenario.parent / path)
