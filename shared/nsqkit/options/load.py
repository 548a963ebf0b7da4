"""From a command line to an instance of an options class.

Order: the flags are parsed; `-version` then wins over everything; words after the flags are refused; the
configuration file is read; each option takes its value from the flag, else from the file, else from its declaration.

`parse` does all that and ends a program only by raising `ExitError`; `load` prints its texts and exits. Exit codes:
0 for help and version, 2 for a mistake on the command line, 1 for anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

import attrs

from nsqkit.logging import fatal_line, stamped_line
from nsqkit.options.config_file import ConfigFileError, ConfigValueError, read_config_file
from nsqkit.options.daemon import DaemonOptions
from nsqkit.options.flags import FlagError, HelpRequestedError, parse_flags
from nsqkit.options.kinds import BOOL, STRING, FatalValueError
from nsqkit.options.option import GENERAL, HIDDEN, Option, options_of, tables_of
from nsqkit.redact import redacted
from nsqkit.standard_streams import guard_standard_streams

__all__ = ["ExitError", "load", "parse"]

OptionsT = TypeVar("OptionsT", bound=attrs.AttrsInstance)

_VERSION = Option(
    field="-version",  # no attribute's name, so that no field has it
    flag="version",
    config_name=HIDDEN,
    kind=BOOL,
    help="Print the version and exit.",
    group=GENERAL.title,
    placeholder="",
)
_CONFIG = Option(
    field="-config",
    flag="config",
    config_name=HIDDEN,
    kind=STRING,
    help="TOML file with options.",
    group=GENERAL.title,
    placeholder="PATH",
)


class ExitError(Exception):
    """The program is to exit at once, with this code, after writing these texts."""

    def __init__(self, code: int, *, stdout: str = "", stderr: str = "") -> None:
        super().__init__(code, stdout, stderr)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


def parse(
    cls: type[OptionsT],
    argv: Sequence[str],
    *,
    program: str,
    version: str | None = None,
    synopsis: str = "",
    example: str = "",
) -> OptionsT:
    """Read `argv` (without the program's name) and the configuration file that it names; values are not
    validated.

    `version` is the line that `-version` prints (None: there is no such flag), `synopsis` says in a few
    words what the program does, `example` holds lines to copy. Only a `DaemonOptions` has a `-config`. Raises
    `ExitError`.
    """
    has_file = issubclass(cls, DaemonOptions)
    builtin = [_VERSION] * (version is not None) + [_CONFIG] * has_file
    options = [*builtin, *options_of(cls)]
    try:
        flags = parse_flags(options, argv)
        values = flags.values
        if values.pop(_VERSION.field, False):
            raise ExitError(0, stdout=f"{version}\n")
        flags.check_no_arguments()
        path = values.pop(_CONFIG.field, "")
        from_file = read_config_file(path, options, values, tables_of(cls)) if path else {}
    except HelpRequestedError:
        from nsqkit.options.usage import usage  # here, because it is seldom needed

        text = usage(options, cls(), program=program, synopsis=synopsis, example=example, has_file=has_file)
        raise ExitError(0, stderr=text) from None
    except FlagError as error:
        line = f"{redacted(str(error))}; see {program} --help".replace("\n", "\\n")
        raise ExitError(2, stderr=f"{line}\n") from None
    except (FatalValueError, ConfigValueError) as error:
        raise ExitError(1, stderr=stamped_line(str(error))) from error
    except ConfigFileError as error:
        raise ExitError(1, stderr=fatal_line(f"[{program}] ", str(error))) from error
    made = cls(**from_file, **values)
    if isinstance(made, DaemonOptions):
        names = {option.field: option.config_name for option in options}
        names |= {each.field: each.key for each in tables_of(cls)}
        made.origins = {field: f"{names[field]} in {path}" for field in from_file}
    return made


def load(
    cls: type[OptionsT],
    argv: Sequence[str],
    *,
    program: str,
    version: str | None = None,
    synopsis: str = "",
    example: str = "",
) -> OptionsT:
    """The options that `argv` and the configuration file give, as `parse`, or the end of the program.

    Every program begins with this, so its standard streams are guarded here.
    """
    guard_standard_streams()
    try:
        return parse(cls, argv, program=program, version=version, synopsis=synopsis, example=example)
    except ExitError as error:
        print(error.stdout, end="")  # not `sys.stdout.write`: it is None if the program began without
        sys.stderr.write(error.stderr)
        raise SystemExit(error.code) from None
