"""docs/glossary.md explains every figure of the reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kabench.metrics import FIGURES, METRICS, SIEGE_LINES, Metric

PAGE = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_figure_has_a_row_with_its_label_and_its_name(figure: Metric) -> None:
    name = f"`{figure.name}` " if figure.has_threshold else ""
    assert f"\n| {figure.label} | {name}| " in PAGE


@pytest.mark.parametrize("label", [line.label for _, line in SIEGE_LINES])
def test_a_line_of_siege_is_explained(label: str) -> None:
    assert f"**{label}**" in PAGE.partition("## siege's lines")[2].partition("\n## ")[0]


def test_the_table_of_figures_has_no_name_that_no_figure_has() -> None:
    table = PAGE.partition("## All figures by name")[2].partition("\n## ")[0]
    assert re.findall(r"^\| [^|]+ \| `(\w+)` \|", table, re.MULTILINE) == list(METRICS)
