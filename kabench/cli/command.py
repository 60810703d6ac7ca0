"""`Command`: a command whose help has its options in groups, and that knows the old names of its options.

typer's own help draws the groups as boxes, which leave half of 80 columns for text, and takes twice as long to start.
"""

from __future__ import annotations

import textwrap
from typing import Any

from typer.core import TyperCommand

from kabench.cli.old_names import with_new_names
from kabench.cli.panels import Panel

_MOST_NAME_COLUMNS = 26
"""A longer name has its help on the next line."""

_GAP = 2
"""Columns before a name, and between it and its help."""


class Command(TyperCommand):
    """A command of kabench. What typer calls a rich help panel is the group of an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's types moved between its versions
        """Parse the arguments, old names too."""
        return super().parse_args(ctx, with_new_names(self.name, args))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name in its usage line."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return ["[OPTIONS]", *(_name_of(each) if each.required else f"[{_name_of(each)}]" for each in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write all options and arguments, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {panel: [] for panel in Panel}
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False):
                panel = getattr(parameter, "rich_help_panel", None) or Panel.REST
                groups[panel].append((_name_of(parameter), _text_of(parameter)))
        names = [name for rows in groups.values() for name, _ in rows]
        columns = max((len(name) for name in names if len(name) <= _MOST_NAME_COLUMNS), default=0)
        width = formatter.width - columns - 2 * _GAP
        for panel, rows in groups.items():
            if rows:
                with formatter.section(panel):
                    filled = [(name.ljust(columns), _filled(text, width)) for name, text in rows]
                    formatter.write_dl(filled, col_max=columns, col_spacing=_GAP)


def _filled(text: str, width: int) -> str:
    """Return a text in lines that are broken at blanks only, marked so that they stay as they are."""
    return "\b\n" + textwrap.fill(text, width, break_on_hyphens=False)


def _name_of(parameter: Any) -> str:
    """Return an argument's name, or the names of an option and what its value is."""
    if parameter.param_type_name == "argument":
        return f"{parameter.metavar}..." if parameter.nargs == -1 else str(parameter.metavar)
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        return f"{names}, {', '.join(parameter.secondary_opts)}"
    return names if parameter.is_flag else f"{names} {parameter.metavar or parameter.name.upper()}"


def _text_of(parameter: Any) -> str:
    text = parameter.help or ""
    default = _default_of(parameter)
    return f"{text.removesuffix('.')} ({default})." if default else text


def _default_of(parameter: Any) -> str:
    """Return a default as the user would write it; nothing where there is none, or the help says what happens then."""
    default = parameter.default
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if isinstance(default, bool):
        return ("on" if default else "off") if parameter.secondary_opts else ""
    return "" if default is None else str(default)
