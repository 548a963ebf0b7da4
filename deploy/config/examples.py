"""Writes the example configuration files in this folder, from the declarations of the daemons' options.

    python deploy/config/examples.py            # after a change of the options
    python deploy/config/examples.py --check    # exit code 1 if a file is out of date

Each option appears once, commented out, with its default: `#name = value`. Prose has a space after the `#`. An option
whose default depends on the machine shows an example instead, and its help says so. What is set makes the three daemons
of one machine a cluster: they know its registry.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from nsqkit.options import (
    BOOL,
    DURATION,
    FLOAT,
    FLOATS,
    HIDDEN,
    INT,
    STRINGS,
    Kind,
    Option,
    options_of,
    tables_of,
)

FOLDER = Path(__file__).parent
WIDTH = 100
PROGRAMS = {
    "nsqd": "nsqd.options:NsqdOptions",
    "nsqlookupd": "nsqlookupd.options:LookupdOptions",
    "nsqadmin": "nsqadmin.options:AdminOptions",
}
EXAMPLES = {
    "id": "1",
}
"""Shown instead of the default, which is computed, or empty and not instructive."""
_REGISTRY = "Set to the nsqlookupd of this machine; name those of the cluster:"
SET = {
    "nsqlookupd_tcp_addresses": ('["127.0.0.1:4160"]', _REGISTRY),
    "nsqlookupd_http_addresses": ('["127.0.0.1:4161"]', _REGISTRY),
    "broadcast_address": (
        '"127.0.0.1"',
        "The default is the host name. Set for one machine alone; for several, give a name or address that all reach:",
    ),
}
"""Not commented out, with the reason. By default a daemon would be alone or not start, and a host's own name need not
be one that can be resolved."""
HEAD = """\
Configuration of {program}. What is commented out has its default, or an example where it says so.
Remove the # in front of what you change. A flag on the command line takes precedence over this file. \
A name that {program} does not know is an error. Durations are strings such as "250ms" or "1m30s", or integers of \
milliseconds. `{program} --help` describes the same options as flags.
"""


def example(program: str) -> str:
    """The whole file for a program."""
    cls = options_class(program)
    blocks = [_comment(HEAD.format(program=program))]
    shown = [option for option in options_of(cls) if option.config_name != HIDDEN]
    for group in dict.fromkeys(option.group for option in shown):
        blocks.append(f"\n# --- {group} ---\n")
        blocks += [_entry(program, option, cls()) for option in shown if option.group == group]
    for tables in tables_of(cls):  # at the end, as a key after a table would belong to it
        text = "".join(f"#{line}\n" for line in tables.example.strip().split("\n"))
        blocks.append(f"\n# --- Tables [[{tables.key}]] ---\n")
        blocks.append(f"{_comment(f'{tables.help} An example:')}{text}")
    return "\n".join(blocks)


def options_class(program: str) -> type[attrs.AttrsInstance]:
    """The class in which the program declares its options."""
    module, _, name = PROGRAMS[program].partition(":")
    cls: type[attrs.AttrsInstance] = getattr(importlib.import_module(module), name)
    return cls


def toml_value(kind: Kind, value: Any) -> str:
    """A value as it is written in the file."""
    if kind is STRINGS:
        return json.dumps(value)
    if kind is FLOATS:
        return f"[{', '.join(map(FLOAT.to_text, value))}]"
    text = kind.to_text(value)
    if kind in (BOOL, INT) or text in ("true", "false"):
        return text
    if kind is DURATION:
        return f'"{_short(text)}"'
    return json.dumps(text.lower() if kind.words else text)


def _short(duration: str) -> str:
    """`1m0s` as people write it: `1m`."""
    for tail in ("m0s", "h0m"):
        if duration.endswith(tail):
            duration = duration[:-2]
    return duration


def _entry(program: str, option: Option, defaults: attrs.AttrsInstance) -> str:
    name = option.config_name
    if name in SET:
        value, reason = SET[name]
        return f"{_comment(f'{option.help} {reason}')}{name} = {value}\n"
    if name in EXAMPLES:
        text, value = f"{option.help} An example:", EXAMPLES[name].format(program=program)
    else:
        text, value = option.help, toml_value(option.kind, getattr(defaults, option.field))
    return f"{_comment(text)}#{name} = {value}\n"


def _comment(text: str) -> str:
    return "".join(f"{line}\n" for line in _comment_lines(text.split("\n")))


def _comment_lines(paragraphs: Iterable[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from textwrap.wrap(
            paragraph, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )


def _differs(program: str) -> bool:
    path, wanted = FOLDER / f"{program}.toml", example(program)
    found = path.read_text() if path.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), str(path), "as it should be")
    )
    return found != wanted


def main() -> None:
    """Write the files, or check them."""
    if "--check" in sys.argv[1:]:
        sys.exit(sum(_differs(program) for program in PROGRAMS))
    for program in PROGRAMS:
        (FOLDER / f"{program}.toml").write_text(example(program))


if __name__ == "__main__":
    main()
