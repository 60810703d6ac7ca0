"""The options of an agent on the command line: one block, made from `AgentOptions`, for all commands with an agent.

An option's flag, kind and help text stand with its definition in `kabench.agent.options`.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kabench.agent.options import AgentOptions, OptionKind
from kabench.cli import parse
from kabench.cli.errors import CommandError
from kabench.cli.panels import Panel
from kabench.published import PUBLISHED_FREE_SOCKET_TIMEOUT_S, PUBLISHED_MAX_SOCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kabench.agent.options import Option

OF_A_LOAD = AgentOptions(free_socket_timeout=PUBLISHED_FREE_SOCKET_TIMEOUT_S)
OF_THE_PROXY = AgentOptions(max_sockets=PUBLISHED_MAX_SOCKETS, free_socket_timeout=PUBLISHED_FREE_SOCKET_TIMEOUT_S)
"""The defaults of each block."""

_NO_LIMIT_OF_A_LOAD = f"no limit; {PUBLISHED_MAX_SOCKETS} without URL and rate"
"""What `default_max_sockets` of the plan decides where a load is given no `--max-sockets`."""

_TYPES: dict[OptionKind, tuple[Any, dict[str, Any]]] = {
    OptionKind.DURATION: (float | None, {"parser": parse.duration, "metavar": "TIME"}),
    OptionKind.LIMIT: (int | None, {"min": 1, "metavar": "N"}),
    OptionKind.COUNT: (int | None, {"min": 0, "metavar": "N"}),
    OptionKind.FLAG: (bool, {}),
    OptionKind.CHOICE: (str, {}),
}
"""The type and the settings for typer, by kind of option."""

_OPTIONS = {name: option for name, option in AgentOptions.described().items() if option.help}


def _parameter_of(option: Option) -> str:
    return option.flag.partition("/")[0].removeprefix("--").replace("-", "_")


def agent_parameters(defaults: AgentOptions = OF_A_LOAD) -> list[inspect.Parameter]:
    """Return the block, as keyword parameters that typer understands."""
    shown = {"max_sockets": _NO_LIMIT_OF_A_LOAD} if defaults is OF_A_LOAD else {}
    return [_parameter(option, getattr(defaults, name), shown.get(name)) for name, option in _OPTIONS.items()]


def _parameter(option: Option, default: Any, shown: str | None) -> inspect.Parameter:  # a value that typer takes
    kind: Any  # a type that only typer looks at
    kind, settings = _TYPES[option.kind]
    if option.choices:
        settings = {**settings, "metavar": "|".join(option.choices)}
    annotation = Annotated[
        kind,
        typer.Option(
            option.flag, help=option.help, rich_help_panel=Panel.AGENT, show_default=shown or True, **settings
        ),
    ]
    if option.kind is OptionKind.DURATION and default is not None:
        default = f"{default:g}s"  # typer parses a default like the text that a user gives
    return inspect.Parameter(
        _parameter_of(option), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def agent_options_from(given: Mapping[str, Any]) -> AgentOptions:
    """Return the options made from the block's parameters. Raises `CommandError`, naming the flag."""
    values = {name: given[_parameter_of(option)] for name, option in _OPTIONS.items()}
    try:
        return AgentOptions(**{name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        name, _, why = str(error).partition(":")
        flag = _OPTIONS[name].flag.partition("/")[0] if name in _OPTIONS else name
        raise CommandError(f"{flag}:{why}") from None


def takes_agent_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the proxy's block to a command's parameters, as typer sees them. The command gets one `AgentOptions`."""
    block = agent_parameters(OF_THE_PROXY)
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    parameters = []
    for parameter in own:
        parameters += block if parameter.name == "agent_options" else [as_keyword(parameter)]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        agent_options = agent_options_from({each.name: given.pop(each.name) for each in block})
        command(agent_options=agent_options, **given)

    return with_parameters(wrapped, parameters)


def as_keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return the parameter as a keyword-only one."""
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def with_parameters(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """Have typer see these parameters instead of the command's own."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect's protocol
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
