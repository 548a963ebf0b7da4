"""The tables and diagrams in docs/ are those of the source; if a test here fails, `make docs` mends them."""

from __future__ import annotations

import enum
from pathlib import Path

import pytest

from nsqkit.wire import COMMANDS
from tests.docs.generated import GENERATORS, PAGES, commands, life, names_in, regenerated


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_is_current(page: Path) -> None:
    text = page.read_text()
    assert text == regenerated(text), "run `make docs`"


def test_each_part_is_in_one_page() -> None:
    assert sorted(name for page in PAGES for name in names_in(page.read_text())) == sorted(GENERATORS)


def test_a_part_is_replaced_and_the_rest_is_not() -> None:
    page = "a\n<!-- generated: commands -->\nold\n\nold\n<!-- end -->\nb\n<!-- end -->\n"
    assert (
        regenerated(page) == f"a\n<!-- generated: commands -->\n{commands()}\n<!-- end -->\nb\n<!-- end -->\n"
    )
    assert regenerated(regenerated(page)) == regenerated(page)
    empty = "<!-- generated: commands -->\n<!-- end -->"
    assert regenerated(empty) == f"<!-- generated: commands -->\n{commands()}\n<!-- end -->"
    with pytest.raises(KeyError, match="unknown"):
        regenerated(page.replace("commands", "unknown"))


def test_the_table_of_commands() -> None:
    head, _, *rows = commands().splitlines()
    assert head == "| command | init (0) | subscribed (3) | closing (4) | answer |"
    assert len(rows) == len(COMMANDS)
    assert "| `RDY count` | - | yes | ignored | none |" in rows
    assert "| `MPUB topic` + bodies | yes | yes | yes | `OK` |" in rows


class Lamp(enum.Enum):
    OFF = "off"
    """Dark."""
    ON = 1
    BROKEN = "broken for good"
    """Dark,
    and stays so."""


class Hand(enum.Enum):
    PRESS = "press"
    """The switch."""
    DROP = "drop"
    THROW = "throw"


def test_a_state_machine() -> None:
    transitions = {
        (Lamp.OFF, Hand.PRESS): Lamp.ON,
        (Lamp.ON, Hand.PRESS): Lamp.OFF,
        (Lamp.ON, Hand.DROP): Lamp.BROKEN,
        (Lamp.ON, Hand.THROW): Lamp.BROKEN,
    }
    assert (
        life(transitions, {Lamp.OFF: "buy"})
        == """\
```mermaid
stateDiagram-v2
    state "off" as OFF
    state "on" as ON
    state "broken for good" as BROKEN
    [*] --> OFF: buy
    OFF --> ON: press
    ON --> OFF: press
    ON --> BROKEN: drop, throw
    BROKEN --> [*]
```

| state | meaning |
| --- | --- |
| off | Dark. |
| broken for good | Dark, and stays so. |

| event | off | on | broken for good |  |
| --- | --- | --- | --- | --- |
| press | on | off | - | The switch. |
| drop | - | broken for good | - |  |
| throw | - | broken for good | - |  |"""
    )
