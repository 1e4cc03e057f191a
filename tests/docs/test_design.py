"""docs/design.md: the functions of a backend are those of its table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from mixture_of_mamba.ops import dispatch

PAGE = (Path(__file__).parents[2] / "docs" / "design.md").read_text()


def functions_by_op() -> dict[str, set[str]]:
    """op -> "name(parameters)" of its backends, as the page's table has them."""
    table: dict[str, set[str]] = {}
    op = ""
    for name, function in re.findall(r"^\|(?: `(\w+)`)? \| `(\w+\([\w, ]+\))` \|", PAGE, re.M):
        op = name or op
        table.setdefault(op, {"why_not(inputs)"}).add(function)
    return table


def test_the_table_has_every_op() -> None:
    assert set(functions_by_op()) == set(dispatch._REGISTRY)


@pytest.mark.parametrize(
    ("op", "backend"), [(op, name) for op, names in dispatch._REGISTRY.items() for name in names]
)
def test_a_backend_has_the_functions_that_the_page_says(op: str, backend: str) -> None:
    module = dispatch.load(op, backend)
    expected = functions_by_op()[op]
    for function in expected:
        name = function.partition("(")[0]
        parameters = ", ".join(inspect.signature(getattr(module, name)).parameters)
        assert f"{name}({parameters})" == function.replace(
            "(inputs", f"({parameters.split(',')[0]}"
        )
    named = {function.partition("(")[0] for function in expected}
    contract = {name for table in functions_by_op().values() for name in table}
    others = {function.partition("(")[0] for function in contract} - named
    assert not [name for name in others if hasattr(module, name)], "the table lacks it"
