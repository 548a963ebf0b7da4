"""The configuration file of a daemon: TOML, one key for each option, unknown keys ignored.

Only top-level keys count. A value may be written as TOML has it or, for everything but texts, as a string
in the form of the flag; a duration may be an integer of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nsqkit.options.option import HIDDEN, Option

__all__ = ["LONGEST_FILE", "ConfigFileError", "ConfigValueError", "read_config_file"]

LONGEST_FILE = 1 << 20
"""Bytes: more than any list of addresses needs. A device or a wrong file is noticed, not read on and on."""


class ConfigFileError(Exception):
    """The file cannot be opened, read or understood, or has a word that its option does not know."""


class ConfigValueError(Exception):
    """The file gives an option a value of the wrong type."""


def read_config_file(path: str, options: Iterable[Option]) -> dict[str, Any]:
    """The values that the file at `path` has for these options, by their fields.

    Raises `ConfigFileError` or `ConfigValueError` with the whole reason for the user.
    """
    table = _load(path)
    return {
        option.field: _value(option, table[option.config_name])
        for option in options
        if option.config_name != HIDDEN and option.config_name in table
    }


def _load(path: str) -> dict[str, Any]:
    import tomllib  # here, for most starts have no configuration file

    try:
        with open(path, "rb") as file:
            content = file.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise ConfigFileError(f"failed to load config file {path} - more than {LONGEST_FILE} bytes")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigFileError(f"failed to load config file {path} - {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigFileError(f"failed to load config file {path} - {error}") from error


def _value(option: Option, value: Any) -> Any:
    try:
        return option.kind.from_toml(value)
    except ValueError as error:
        shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
        if option.kind.words:
            raise ConfigFileError(f"failed parsing {option.config_name} {shown}") from error
        raise ConfigValueError(
            f"ERROR: Resolve failed to coerce value {shown} for field {option.config_name} - {error}"
        ) from error
