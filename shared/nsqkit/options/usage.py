"""The text of `--help`, which is also the reference of the options.

Imported only when it is shown. Layout: purpose, example, the grammar of flags, then the options by group, in the
order of their declaration; those without effect come last.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import attrs

from nsqkit.options.kinds import DURATION
from nsqkit.options.option import HIDDEN, Option

__all__ = ["usage"]

_WIDTH = 100


def usage(
    options: Sequence[Option],
    defaults: attrs.AttrsInstance,
    *,
    program: str,
    synopsis: str,
    example: str,
    has_file: bool,
) -> str:
    """The whole help text. `defaults` is a fresh instance, so that computed defaults are shown too."""
    sections = [f"{program} - {synopsis}" if synopsis else program]
    sections.append(f"Usage:\n  {program} [flags]")
    if example:
        sections.append("Example:\n" + textwrap.indent(textwrap.dedent(example).strip("\n"), "  "))
    sections.append("Flags:\n" + textwrap.indent(_grammar(options, has_file), "  "))
    ordered = sorted(options, key=lambda option: option.no_effect)
    for group in dict.fromkeys(option.group for option in ordered):
        members = [_entry(option, defaults, has_file) for option in ordered if option.group == group]
        sections.append(f"{group}:\n" + "\n".join(members))
    return "\n\n".join(sections) + "\n"


def _grammar(options: Sequence[Option], has_file: bool) -> str:
    lines = [
        "-flag value, -flag=value, --flag value and --flag=value are equivalent. A flag without a",
        "placeholder is a switch: --flag turns it on, --flag=false off.",
    ]
    if any(option.kind is DURATION for option in options):
        lines.append("A DURATION is a number with a unit (ns, us, ms, s, m, h): 250ms, 1.5h, 1m30s.")
    if has_file:
        lines += [
            "Nearly all flags can also be set in the TOML file given with --config, with '_' for '-':",
            "--max-msg-size=2048 becomes max_msg_size = 2048. A flag takes precedence over the file.",
        ]
    return "\n".join(lines)


def _entry(option: Option, defaults: attrs.AttrsInstance, has_file: bool) -> str:
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
    if has_file and option.config_name not in (HIDDEN, option.flag.replace("-", "_")):
        text += f" In the file: {option.config_name}."
    indent = " " * 8
    filled = textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    return f"{head}\n{filled}"


def _default(option: Option, defaults: attrs.AttrsInstance) -> str:
    value = getattr(defaults, option.field, None)
    if value is None or value is False:
        return ""
    text = option.kind.to_text(value)
    return f"'{text}'" if text != text.strip() else text
