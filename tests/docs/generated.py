"""The parts of docs/ that are drawn from tables in the source: `make docs` writes them, test_generated.py compares.

In a page such a part is what lies between `<!-- generated: NAME -->` and `<!-- end -->`, each on a line of its own;
`GENERATORS` has a function for each name, which returns the text between them.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

import nsqadmin.access
import nsqd.access
import nsqlookupd.access
from nsqd.broker.life import LIFE, MessageState
from nsqkit.access import Need
from nsqkit.wire import COMMANDS, State
from tests.docs.figures import FIGURES

NeedT = TypeVar("NeedT", Need, nsqadmin.access.Need)

DOCS: Final = Path(__file__).parent.parent.parent / "docs"
PAGES: Final = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]

_PART = re.compile(r"(?m)^<!-- generated: (.*) -->\n(?:.*\n)*?<!-- end -->$")

# What the table of commands does not say, as nothing in the source needs it: how a command is written, and its answer.
PARAMETERS: Final = {
    "SUB": "topic channel",
    "RDY": "count",
    "FIN": "id",
    "REQ": "id ms",
    "TOUCH": "id",
    "PUB": "topic",
    "MPUB": "topic",
    "DPUB": "topic ms",
}
BODIES: Final = {"IDENTIFY": "JSON", "AUTH": "secret", "PUB": "body", "MPUB": "bodies", "DPUB": "body"}
ANSWERS: Final = {
    "IDENTIFY": "`OK` or JSON",
    "AUTH": "JSON",
    "SUB": "`OK`",
    "CLS": "`CLOSE_WAIT`",
    "PUB": "`OK`",
    "MPUB": "`OK`",
    "DPUB": "`OK`",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


# --- commands


def commands() -> str:
    """Commands x states of a connection."""
    names = {command.name for command in COMMANDS.values()}
    assert names >= PARAMETERS.keys() | ANSWERS.keys()
    assert BODIES.keys() == {command.name for command in COMMANDS.values() if command.sized_body}
    rows = []
    for command in COMMANDS.values():
        line = f"`{command.name} {PARAMETERS.get(command.name, '')}".rstrip() + "`"
        body = f" + {BODIES[command.name]}" if command.sized_body else ""
        allowed = [
            "yes" if state in command.states else "ignored" if state in command.ignored else "-"
            for state in State
        ]
        rows.append([line + body, *allowed, ANSWERS.get(command.name, "none")])
    return table(["command", *(f"{state.name.lower()} ({state.value})" for state in State), "answer"], rows)


# --- state machines


S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)


def life(transitions: Mapping[tuple[S, E], S], starts: Mapping[S, str]) -> str:
    """A state machine: a diagram (Mermaid), the meaning of its states, and a table of events x states.

    `transitions`: (state, event) -> state. States and events are shown by their values, and explained by the
    docstrings below their members. `starts`: the states in which it begins, and by what.
    """
    (states,) = {type(state) for state, _ in transitions}
    (events,) = {type(event) for _, event in transitions}
    meanings = _docstrings(states)
    rows = [[_label(state), meanings[state.name]] for state in states if state.name in meanings]
    parts = [_diagram(states, transitions, starts), table(["state", "meaning"], rows) if rows else ""]
    meanings = _docstrings(events)
    rows = []
    for event in events:
        targets = [transitions.get((state, event)) for state in states]
        cells = ["-" if target is None else _label(target) for target in targets]
        rows.append([_label(event), *cells, meanings.get(event.name, "")])
    parts.append(table(["event", *map(_label, states), ""], rows))
    return "\n\n".join(filter(None, parts))


def _diagram(states: Iterable[S], transitions: Mapping[tuple[S, E], S], starts: Mapping[S, str]) -> str:
    arrows: dict[tuple[S, S], list[str]] = defaultdict(list)
    for (state, event), target in transitions.items():
        arrows[state, target].append(_label(event))
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_label(state)}" as {state.name}' for state in states]
    lines += [f"    [*] --> {state.name}: {why}" for state, why in starts.items()]
    lines += [
        f"    {state.name} --> {target.name}: {', '.join(why)}" for (state, target), why in arrows.items()
    ]
    lines += [f"    {state.name} --> [*]" for state in states if not any(state is s for s, _ in transitions)]
    return "\n".join(["```mermaid", *lines, "```"])


def _label(member: enum.Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower().replace("_", " ")


def _docstrings(members: type[enum.Enum]) -> dict[str, str]:
    """Name -> the docstring below it, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(members))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node, below in pairwise(definition.body):
        match node, below:
            case ast.Assign([ast.Name(name)]), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


# --- access


def needs() -> str:
    """Needed scope x what needs it, of each daemon."""
    rows = []
    for need in Need:
        cells = [
            ", ".join([*_requests(daemon.ROUTES, need), *_names(daemon.COMMANDS, need)]) or "-"
            for daemon in (nsqd.access, nsqlookupd.access)
        ]
        rows.append([need.value, *cells])
    return table(["needed", "nsqd", "nsqlookupd"], rows)


def roles() -> str:
    """Role x topics x the requests to the console that need this."""
    needs = sorted(
        dict.fromkeys(nsqadmin.access.ROUTES.values()), key=lambda need: (need.role, need.about.value)
    )
    rows = [
        [
            str(need.role) if need.role else "nothing",
            need.about.value,
            ", ".join(_requests(nsqadmin.access.ROUTES, need)),
        ]
        for need in needs
    ]
    return table(["needed role", "about", "requests"], rows)


def _requests(routes: Mapping[tuple[str, str], NeedT], need: NeedT) -> list[str]:
    """One text for the paths that differ in their end only: `POST /topic/{create,delete}`."""
    methods: dict[str, list[str]] = defaultdict(list)
    for (method, path), each in routes.items():
        if each == need:
            methods[path].append(method)
    ends: dict[str, list[str]] = defaultdict(list)
    for path, several in methods.items():
        start, _, end = path.rpartition("/")
        ends[f"{', '.join(several)} {start}/"].append(end)
    return [
        f"`{start}{found[0]}`" if len(found) == 1 else f"`{start}{{{','.join(found)}}}`"
        for start, found in ends.items()
    ]


def _names(commands: Mapping[str, Need], need: Need) -> list[str]:
    return [f"`{name}`" for name, each in commands.items() if each is need]


# --- pages


def life_of_a_message() -> str:
    """The life of a message in a channel."""
    starts = {MessageState.READY: "PUB, MPUB", MessageState.DEFERRED: "DPUB"}
    return life(LIFE, starts)


GENERATORS: Final[dict[str, Callable[[], str]]] = {
    "commands": commands,
    "life of a message": life_of_a_message,
    "needed roles": roles,
    "needed scopes": needs,
    **FIGURES,
}


def names_in(page: str) -> list[str]:
    """The parts of a page that are generated."""
    return _PART.findall(page)


def regenerated(page: str) -> str:
    """The page with all these parts as they should be. `KeyError` for a name that `GENERATORS` does not have."""
    return _PART.sub(
        lambda part: f"<!-- generated: {part[1]} -->\n{GENERATORS[part[1]]()}\n<!-- end -->", page
    )


def main() -> None:
    """Bring all pages up to date, and name those that were not."""
    for path in PAGES:
        page = path.read_text()
        if (current := regenerated(page)) != page:
            path.write_text(current)
            sys.stdout.write(f"{path.name}: updated\n")


if __name__ == "__main__":
    main()
