"""The reader of pages: what it takes for code, commands, links and headings."""

from __future__ import annotations

import pytest

from tests.docs.pages import Block, anchors, blocks, commands, links

PAGE = """# One page: `mom`, and more

Words with `mom env` and `mom train --out
a` and [a link](b.md#c), `[no](link)`.

    mom train -c demo \\
      --out runs/a      # a comment
    # words of their own
    NAME=1 python -m x --y 'two words'

```python
x = "`mom not --here`"

    # [no](link)
```

* a list
  that goes on

## Second one – 2

    a drawing
"""


def test_blocks_in_order() -> None:
    found = [(b.line, b.kind, b.text.splitlines()[0]) for b in blocks(PAGE)]
    assert found == [
        (1, "span", "mom"),
        (3, "span", "mom env"),
        (3, "span", "mom train --out a"),
        (4, "span", "[no](link)"),
        (6, "indented", "mom train -c demo \\"),
        (12, "python", 'x = "`mom not --here`"'),
        (22, "indented", "a drawing"),
    ]


def test_commands() -> None:
    printed = [commands(block) for block in blocks(PAGE) if block.kind != "python"]
    assert printed == [
        [],
        [],
        ["mom train --out a"],
        [],
        ["mom train -c demo --out runs/a", "NAME=1 python -m x --y 'two words'"],
        [],
    ]
    with pytest.raises(ValueError, match="line 7: a block of commands holds"):
        commands(Block(7, "indented", "mom env --x\nsome output"))


def test_links_and_headings_stand_outside_of_code() -> None:
    assert links(PAGE) == ["b.md#c"]
    assert anchors(PAGE) == {"one-page-mom-and-more", "second-one-2"}


def test_a_fence_that_is_not_closed_is_an_error() -> None:
    with pytest.raises(ValueError, match="the fence in line 2 is not closed"):
        list(blocks("text\n```python\nx = 1\n"))
