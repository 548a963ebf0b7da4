"""The command `nsqadmin user`: the users who can log in, in the file that `--users-file` of the console names."""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nsqadmin.auth.identity import MAX_PATTERNS, Topics
from nsqadmin.auth.passwords import MAX_BYTES, BadPassword, hash_password
from nsqadmin.auth.users import ROLES, User, UserFile, UserFileError, add, change, remove
from nsqkit.access import ScopeError, TokenError
from nsqkit.access.tokens import checked_name, shown_time
from nsqkit.standard_streams import guard_standard_streams

__all__ = ["run_user_command"]

_HELP: Final = """\
roles:
  viewer     sees names, figures and states
  operator   what a viewer may; creates, pauses, empties and deletes; drains nodes, adopts copies
  admin      everything: also reads, publishes and finishes messages, and changes options
  With --topics a user sees and does only what is about these topics. In a pattern a * stands for any characters.

The password is read from the terminal, or else from the first line of the standard input. It is never on the command
line, which every user of the machine can see. The console reads the file again within a second of a change; a user who
is removed or changed is logged out.

examples:
  nsqadmin user add --users-file=/etc/nsq/users --role=admin alice
  nsqadmin user add --users-file=/etc/nsq/users --role=operator --topics='orders.*' bob <password.txt
  nsqadmin user passwd --users-file=/etc/nsq/users bob
  nsqadmin user change --users-file=/etc/nsq/users --role=viewer bob
  nsqadmin user list --users-file=/etc/nsq/users
  nsqadmin user remove --users-file=/etc/nsq/users bob

exit status: 0 done, 1 not done, 2 a mistake on the command line
"""


def run_user_command(argv: Sequence[str]) -> int:
    """Run `nsqadmin user` with these arguments, and return its exit code."""
    guard_standard_streams()
    given = _parser().parse_args(argv)
    try:
        _COMMANDS[given.command](given)
    except (UserFileError, BadPassword, ScopeError, TokenError) as error:
        sys.stderr.write(f"nsqadmin user {given.command}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsqadmin user",
        description="Make, list, change and remove the users who can log in to the console.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = commands.add_parser("add", help="make a user; asks for a password")
    listed = commands.add_parser("list", help="list names, roles and topics")
    changed = commands.add_parser("change", help="change the role or the topics of a user")
    password = commands.add_parser("passwd", help="change the password of a user")
    removed = commands.add_parser("remove", help="remove users")
    for command in (made, listed, changed, password, removed):
        command.add_argument(
            "--users-file", required=True, metavar="PATH", help="file of the console's --users-file"
        )
    for command in (made, changed):
        command.add_argument(
            "--role", required=command is made, choices=ROLES, help="see nsqadmin user --help"
        )
        command.add_argument(
            "--topics",
            metavar="PATTERNS",
            help="limit the user to the topics of these patterns, with commas between them; '*' is no limit",
        )
    for command in (made, changed, password):
        command.add_argument("name", metavar="NAME", help="name of the user")
    removed.add_argument("names", nargs="+", metavar="NAME", help="name of a user")
    return parser


def _add(given: argparse.Namespace) -> None:
    name, role = checked_name(given.name), ROLES[given.role]
    topics = _topics(given.topics or "*")
    path = Path(given.users_file)
    is_new = not path.exists()
    user = User(name, role, hash_password(_read_password(name)), topics, time.time())
    add(given.users_file, user)
    sys.stderr.write(f"made the user {name} ({given.role})\n")
    if is_new:
        sys.stderr.write(f"made {path}, which only its owner can read: nsqadmin has to be able to\n")


def _change(given: argparse.Namespace) -> None:
    values: dict[str, Any] = {}
    if given.role is not None:
        values["role"] = ROLES[given.role]
    if given.topics is not None:
        values["topics"] = _topics(given.topics)
    if not values:
        raise UserFileError("nothing to change: give --role or --topics")
    change(given.users_file, given.name, **values)
    sys.stderr.write(f"changed the user {given.name}, who is logged out within a second or two\n")


def _set_password(given: argparse.Namespace) -> None:
    file = UserFile(given.users_file)
    file.load()
    if given.name not in file.users.by_name:  # before anybody has typed a password for nothing
        raise UserFileError(f"{given.users_file}: no user has the name {given.name!r}")
    hashed = hash_password(_read_password(given.name))
    change(given.users_file, given.name, password=hashed, password_set=time.time())
    sys.stderr.write(f"changed the password of {given.name}, who is logged out within a second or two\n")


def _list(given: argparse.Namespace) -> None:
    file = UserFile(given.users_file)
    file.load()
    rows = [("NAME", "ROLE", "TOPICS", "PASSWORD SET")]
    for user in file.users.by_name.values():
        rows.append((user.name, str(user.role), str(user.topics), shown_time(user.password_set)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")


def _remove(given: argparse.Namespace) -> None:
    for name in given.names:
        remove(given.users_file, name)
        sys.stderr.write(f"removed {name}, who is logged out within a second or two\n")


_COMMANDS: Final = {
    "add": _add,
    "list": _list,
    "change": _change,
    "passwd": _set_password,
    "remove": _remove,
}


def _topics(text: str) -> Topics:
    patterns = [each.strip() for each in text.split(",")]
    if len(patterns) > MAX_PATTERNS:
        raise ScopeError(f"{len(patterns)} patterns are more than {MAX_PATTERNS}")
    return Topics.parse(patterns)


def _read_password(name: str) -> str:
    """From the terminal, twice; otherwise the first line of the standard input."""
    if sys.stdin is not None and sys.stdin.isatty():
        password = getpass.getpass(f"Password of {name}: ")
        if getpass.getpass("Once more: ") != password:
            raise BadPassword("the two passwords differ")
        return password
    line = b"" if sys.stdin is None else sys.stdin.buffer.readline(MAX_BYTES + 3)
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise BadPassword("a password must be UTF-8") from None
