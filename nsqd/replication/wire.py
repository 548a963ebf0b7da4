"""The frames between a leader and a follower, as docs/replication.md describes them.

A frame is a size (4 bytes, counts what follows), a type (1 byte) and a msgpack array of the fields, in their order; for
`Data` the bytes themselves. Input is not trusted: sizes are checked before anything is kept, types and values of all
fields when a frame is decoded.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import msgpack

from nsqd.replication.noted_storage import is_copied, is_copied_folder
from nsqd.replication.reconcile import FileHeld

__all__ = [
    "ANY_LIFE",
    "GREETING",
    "MAX_ADDRESS",
    "MAX_DATA",
    "MAX_FIRST_FRAME",
    "MAX_FRAME",
    "MAX_OTHERS",
    "MAX_OWNED",
    "MAX_RUNS",
    "MAX_TEXT",
    "START_SIZE",
    "Ack",
    "AllHeld",
    "Ask",
    "Beat",
    "Bye",
    "Challenge",
    "Check",
    "Checked",
    "Data",
    "Dismissed",
    "Echo",
    "Ended",
    "Fetch",
    "FileFrame",
    "Finished",
    "FolderHeld",
    "Found",
    "Frame",
    "Frames",
    "Hello",
    "MakeFolder",
    "NewFile",
    "Others",
    "Pass",
    "Refused",
    "Remove",
    "RemoveFolder",
    "Sealed",
    "Ticket",
    "Welcome",
    "Whole",
    "WireError",
    "by_folder",
    "encode",
    "proof",
]

VERSION: Final = 1
GREETING: Final = b"nsqr\0\0" + VERSION.to_bytes(2)
MAX_DATA: Final = 1 << 20  # bytes in one `Data`
MAX_FRAME: Final = MAX_DATA + 64
MAX_FIRST_FRAME: Final = 8192  # bytes, until the other side has shown that it knows the secret
MAX_FILES: Final = 10_000  # in one `FolderHeld`: about 600 kB; a folder may come in several
MAX_OWNED: Final = 10_000  # in one `Sealed`, likewise
MAX_TEXT: Final = 1000  # characters
MAX_ADDRESS: Final = 300  # characters
MAX_OTHERS: Final = 16  # followers of a life, apart from the one that is told
MAX_RUNS: Final = 10_000  # in one `Finished`
NONCE_SIZE: Final = 16
LIFE_SIZE: Final = 16
ANY_LIFE: Final = bytes(LIFE_SIZE)
START_SIZE: Final = 16
PROOF_SIZE: Final = 32
_MAX_NUMBER: Final = 1 << 64  # the generation of a topic has the node id in its highest bits
_HEAD: Final = struct.Struct(">IB")


class WireError(Exception):
    """The other side has sent what no frame is, or one that has no place here. The text is for a log."""


Attribute: TypeAlias = "attrs.Attribute[Any]"


def _bytes(size: int) -> Callable[[object, Attribute, object], None]:
    def check(_: object, attribute: Attribute, value: object) -> None:
        if not isinstance(value, bytes) or len(value) != size:
            raise WireError(f"{attribute.name} is not {size} bytes")

    return check


def _number(_: object, attribute: Attribute, value: object) -> None:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise WireError(f"{attribute.name} is no number")


def _flag(_: object, attribute: Attribute, value: object) -> None:
    if type(value) is not bool:
        raise WireError(f"{attribute.name} is neither true nor false")


def _text(_: object, attribute: Attribute, value: object) -> None:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise WireError(f"{attribute.name} is no text of at most {MAX_TEXT} characters")


def _path(_: object, attribute: Attribute, value: object) -> None:
    if not isinstance(value, str) or not is_copied(value):
        raise WireError(f"{attribute.name} is not the name of a file of a copy: {str(value)[:100]!r}")


def _folder(_: object, attribute: Attribute, value: object) -> None:
    if not isinstance(value, str) or not is_copied_folder(value):
        raise WireError(f"{attribute.name} is not the name of a folder of a copy: {str(value)[:100]!r}")


def _held_folder(holder: object, attribute: Attribute, value: object) -> None:
    if value != "":
        _folder(holder, attribute, value)


def _files(holder: FolderHeld, attribute: Attribute, value: object) -> None:
    for name, size, checked_from, checksum in _rows(attribute, value, MAX_FILES, "state of a file", 4):
        path = f"{holder.folder}/{name}" if holder.folder else name
        if not isinstance(name, str) or not is_copied(path):
            raise WireError(f"{attribute.name} holds what no copy has: {str(path)[:100]!r}")
        for number in (size, checked_from, checksum):
            _number(holder, attribute, number)


def _owned(holder: object, attribute: Attribute, value: object) -> None:
    for row in _rows(attribute, value, MAX_OWNED, "generation, start and end", 3):
        for number in row:
            _number(holder, attribute, number)


def _addresses(holder: object, attribute: Attribute, value: object) -> None:
    if not isinstance(value, list) or len(value) > MAX_OTHERS:
        raise WireError(f"{attribute.name} is no list of at most {MAX_OTHERS}")
    for address in value:
        _text(holder, attribute, address)
        if len(address) > MAX_ADDRESS:
            raise WireError(f"{attribute.name} holds an address of more than {MAX_ADDRESS} characters")


def _runs(holder: object, attribute: Attribute, value: object) -> None:
    for row in _rows(attribute, value, MAX_RUNS, "start and end", 2):
        for number in row:
            _number(holder, attribute, number)


def _rows(attribute: Attribute, value: object, most: int, what: str, length: int) -> list[list[Any]]:
    if not isinstance(value, list) or len(value) > most:
        raise WireError(f"{attribute.name} is no list of at most {most}")
    if not all(isinstance(row, list) and len(row) == length for row in value):
        raise WireError(f"{attribute.name} holds what is no {what}")
    return value


@attrs.frozen
class Challenge:
    """From the follower, first of all."""

    TYPE: ClassVar = 1
    nonce: bytes = attrs.field(validator=_bytes(NONCE_SIZE))


@attrs.frozen
class Hello:
    """From the leader. `start`: random, made when it started. `proof`: see `proof`. `name`: of its node, for people.

    `disk`: acknowledge what is synced. `others`: addresses of its other followers. `registries`: how many nsqlookupds
    it has, more than half of which must agree when a follower adopts by itself. `meant`: the life of the follower that
    it wants, or `ANY_LIFE`: whoever is at this address.
    """

    TYPE: ClassVar = 2
    life: bytes = attrs.field(validator=_bytes(LIFE_SIZE))
    incarnation: int = attrs.field(validator=_number)
    start: bytes = attrs.field(validator=_bytes(START_SIZE))
    nonce: bytes = attrs.field(validator=_bytes(NONCE_SIZE))
    proof: bytes = attrs.field(validator=_bytes(PROOF_SIZE))
    name: str = attrs.field(validator=_text)
    disk: bool = attrs.field(validator=_flag)
    others: list[str] = attrs.field(factory=list, validator=_addresses)
    registries: int = attrs.field(default=0, validator=_number)
    meant: bytes = attrs.field(default=ANY_LIFE, validator=_bytes(LIFE_SIZE))


@attrs.frozen
class Welcome:
    """From the follower; what it holds comes next. `life`: its own."""

    TYPE: ClassVar = 3
    proof: bytes = attrs.field(validator=_bytes(PROOF_SIZE))
    life: bytes = attrs.field(validator=_bytes(LIFE_SIZE))


@attrs.frozen
class FolderHeld:
    """Files of one folder ("" for the root) that the follower has: name and the fields of `FileHeld`.

    `generation`: of the topic, 0 when no file tells. A folder with many files comes in several of these.
    """

    TYPE: ClassVar = 4
    folder: str = attrs.field(validator=_held_folder)
    generation: int = attrs.field(validator=_number)
    files: list[list[Any]] = attrs.field(validator=_files)


@attrs.frozen
class AllHeld:
    """That was all."""

    TYPE: ClassVar = 5


@attrs.frozen
class FileFrame:
    """What comes as `Data` is appended to this file; `offset` is its present size: 0 for one that is not there."""

    TYPE: ClassVar = 6
    path: str = attrs.field(validator=_path)
    offset: int = attrs.field(validator=_number)


@attrs.frozen
class NewFile:
    """As `FileFrame`, for a file that takes its name's place with `Whole`. 0 begins it anew."""

    TYPE: ClassVar = 7
    path: str = attrs.field(validator=_path)
    offset: int = attrs.field(validator=_number)


@attrs.frozen
class Data:
    """Bytes for the file that was named last."""

    TYPE: ClassVar = 8
    data: bytes | bytearray | memoryview


@attrs.frozen
class Whole:
    """The `NewFile` with this path is whole, with `size` bytes."""

    TYPE: ClassVar = 9
    path: str = attrs.field(validator=_path)
    size: int = attrs.field(validator=_number)


@attrs.frozen
class MakeFolder:
    TYPE: ClassVar = 10
    folder: str = attrs.field(validator=_folder)


@attrs.frozen
class Remove:
    TYPE: ClassVar = 11
    path: str = attrs.field(validator=_path)


@attrs.frozen
class RemoveFolder:
    TYPE: ClassVar = 12
    folder: str = attrs.field(validator=_folder)


@attrs.frozen
class Pass:
    """`complete`: the copy has no gap now. Otherwise one begins here, until the next `Pass`."""

    TYPE: ClassVar = 13
    complete: bool = attrs.field(validator=_flag)


@attrs.frozen
class Ticket:
    """All appends up to this one were sent."""

    TYPE: ClassVar = 14
    ticket: int = attrs.field(validator=_number)


@attrs.frozen
class Ack:
    """From the follower: it has all that was sent before this ticket, on disk where `Hello.disk` asked for that."""

    TYPE: ClassVar = 15
    ticket: int = attrs.field(validator=_number)


@attrs.frozen
class Beat:
    """`hanging_ms`: for so long the leader's oldest sync has not returned. `wall_ms`: its wall time."""

    TYPE: ClassVar = 16
    number: int = attrs.field(validator=_number)
    hanging_ms: int = attrs.field(validator=_number)
    wall_ms: int = attrs.field(validator=_number)


@attrs.frozen
class Echo:
    TYPE: ClassVar = 17
    number: int = attrs.field(validator=_number)


@attrs.frozen
class Refused:
    """The follower ends the connection, and says why."""

    TYPE: ClassVar = 18
    reason: str = attrs.field(validator=_text)


@attrs.frozen
class Bye:
    """The leader stops in order. `for_good`: it will not come back."""

    TYPE: ClassVar = 19
    for_good: bool = attrs.field(validator=_flag)


@attrs.frozen
class Sealed:
    """From the follower, instead of what it holds: the copy was adopted.

    `owned`: generation of a topic, start and end of messages that are the stand-in's. Many come in several of these.
    """

    TYPE: ClassVar = 20
    owned: list[list[int]] = attrs.field(validator=_owned)

    def add_to(self, owned: dict[int, list[tuple[int, int]]]) -> None:
        """Collect the ranges by generation."""
        for generation, start, end in self.owned:
            owned.setdefault(generation, []).append((start, end))


@attrs.frozen
class Fetch:
    """From the leader, or who has asked: for a piece of a file that is here. The answer is one `Data`."""

    TYPE: ClassVar = 21
    path: str = attrs.field(validator=_path)
    offset: int = attrs.field(validator=_number)
    size: int = attrs.field(validator=_number)


@attrs.frozen
class Ask:
    """Instead of `Hello`, from one who is not the leader of this life: what is here of it? `proof`: see `proof`.

    `files`: whether the files of a copy that is not sealed are to be told.
    """

    TYPE: ClassVar = 22
    life: bytes = attrs.field(validator=_bytes(LIFE_SIZE))
    nonce: bytes = attrs.field(validator=_bytes(NONCE_SIZE))
    proof: bytes = attrs.field(validator=_bytes(PROOF_SIZE))
    name: str = attrs.field(validator=_text)
    files: bool = attrs.field(validator=_flag)


@attrs.frozen
class Found:
    """The answer to `Ask`. After it comes what is held, if that was asked for, or, of a sealed copy, what is owned.

    `held`: there is a copy. `connected`: its leader is. `owner`: of a sealed one, the life of who has sealed it.
    """

    TYPE: ClassVar = 23
    held: bool = attrs.field(validator=_flag)
    connected: bool = attrs.field(validator=_flag)
    sealed: bool = attrs.field(validator=_flag)
    owner: str = attrs.field(validator=_text)


@attrs.frozen
class Finished:
    """From a leader that gives up what was adopted: these messages were finished at its consumers.

    `runs`: start and end of sequence numbers.
    """

    TYPE: ClassVar = 24
    generation: int = attrs.field(validator=_number)
    channel: str = attrs.field(validator=_text)
    runs: list[list[int]] = attrs.field(validator=_runs)


@attrs.frozen
class Ended:
    """From a leader whose copy is complete: an earlier life of it, which has ended. Its copy may go."""

    TYPE: ClassVar = 25
    life: bytes = attrs.field(validator=_bytes(LIFE_SIZE))


@attrs.frozen
class Others:
    """From the leader: `Hello.others`, when they have changed."""

    TYPE: ClassVar = 26
    others: list[str] = attrs.field(validator=_addresses)


@attrs.frozen
class Dismissed:
    """From the leader: other followers have everything; this copy is to go. The answer is `Found`."""

    TYPE: ClassVar = 27


@attrs.frozen
class Check:
    """From the leader: what has the disk of these bytes of a file? The answer is a `Checked`. One at a time."""

    TYPE: ClassVar = 28
    path: str = attrs.field(validator=_path)
    offset: int = attrs.field(validator=_number)
    size: int = attrs.field(validator=_number)


@attrs.frozen
class Checked:
    """From the follower: `size` of the bytes from `offset` on can be read, and this is their CRC-32C."""

    TYPE: ClassVar = 29
    path: str = attrs.field(validator=_path)
    offset: int = attrs.field(validator=_number)
    size: int = attrs.field(validator=_number)
    checksum: int = attrs.field(validator=_number)


Frame: TypeAlias = (
    Challenge
    | Hello
    | Welcome
    | FolderHeld
    | AllHeld
    | FileFrame
    | NewFile
    | Data
    | Whole
    | MakeFolder
    | Remove
    | RemoveFolder
    | Pass
    | Ticket
    | Ack
    | Beat
    | Echo
    | Refused
    | Bye
    | Sealed
    | Fetch
    | Ask
    | Found
    | Finished
    | Ended
    | Others
    | Dismissed
    | Check
    | Checked
)
_TYPES: Final[dict[int, type[Any]]] = {kind.TYPE: kind for kind in Frame.__args__}
_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    kind: tuple(field.name for field in attrs.fields(kind)) for kind in _TYPES.values()
}


def by_folder(frames: Iterable[FolderHeld]) -> dict[str, tuple[int, dict[str, FileHeld]]]:
    """What a follower holds, in one piece: for each folder the generation, and the files by name."""
    found: dict[str, tuple[int, dict[str, FileHeld]]] = {}
    for frame in frames:
        generation, files = found.get(frame.folder, (0, {}))
        files.update({name: FileHeld(*numbers) for name, *numbers in frame.files})
        found[frame.folder] = (frame.generation or generation, files)
    return found


def encode(frame: Frame) -> bytes:
    if isinstance(frame, Data):
        content = bytes(frame.data)
    else:
        content = msgpack.packb([getattr(frame, name) for name in _FIELDS[type(frame)]])
    return _HEAD.pack(len(content) + 1, frame.TYPE) + content


def data_head(size: int) -> bytes:
    """What stands before `size` bytes of a `Data`, for a sender that has them in another place."""
    return _HEAD.pack(size + 1, Data.TYPE)


def decode(kind: int, content: bytes) -> Frame:
    """A frame of this type. `WireError`."""
    found = _TYPES.get(kind)
    if found is None:
        raise WireError(f"a frame of the unknown type {kind}")
    if found is Data:
        return Data(content)
    try:
        fields = msgpack.unpackb(content, strict_map_key=True, max_ext_len=0, max_map_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"a {found.__name__} that cannot be read: {type(error).__name__}") from None
    if not isinstance(fields, list) or len(fields) != len(_FIELDS[found]):
        raise WireError(f"a {found.__name__} without its {len(_FIELDS[found])} fields")
    frame: Frame = found(*fields)
    return frame


class Frames:
    """Bytes of a connection into frames; holds what was fed and not taken. `WireError` ends it.

    `max_frame`: bytes; to be raised to `MAX_FRAME` for who has shown that it knows the secret.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.max_frame = max_frame
        self._buffer = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> Frame | None:
        """The next frame; None when it has not arrived as a whole. `WireError`."""
        if not self._greeted and not self._greet():
            return None
        if len(self._buffer) < _HEAD.size:
            return None
        size, kind = _HEAD.unpack_from(self._buffer)
        if not 1 <= size <= self.max_frame:
            raise WireError(f"a frame of {size} bytes; {self.max_frame} are the most")
        end = 4 + size
        if len(self._buffer) < end:
            return None
        content = bytes(memoryview(self._buffer)[_HEAD.size : end])
        del self._buffer[:end]
        return decode(kind, content)

    def _greet(self) -> bool:
        length = min(len(self._buffer), len(GREETING))
        if self._buffer[: min(length, 6)] != GREETING[: min(length, 6)]:
            raise WireError("this is no connection between nsqds")
        if length < len(GREETING):
            return False
        if (version := int.from_bytes(self._buffer[6:8])) != VERSION:
            raise WireError(f"version {version} of the replication; this nsqd has {VERSION}")
        del self._buffer[: len(GREETING)]
        self._greeted = True
        return True


def proof(secret: bytes, side: str, follower_nonce: bytes, leader_nonce: bytes, *said: object) -> bytes:
    """What a side (`leader` or `follower`) sends to show that it knows the secret. `said`: what it vouches for."""
    text = msgpack.packb([side, follower_nonce, leader_nonce, *said])
    return hmac.digest(secret, text, hashlib.sha256)
