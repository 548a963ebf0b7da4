"""The text of `--help`: it teaches, and it is the reference.

Imported only when it is shown. Layout: what the program is for, an example, the grammar of flags in a few
lines, then the options by group, in the order in which the class declares them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import attrs

from nsqkit.options.kinds import DURATION
from nsqkit.options.option import HIDDEN, Option, options_of

__all__ = ["usage"]

_WIDTH = 100


def usage(
    cls: type[attrs.AttrsInstance],
    builtin: Sequence[Option],
    *,
    program: str,
    synopsis: str,
    example: str,
    config_file: bool,
) -> str:
    """The whole help text; defaults are those of a fresh instance, so that computed ones are shown too."""
    options = [*builtin, *options_of(cls)]
    defaults = cls()
    sections = [f"{program} - {synopsis}" if synopsis else program]
    sections.append(f"Usage:\n  {program} [flags]")
    if example:
        sections.append("Example:\n" + textwrap.indent(textwrap.dedent(example).strip("\n"), "  "))
    sections.append("Flags:\n" + textwrap.indent(_grammar(options, config_file), "  "))
    for group in dict.fromkeys(option.group for option in options):
        members = [_entry(option, defaults, config_file) for option in options if option.group == group]
        sections.append(f"{group}:\n" + "\n".join(members))
    return "\n\n".join(sections) + "\n"


def _grammar(options: Sequence[Option], config_file: bool) -> str:
    lines = [
        "One dash or two, the value after a blank or a '='. A flag without a value switches something on;",
        "switch it off with '=false'.",
    ]
    if any(option.kind is DURATION for option in options):
        lines.append("A DURATION is a number with a unit (ns us ms s m h): 250ms, 1.5h, 1m30s.")
    if config_file:
        lines += [
            "All but a few can stand in the TOML file given with --config instead, written with '_' for '-':",
            "--max-msg-size=2048 becomes max_msg_size = 2048. A flag wins over the file.",
        ]
    return "\n".join(lines)


def _entry(option: Option, defaults: attrs.AttrsInstance, config_file: bool) -> str:
    kind = option.kind
    placeholder = option.placeholder
    separator = " " if placeholder and not placeholder.startswith("[") else ""
    head = f"  --{option.flag}{separator}{placeholder}"
    default = _default(option, defaults)
    if default:
        head += f"  (default {default})"
    elif kind.merge is not None:
        head += "  (may be given several times)"
    text = option.help
    if config_file and option.config_name not in (HIDDEN, option.flag.replace("-", "_")):
        text += f" In the file: {option.config_name}."
    return head + "\n" + textwrap.fill(text, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _default(option: Option, defaults: attrs.AttrsInstance) -> str:
    value = getattr(defaults, option.field, None)
    if value is None or value is False:
        return ""
    text = option.kind.to_text(value)
    return f"'{text}'" if text != text.strip() else text
