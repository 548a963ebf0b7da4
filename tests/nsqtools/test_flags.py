"""The command lines of the tools: what is refused, with which words and which exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nsqkit.client import ClientOptions
from nsqkit.options import OptionError, parse
from nsqkit.version import VERSION
from nsqtools import nsq_peek, nsq_stat, nsq_tail, nsq_to_http, nsq_to_nsq, to_nsq
from nsqtools.common import client_options
from nsqtools.nsq_to_file import program as nsq_to_file
from nsqtools.nsq_to_file.options import load, validate
from nsqtools.nsq_to_http.options import ToHttpFlags, parse_headers
from nsqtools.nsq_to_nsq.options import NsqToNsqFlags
from nsqtools.nsq_to_nsq.options import validate as validate_nsq_to_nsq

NSQD = "-nsqd-tcp-address=127.0.0.1:4150"
LOOKUPD = "--lookupd-http-address=127.0.0.1:4161"
STAMPED = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (.*)\n")

NOT_BOTH = "use --nsqd-tcp-address or --lookupd-http-address not both"
ONE_OF_BOTH = "--nsqd-tcp-address or --lookupd-http-address required"
NO_TOPIC = "--lookupd-http-address must be specified when no --topic specified"
NO_REV = "missing <REV> in --filename-format when gzip, rotation, or work dir enabled ('<TOPIC>.log')"

MAINS: dict[str, Callable[[], None]] = {
    "nsq_tail": nsq_tail.main,
    "to_nsq": to_nsq.main,
    "nsq_to_file": nsq_to_file.main,
    "nsq_peek": nsq_peek.main,
    "nsq_stat": nsq_stat.main,
    "nsq_to_http": nsq_to_http.main,
    "nsq_to_nsq": nsq_to_nsq.main,
}

NSQD_HTTP = "-nsqd-http-address=127.0.0.1:4151"
POST = "-post=http://127.0.0.1/"
STAT = ["-topic=t", "-channel=c"]
TO_HTTP = ["-topic=t", NSQD]
TO_NSQ = ["-topic=t", NSQD, "-destination-nsqd-tcp-address=127.0.0.2:4150"]
BOTH_REQUIRED = "--topic and --channel are required"
NO_SCHEME = "error - address should not contain scheme"
NO_HEADER = (
    "--header value format should be 'key=value', with a colon between them ('Name: value'); check number "
)
HTTP_MODES = (
    "--mode must be one of round-robin, hostpool, epsilon-greedy, multicast, "
    "not 'hostpol' (did you mean hostpool?)"
)
NSQ_MODES = "--mode must be one of round-robin, hostpool, epsilon-greedy, not 'multicast'"
CIRCLE = "messages would go round in circles: 127.0.0.1:4150 is both a source and a destination"

NO_TOKEN = "--access-token-file: /nonexistent: No such file or directory"
TOKEN = "-access-token-file=/nonexistent"

REFUSED = [
    ("nsq_tail", ["-topic=t", NSQD, TOKEN], NO_TOKEN),
    ("nsq_to_http", ["-topic=t", NSQD, POST, TOKEN], NO_TOKEN),
    ("nsq_stat", ["-topic=t", "-channel=c", NSQD_HTTP, TOKEN], NO_TOKEN),
    ("nsq_peek", ["-topic=t", "-channel=c", NSQD_HTTP, TOKEN], NO_TOKEN),
    ("to_nsq", ["-topic=t", NSQD, TOKEN], NO_TOKEN),
    ("nsq_to_nsq", [*TO_NSQ, "-destination-access-token-file=/nonexistent"], f"--destination-{NO_TOKEN[2:]}"),
    ("nsq_tail", ["-topic=t"], ONE_OF_BOTH),
    ("nsq_tail", ["-topic=t", NSQD, LOOKUPD], NOT_BOTH),
    ("nsq_tail", [NSQD], "--topic required"),
    ("nsq_tail", [NSQD, "-topic=a b"], "--topic is invalid: 'a b'"),
    ("nsq_tail", [NSQD, "-topic=t", "-channel=a b"], "--channel is invalid: 'a b'"),
    (
        "nsq_tail",
        ["-topic=t", "-nsqd-tcp-address=here"],
        "--nsqd-tcp-address: missing port in address 'here'",
    ),
    (
        "nsq_tail",
        ["-topic=t", "-lookupd-http-address=x"],
        "--lookupd-http-address: missing port in address 'x'",
    ),
    ("nsq_tail", ["-topic=t", NSQD, "-max-in-flight=0"], "--max-in-flight must be at least 1, not 0"),
    (
        "nsq_tail",
        ["-topic=t", NSQD, "-consumer-opt=heartbeat_interval,90s"],
        "heartbeat_interval (90 s) is above read_timeout (60 s)",
    ),
    (
        "nsq_tail",
        ["-topic=t", NSQD, "-consumer-opt=heartbeat_interval,-1"],
        "a consumer cannot do without heartbeats",
    ),
    ("to_nsq", [NSQD], "--topic required"),
    ("to_nsq", ["-topic=t"], "--nsqd-tcp-address required"),
    ("to_nsq", ["-topic=t", NSQD, "-delimiter=ab"], "--delimiter must be a single byte"),
    ("to_nsq", ["-topic=t", NSQD, "-delimiter="], "--delimiter must be a single byte"),
    ("to_nsq", ["-topic=t", NSQD, "-delimiter=\u00e9"], "--delimiter must be a single byte"),
    ("to_nsq", ["-topic=a b", NSQD], "--topic is invalid: 'a b'"),
    ("nsq_to_file", ["-topic=t", NSQD, "-channel="], "--channel is required"),
    ("nsq_to_file", ["-topic=t"], ONE_OF_BOTH),
    ("nsq_to_file", ["-topic=t", NSQD, LOOKUPD], NOT_BOTH),
    (
        "nsq_to_file",
        ["-topic=t", NSQD, "-gzip-level=10"],
        "invalid --gzip-level value (10), should be 1-9",
    ),
    ("nsq_to_file", ["-topic=t", NSQD, "-gzip-level=0"], "invalid --gzip-level value (0), should be 1-9"),
    ("nsq_to_file", [LOOKUPD], "--topic or --topic-pattern required"),
    ("nsq_to_file", [NSQD, "-topic-pattern=x"], NO_TOPIC),
    ("nsq_to_file", ["-topic=t", NSQD, "-log-level=loud"], "--log-level is invalid"),
    (
        "nsq_to_file",
        ["-topic=t", NSQD, "-log-level=warning"],
        "--log-level is invalid (did you mean warn?)",
    ),
    ("nsq_to_file", ["-topic=t", NSQD, "-sync-interval=0"], "--sync-interval should be positive"),
    (
        "nsq_to_file",
        ["-topic=t", NSQD, "-http-client-connect-timeout=-1s"],
        "--http-client-connect-timeout should be positive",
    ),
    (
        "nsq_to_file",
        ["-topic=t", NSQD, "-http-client-request-timeout=0"],
        "--http-client-request-timeout should be positive",
    ),
    (
        "nsq_to_file",
        ["-topic=t", NSQD, "-topic-pattern=("],
        "--topic-pattern is invalid: missing ), unterminated subpattern at position 0",
    ),
    ("nsq_to_file", ["-topic=t", NSQD, "-filename-format=<TOPIC>.log", "-gzip"], NO_REV),
    ("nsq_to_file", ["-topic=t", NSQD, "-filename-format=<TOPIC>.log", "-rotate-size=5"], NO_REV),
    ("nsq_to_file", ["-topic=t", NSQD, "-filename-format=<TOPIC>.log", "-rotate-interval=5s"], NO_REV),
    ("nsq_to_file", ["-topic=t", NSQD, "-filename-format=<TOPIC>.log", "-work-dir=/w"], NO_REV),
    ("nsq_stat", [NSQD_HTTP, "-topic=t"], BOTH_REQUIRED),
    ("nsq_stat", [NSQD_HTTP, "-channel=t"], BOTH_REQUIRED),
    ("nsq_stat", [NSQD_HTTP, *STAT, "-interval=0"], "--interval should be positive"),
    ("nsq_stat", [NSQD_HTTP, *STAT, "-count=0"], "--count should be positive"),
    ("nsq_stat", [NSQD_HTTP, *STAT, "-count=-1"], "--count should be positive"),
    (
        "nsq_stat",
        [NSQD_HTTP, *STAT, "-http-client-connect-timeout=0"],
        "--http-client-connect-timeout should be positive",
    ),
    ("nsq_stat", STAT, "--nsqd-http-address or --lookupd-http-address required"),
    (
        "nsq_stat",
        [NSQD_HTTP, LOOKUPD, *STAT],
        "use --nsqd-http-address or --lookupd-http-address not both",
    ),
    ("nsq_stat", [*STAT, "-nsqd-http-address=http://a:1"], f"--nsqd-http-address {NO_SCHEME}"),
    ("nsq_stat", [*STAT, "-lookupd-http-address=https://a:1"], f"--lookupd-http-address {NO_SCHEME}"),
    ("nsq_stat", [*STAT, "-nsqd-http-address=a"], "--nsqd-http-address: missing port in address 'a'"),
    ("nsq_stat", ["-topic=a b", "-channel=c", NSQD_HTTP], "--topic is invalid: 'a b'"),
    ("nsq_peek", [NSQD_HTTP, "-topic=t"], BOTH_REQUIRED),
    ("nsq_peek", STAT, "--nsqd-http-address or --lookupd-http-address required"),
    ("nsq_peek", ["-topic=t", "-channel=c d", NSQD_HTTP], "--channel is invalid: 'c d'"),
    (
        "nsq_peek",
        [NSQD_HTTP, *STAT, "-state=waiting"],
        "--state must be one of ready, in_flight, requeued, deferred, leaving, not 'waiting'",
    ),
    ("nsq_peek", [NSQD_HTTP, *STAT, "-format=xml"], "--format must be body or json, not 'xml'"),
    ("nsq_peek", [NSQD_HTTP, *STAT, "-json=/id"], "--json is invalid: '/id'; an example is /order/id=42"),
    ("nsq_peek", [NSQD_HTTP, *STAT, "-json=id=1"], "--json is invalid: 'id=1'; an example is /order/id=42"),
    (
        "nsq_peek",
        [NSQD_HTTP, *STAT, "-http-client-request-timeout=0"],
        "--http-client-request-timeout should be positive",
    ),
    ("nsq_to_http", [NSQD, POST], BOTH_REQUIRED),
    ("nsq_to_http", [*TO_HTTP, POST, "-channel="], BOTH_REQUIRED),
    ("nsq_to_http", ["-topic=t", POST], ONE_OF_BOTH),
    ("nsq_to_http", [*TO_HTTP, LOOKUPD, POST], NOT_BOTH),
    ("nsq_to_http", TO_HTTP, "--get or --post required"),
    ("nsq_to_http", [*TO_HTTP, POST, "-get=http://a/%s"], "use --get or --post not both"),
    ("nsq_to_http", [*TO_HTTP, "-get=http://a/"], "invalid GET address - must be a printf string"),
    ("nsq_to_http", [*TO_HTTP, "-get=http://a/%s%s"], "invalid GET address - must be a printf string"),
    ("nsq_to_http", [*TO_HTTP, "-post=ftp://a/"], "--post: not the URL of an HTTP server: 'ftp://a/'"),
    ("nsq_to_http", [*TO_HTTP, "-post=a:80"], "--post: not the URL of an HTTP server: 'a:80'"),
    (
        "nsq_to_http",
        [*TO_HTTP, "-get=http://a:x/%s"],
        "--get: not the URL of an HTTP server: 'http://a:x/%s'",
    ),
    ("nsq_to_http", [*TO_HTTP, POST, "-mode=hostpol"], HTTP_MODES),
    ("nsq_to_http", [*TO_HTTP, POST, "-sample=1.1"], "ERROR: --sample must be between 0.0 and 1.0"),
    ("nsq_to_http", [*TO_HTTP, POST, "-sample=-0.1"], "ERROR: --sample must be between 0.0 and 1.0"),
    ("nsq_to_http", [*TO_HTTP, POST, "-sample=NaN"], "ERROR: --sample must be between 0.0 and 1.0"),
    ("nsq_to_http", [*TO_HTTP, POST, "-sample=-inf"], "ERROR: --sample must be between 0.0 and 1.0"),
    (
        "nsq_to_http",
        [*TO_HTTP, "-get=http://a/%s", "-content-type=text/x"],
        "--content-type only used with --post",
    ),
    ("nsq_to_http", [*TO_HTTP, POST, "-content-type="], "--content-type requires a value when used"),
    ("nsq_to_http", [*TO_HTTP, POST, "-header=a=b"], f"{NO_HEADER}1"),
    ("nsq_to_http", [*TO_HTTP, POST, "-header=a b: c"], f"{NO_HEADER}1"),
    ("nsq_to_http", [*TO_HTTP, POST, "-header=a: b\r\nc: d"], f"{NO_HEADER}1"),
    ("nsq_to_http", [*TO_HTTP, POST, "-n=0"], "--n must be between 1 and 10000, not 0"),
    (
        "nsq_to_http",
        [*TO_HTTP, POST, "-http-client-request-timeout=0"],
        "--http-client-request-timeout should be positive",
    ),
    ("nsq_to_nsq", [NSQD], BOTH_REQUIRED),
    ("nsq_to_nsq", [*TO_NSQ, "-channel="], BOTH_REQUIRED),
    ("nsq_to_nsq", [*TO_NSQ, "-topic=/"], "--topic is invalid: '/'"),
    ("nsq_to_nsq", [*TO_NSQ, "-destination-topic=/"], "--destination-topic is invalid: '/'"),
    ("nsq_to_nsq", [*TO_NSQ, "-channel=/"], "--channel is invalid: '/'"),
    ("nsq_to_nsq", ["-topic=t"], ONE_OF_BOTH),
    ("nsq_to_nsq", [*TO_NSQ, LOOKUPD], NOT_BOTH),
    ("nsq_to_nsq", ["-topic=t", NSQD], "--destination-nsqd-tcp-address required"),
    (
        "nsq_to_nsq",
        [*TO_NSQ, "-destination-nsqd-tcp-address=a"],
        "--destination-nsqd-tcp-address: missing port in address 'a'",
    ),
    ("nsq_to_nsq", [*TO_NSQ, "-mode=multicast"], NSQ_MODES),
    ("nsq_to_nsq", [*TO_NSQ, "-require-json-value=x"], "--require-json-value needs --require-json-field"),
    ("nsq_to_nsq", [*TO_NSQ, "-destination-nsqd-tcp-address=127.0.0.1:4150"], CIRCLE),
]

MISTAKES = [
    ("nsq_tail", ["-nope"], "flag provided but not defined: -nope;"),
    ("nsq_tail", ["-n"], "flag needs an argument: -n;"),
    ("nsq_tail", ["-n=x"], 'invalid value "x" for flag -n: parse error;'),
    ("nsq_tail", ["-print-topic=x"], 'invalid boolean value "x" for -print-topic: parse error;'),
    ("nsq_tail", ["-consumer-opt=nope,1"], 'invalid value "nope,1" for flag -consumer-opt: unknown option'),
    ("nsq_to_file", ["-consumer-opt=nope"], 'invalid value "nope" for flag -consumer-opt: unknown option'),
    ("nsq_to_file", ["-consumer-opt", "max_attempts,x"], 'invalid value "max_attempts,x" for flag'),
    (
        "nsq_to_file",
        ["-sync-interval=30"],
        'invalid value "30" for flag -sync-interval: parse error (duration without a unit: write 30s);',
    ),
    ("to_nsq", ["-version"], "flag provided but not defined: -version;"),
    ("nsq_stat", ["-count=x"], 'invalid value "x" for flag -count: parse error;'),
    ("nsq_to_http", ["-consumer-opt=nope"], 'invalid value "nope" for flag -consumer-opt: unknown option'),
    ("nsq_to_http", ["-sample=x"], 'invalid value "x" for flag -sample: parse error;'),
    ("nsq_to_nsq", ["-consumer-opt=nope"], 'invalid value "nope" for flag -consumer-opt: unknown option'),
    ("nsq_to_nsq", ["-producer-opt=nope"], 'invalid value "nope" for flag -producer-opt: unknown option'),
    ("to_nsq", ["-producer-opt=sample_rate,100"], 'invalid value "sample_rate,100" for flag -producer-opt'),
    ("nsq_tail", ["-print-topic", "false"], "unknown arguments: [false] (write -print-topic=false);"),
    ("nsq_to_file", ["-topic=t", NSQD, "x", "-y"], "unknown arguments: [x -y];"),
    (
        "nsq_to_file",
        ["-ouput-dir=x"],
        "flag provided but not defined: -ouput-dir (did you mean --output-dir?);",
    ),
    (
        "nsq_to_nsq",
        ["-producer-opt=dail_timeout,1s"],
        'invalid value "dail_timeout,1s" for flag -producer-opt: '
        "unknown option 'dail_timeout' (did you mean dial_timeout?);",
    ),
    (
        "nsq_to_http",
        ["-consumer-opt=backoff_strategy,fulljitter"],
        'invalid value "backoff_strategy,fulljitter" for flag -consumer-opt: bad value for backoff_strategy: '
        "backoff_strategy must be one of exponential, full_jitter, not 'fulljitter' (did you mean full_jitter?);",
    ),
]


def call(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Call the program's main as the console script does; gives the exit code."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as ended:
        MAINS[name]()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("name", "words", "text"), REFUSED)
def test_refused_values(
    name: str,
    words: list[str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line with a time stamp, and exit code 1."""
    assert call(name, words, monkeypatch) == 1
    out, err = capsys.readouterr()
    match = STAMPED.fullmatch(err)
    assert match is not None, err
    assert (out, match[1]) == ("", text)


@pytest.mark.parametrize(("name", "words", "text"), MISTAKES)
def test_mistakes(
    name: str,
    words: list[str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on stderr, with a pointer to the help; exit code 2."""
    assert call(name, words, monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)
    assert err.endswith(f"; see {name} --help\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(MAINS.keys() - {"to_nsq"}))
def test_version(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout, and it wins over everything that parses."""
    assert call(name, ["-version", "word"], monkeypatch) == 0
    assert capsys.readouterr() == (f"{name} v{VERSION}\n", "")


@pytest.mark.parametrize("name", MAINS)
def test_help_teaches(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It has an example, the option of the client library, and no line that wraps in a wide terminal."""
    assert call(name, ["-h"], monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{name} - ")
    assert f"  {name} --topic" in err or f"| {name} --topic" in err
    assert "max_attempts" in err or name in ("to_nsq", "nsq_stat", "nsq_peek")
    assert max(map(len, err.splitlines())) <= 115


def test_own_values_win_over_client_options() -> None:
    """--max-in-flight and the user agent are applied last."""
    texts = ["max_in_flight,7", "user_agent,me", "max-attempts,3"]
    options = client_options("nsq_tail", texts, max_in_flight=200)
    assert options.max_in_flight == 200
    assert options.user_agent == f"nsq_tail/{VERSION} nsqkit/{VERSION}"
    assert options.max_attempts == 3


@pytest.mark.parametrize("swap", [False, True])
def test_client_options_in_any_order(swap: bool) -> None:
    """Two that limit each other are compared only when both are known."""
    texts = ["heartbeat_interval,90s", "read_timeout,2m"]
    options = client_options("x", texts[::-1] if swap else texts)
    assert (options.heartbeat_interval, options.read_timeout) == (90, 120)


def test_messages_are_never_given_up_by_default() -> None:
    """Unless a limit is asked for."""
    assert validate(load(["-topic=t", NSQD])).max_attempts == 0
    assert validate(load(["-topic=t", NSQD, "-consumer-opt=max_attempts,9"])).max_attempts == 9


def test_the_token_in_a_file_is_shown_by_the_client_library(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("nsq_1\n")
    (tmp_path / "d").write_text("nsq_2\n")
    own, destination = (
        f"-access-token-file={tmp_path / 't'}",
        f"-destination-access-token-file={tmp_path / 'd'}",
    )
    assert validate(load(["-topic=t", NSQD, own])).auth_secret == "nsq_1"
    assert validate(load(["-topic=t", NSQD, own, "-consumer-opt=auth_secret,x"])).auth_secret == "x"
    assert validate(load(["-topic=t", NSQD])).auth_secret == ""
    flags = parse(NsqToNsqFlags, [*TO_NSQ, own, destination], program="nsq_to_nsq")
    assert [options.auth_secret for options in validate_nsq_to_nsq(flags)] == ["nsq_1", "nsq_2"]
    flags = parse(NsqToNsqFlags, [*TO_NSQ, own], program="nsq_to_nsq")
    assert validate_nsq_to_nsq(flags)[1].auth_secret == "", "the token of one cluster is not shown to another"
    to_nsq_flags = parse(to_nsq.ToNsqFlags, ["-topic=t", NSQD, own], program="to_nsq")
    assert to_nsq.validate(to_nsq_flags).auth_secret == "nsq_1"
    stat_flags = parse(nsq_stat.StatFlags, [*STAT, NSQD_HTTP, own], program="nsq_stat")
    assert nsq_stat.validate(stat_flags) == "nsq_1"
    peek_flags = parse(nsq_peek.PeekFlags, [*STAT, NSQD_HTTP, own], program="nsq_peek")
    assert nsq_peek.validate(peek_flags) == "nsq_1"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], {"Content-Type": "application/octet-stream"}),
        (["A:b:c", "a: d "], {"Content-Type": "application/octet-stream", "a": "d"}),
        (["content-type: text/x"], {"content-type": "text/x"}),
        (["A:"], {"Content-Type": "application/octet-stream", "A": ""}),
    ],
)
def test_headers(headers: list[str], expected: dict[str, str]) -> None:
    """The last of several of one name counts; the tool's own can be replaced."""
    flags = ToHttpFlags(topic="t", nsqd_tcp_addresses=["a:1"], post=["http://a/"], headers=headers)
    assert parse_headers(flags) == expected


def test_a_circle_is_seen_only_where_there_is_one() -> None:
    """Another topic, or another nsqd, is none."""
    flags = NsqToNsqFlags(
        topics=["t"],
        nsqd_tcp_addresses=["a:1"],
        destination_nsqd_tcp_addresses=["a:1"],
        destination_topic="u",
    )
    validate_nsq_to_nsq(flags)
    flags.topics.append("u")
    with pytest.raises(OptionError, match="round in circles"):
        validate_nsq_to_nsq(flags)


def test_forwarders_never_give_up_and_wait_for_a_while() -> None:
    """Unless they are told otherwise."""
    flags = NsqToNsqFlags(topics=["t"], nsqd_tcp_addresses=["a:1"], destination_nsqd_tcp_addresses=["b:1"])
    consuming, publishing = validate_nsq_to_nsq(flags)
    assert (consuming.max_attempts, consuming.max_in_flight) == (0, 200)
    assert (publishing.publish_timeout, publishing.at_least_once) == (15.0, True)
    flags.producer_opts = ["publish_timeout,1s"]
    assert validate_nsq_to_nsq(flags)[1].publish_timeout == 1.0


def tail_options(**changes: object) -> tuple[nsq_tail.TailFlags, ClientOptions]:
    """Flags that are in order but for the changes."""
    flags = nsq_tail.TailFlags(topics=["t"], nsqd_tcp_addresses=["127.0.0.1:4150"])
    for name, value in changes.items():
        setattr(flags, name, value)
    return flags, nsq_tail.validate(flags)


@pytest.mark.parametrize(
    ("n", "max_in_flight", "expected"), [(0, 200, 200), (10, 200, 10), (200, 200, 200), (500, 200, 200)]
)
def test_tail_asks_for_no_more_than_it_shows(n: int, max_in_flight: int, expected: int) -> None:
    """max-in-flight is lowered to n."""
    _, options = tail_options(n=n, max_in_flight=max_in_flight)
    assert options.max_in_flight == expected


def test_tail_has_a_channel_of_its_own() -> None:
    """Ephemeral, and by chance."""
    names = {tail_options()[0].channel for _ in range(20)}
    assert all(re.fullmatch(r"tail\d{6}#ephemeral", name) for name in names)
    assert len(names) > 1


def test_same_folder_twice_is_no_work_dir() -> None:
    """However it is spelled."""
    flags = load(["-topic=t", NSQD, "-output-dir=/x/y", "-work-dir=/x/./y/", "-filename-format=<TOPIC>"])
    validate(flags)
    assert not flags.moves


def test_folders_must_be_on_one_file_system(tmp_path: object) -> None:
    """A file is moved by a link: found out at the start, not after the first hour."""
    flags = load(["-topic=t", NSQD, f"-output-dir={tmp_path}", "-work-dir=/dev/shm/nsq-to-file-test"])
    if not nsq_to_file.Path("/dev/shm").is_mount():
        pytest.skip("/dev/shm is not a file system of its own")
    with pytest.raises(OptionError, match="same file system"):
        nsq_to_file.prepare_folders(flags)
    nsq_to_file.Path("/dev/shm/nsq-to-file-test").rmdir()


def test_folder_that_cannot_be_made(tmp_path: object) -> None:
    """Said at the start."""
    flags = load(["-topic=t", NSQD, "-output-dir=/proc/nothing/here"])
    with pytest.raises(OptionError, match="failed to make /proc/nothing"):
        nsq_to_file.prepare_folders(flags)
