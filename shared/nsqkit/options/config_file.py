"""The configuration file of a daemon: TOML, with one key for each option, and arrays of tables for what has structure.

All keys of options are on the top level. A value may be written as TOML has it or, for all kinds but texts, as a
string in the form of the flag; a duration may be an integer of milliseconds.

The original ignores a key that it does not know. Here it is an error: a misspelt `mem_queue_size` would leave the
default in effect without anybody noticing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nsqkit.decoding import decode_toml
from nsqkit.options.nearest import did_you_mean
from nsqkit.options.option import HIDDEN, Option, Tables

__all__ = ["LONGEST_FILE", "ConfigFileError", "ConfigValueError", "read_config_file"]

LONGEST_FILE = 1 << 20
LONGEST_SHOWN = 200  # characters of a wrong value in an error
"""Bytes: more than any list of addresses needs. A device or a wrong file is noticed after so many."""


class ConfigFileError(Exception):
    """The file cannot be read or parsed, has an unknown key, or a word that its option does not know."""


class ConfigValueError(Exception):
    """The file gives an option a value of the wrong type."""


def read_config_file(
    path: str, options: Collection[Option], given: Collection[str] = (), tables: Collection[Tables] = ()
) -> dict[str, Any]:
    """The values that the file at `path` has, by the options' fields, without the fields in `given`.

    `tables`: the arrays of tables that it may have. Raises `ConfigFileError` or `ConfigValueError` with the whole
    reason for the user.
    """
    table = _load(path)
    _check_keys(path, table, options, tables)
    values = {
        option.field: _value(path, option, table[option.config_name])
        for option in options
        if option.config_name != HIDDEN and option.config_name in table and option.field not in given
    }
    return values | {each.field: _array(path, each, table[each.key]) for each in tables if each.key in table}


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise ConfigFileError(f"failed to load config file {path} - more than {LONGEST_FILE} bytes")
        return decode_toml(content.decode())
    except OSError as error:
        raise ConfigFileError(f"failed to load config file {path} - {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigFileError(f"failed to load config file {path} - {error}") from error


def _check_keys(
    path: str, table: dict[str, Any], options: Collection[Option], tables: Collection[Tables]
) -> None:
    """Raise `ConfigFileError` if no option, and no array of tables, has one of these names."""
    spelled_as_flag = {option.flag.replace("-", "_"): option for option in options}
    known = {option.config_name for option in options} - {HIDDEN}
    known |= {key for key, option in spelled_as_flag.items() if option.no_effect}
    arrays = {each.key for each in tables}
    known |= arrays
    unknown = [key for key in table if key not in known]
    if not unknown:
        return
    first, others = unknown[0], len(unknown) - 1
    value = table[first]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        hint = did_you_mean(first, arrays)
    elif isinstance(value, dict):
        hint = " (a section: all keys are on the top level)"
    elif first in spelled_as_flag and spelled_as_flag[first].config_name == HIDDEN:
        hint = f" (only a flag: --{spelled_as_flag[first].flag})"
    else:
        visible = [option for option in options if option.config_name != HIDDEN]
        spellings = {option.flag.replace("-", "_"): option.config_name for option in visible}
        spellings |= {option.config_name: option.config_name for option in visible}
        hint = did_you_mean(first, spellings, spellings)
    more = f", and {others} more" if others else ""
    raise ConfigFileError(f"failed to load config file {path} - unknown key {first!r}{hint}{more}")


def _array(path: str, tables: Tables, value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ConfigFileError(
            f"failed to load config file {path} - {tables.key} is an array of tables: [[{tables.key}]]"
        )
    try:
        return tables.parse(value)
    except ValueError as error:
        raise ConfigFileError(f"failed to load config file {path} - {error}") from error


def _value(path: str, option: Option, value: Any) -> Any:
    try:
        return option.kind.from_toml(value)
    except ValueError as error:
        shown = _shown(value)
        if words := option.kind.words:
            expected = f"expected {', '.join(words)}{did_you_mean(shown, words)}"
            raise ConfigFileError(
                f"failed parsing {option.config_name} {shown} in {path} - {expected}"
            ) from error
        raise ConfigValueError(
            f"ERROR: Resolve failed to coerce value {shown} for field {option.config_name} - {error} (in {path})"
        ) from error


def _shown(value: Any) -> str:
    """The value for an error. Integers may be too long for a text, and arrays too deep."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = str(value)
    except (ValueError, RecursionError):
        return f"(a very large {type(value).__name__})"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
