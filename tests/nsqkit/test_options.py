"""Flags, configuration file, help and bounds, on an options class that has every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.options import (
    BOOL,
    DURATION,
    FLOAT,
    FLOATS,
    HIDDEN,
    INT,
    LOG_LEVEL,
    MINUTE,
    NO_EFFECT,
    SECOND,
    STRING,
    STRINGS,
    TLS_REQUIRED,
    TLS_VERSION,
    Address,
    Bytes,
    DaemonOptions,
    Duration,
    ExitError,
    Group,
    Kind,
    LogLevel,
    OptionError,
    TlsRequired,
    TlsVersion,
    check_values,
    did_you_mean,
    find_option,
    format_duration,
    load,
    option,
    option_value,
    options_of,
    parse,
    parse_duration,
    refusal,
)


@attrs.define(kw_only=True)
class Every(DaemonOptions):
    """One field of each kind, and each way to name one."""

    switch: bool = option(False, help="A switch.")
    max_msg_size: Bytes = option(1024, help="A number.", minimum=1, maximum=1 << 40)
    count: int | None = option(None, help="Unset unless given.", minimum=1)
    rate: float = option(1.0, help="A fraction.")
    name: str = option("[x] ", help="A text.", placeholder="NAME")
    mode: str = option("slow", help="One of three.", choices=("slow", "steady", "fast"))
    node_id: int = option(factory=lambda: 617, help="Computed.", config_name="id")
    lookup_addresses: list[Address] = option(flag="lookup-address", help="A list.")
    percentiles: list[float] = option(flag="percentile", help="Numbers.")
    tls_min_version: TlsVersion = option(TlsVersion.TLS1_0, help="A version.")
    tls_required: TlsRequired = option(TlsRequired.NO, help="Three ways.")
    task: str = option("", help="Only a flag.", config_name=HIDDEN)

    NOTHING: ClassVar = NO_EFFECT

    worker_id: bool = option(False, help="Without effect.", config_name=HIDDEN)
    pool_size: int = option(4, help="Without effect.")

    SECOND_GROUP: ClassVar = Group("Second")

    deflate: bool = option(True, help="A switch that is on.")
    interval: Duration = option(1 * MINUTE, help="A time.", minimum=1)


@attrs.define(kw_only=True)
class Tool:
    """A program without a configuration file, and without durations."""

    name: str = option("", help="A text.")
    print_topic: bool = option(False, help="A switch.")


def checked(text: str) -> list[str]:
    if "," not in text:
        raise ValueError("no comma")
    return [text]


Checked = Annotated[list[str], attrs.evolve(STRINGS, from_text=checked)]


def options(*argv: str, **settings: Any) -> Every:
    """Parse a command line for a daemon of the name `prog`."""
    return parse(Every, argv, program="prog", **({"version": "prog v1.4.0"} | settings))


def ended(*argv: str, **settings: Any) -> ExitError:
    with pytest.raises(ExitError) as caught:
        options(*argv, **settings)
    return caught.value


def mistake(*argv: str) -> str:
    """The line for a mistake on the command line, without the pointer to the help."""
    error = ended(*argv)
    assert (error.code, error.stdout) == (2, "")
    line, pointer, rest = error.stderr.rpartition("; see prog --help")
    assert (pointer, rest) == ("; see prog --help", "\n")
    assert "\n" not in line
    return line


def from_file(tmp_path: Path, toml: str, *argv: str) -> Every:
    path = tmp_path / "prog.cfg"
    path.write_text(toml)
    return options(f"--config={path}", *argv)


def file_refused(tmp_path: Path, toml: str, *argv: str) -> str:
    path = tmp_path / "prog.cfg"
    path.write_text(toml)
    error = ended(f"--config={path}", *argv)
    assert (error.code, error.stdout) == (1, "")
    return error.stderr


class TestGrammarOfFlags:
    @pytest.mark.parametrize(
        "argv",
        [
            ["-max-msg-size", "5"],
            ["-max-msg-size=5"],
            ["--max-msg-size", "5"],
            ["--max-msg-size=5"],
            ["--max-msg-size=4", "-max-msg-size", "5"],
        ],
    )
    def test_forms(self, argv: list[str]) -> None:
        assert options(*argv).max_msg_size == 5

    def test_nothing_given(self) -> None:
        assert options() == Every()
        assert options("--") == Every()
        assert options().interval == 60 * SECOND
        assert options().node_id == 617
        assert options().count is None

    def test_value_may_look_like_a_flag_or_hold_equals(self) -> None:
        assert options("--name", "--switch").name == "--switch"
        assert options("--name=a=b=").name == "a=b="
        assert options("--name=").name == ""
        assert options("--name", "").name == ""

    @pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True"])
    def test_words_for_true(self, word: str) -> None:
        assert options(f"-switch={word}").switch is True

    @pytest.mark.parametrize("word", ["0", "f", "F", "FALSE", "false", "False"])
    def test_words_for_false(self, word: str) -> None:
        assert options(f"-deflate={word}").deflate is False

    @pytest.mark.parametrize(
        ("argv", "line"),
        [
            (["foo", "-version"], "unknown arguments: [foo -version]"),
            (["-switch", "--", "-version"], "unknown arguments: [-version]"),
            (["-switch", "--", "false"], "unknown arguments: [false]"),
            (["-switch", "-", "-version"], "unknown arguments: [- -version] (-switch takes no value)"),
            (["-switch", "", "-version"], "unknown arguments: [ -version] (-switch takes no value)"),
            (["-deflate=true", "false"], "unknown arguments: [false]"),
            (["-deflate", "-name", "x", "false"], "unknown arguments: [false]"),
            (["-deflate", "false", "-switch"], "unknown arguments: [false -switch] (write -deflate=false)"),
            (["--switch", "1"], "unknown arguments: [1] (write -switch=1)"),
            (
                ["-tls-required", "tcp-https"],
                "unknown arguments: [tcp-https] (write -tls-required=tcp-https)",
            ),
            (["-worker-id", "7"], "unknown arguments: [7] (-worker-id takes no value)"),
            (["a\nb"], r"unknown arguments: [a\nb]"),
        ],
    )
    def test_a_word_that_is_no_flag_is_a_mistake(self, argv: list[str], line: str) -> None:
        assert mistake(*argv) == line

    def test_the_word_is_noticed_before_the_file_is_read(self) -> None:
        assert mistake("-config=/nonexistent", "foo") == "unknown arguments: [foo]"

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("0x1F", 31),
            ("-0X1f", -31),
            ("0o17", 15),
            ("017", 15),
            ("0_17", 15),
            ("0b101", 5),
            ("1_000_000", 1_000_000),
            ("0x_ff", 255),
            (str(2**63 - 1), 2**63 - 1),
            (str(-(2**63)), -(2**63)),
        ],
    )
    def test_integers(self, text: str, value: int) -> None:
        assert options("--max-msg-size", text).max_msg_size == value

    @pytest.mark.parametrize(
        "text",
        ["", "abc", "1.5", "1e3", " 1", "1 ", "1__0", "_1", "1_", "0x", "09", "0b2", "--1", "1s", "\u0661"],
    )
    def test_no_integers(self, text: str) -> None:
        assert (
            mistake(f"--max-msg-size={text}") == f'invalid value "{text}" for flag -max-msg-size: parse error'
        )

    @pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), "9" * 5000])
    def test_integers_beyond_64_bits(self, text: str) -> None:
        line = mistake(f"--max-msg-size={text}")
        assert line == f'invalid value "{text}" for flag -max-msg-size: value out of range'

    def test_floats(self) -> None:
        assert options("--rate", ".5").rate == 0.5
        assert options("--rate", "-1e-3").rate == -0.001
        for text in ("nan", "inf", "1_0", "", "x", "0x1p4"):
            assert "parse error" in ended(f"--rate={text}").stderr
        assert "value out of range" in ended("--rate=1e999").stderr

    def test_durations(self) -> None:
        assert options("--interval", "1h2m3.5s").interval == 3_723_500_000_000

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("60", "duration without a unit: write 60s"),
            ("1.5", "duration without a unit: write 1.5s"),
            ("-5", "duration without a unit: write -5s"),
            ("1h30", "duration without a unit: write 5s, 250ms or 1h30m"),
            ("5 s", "no duration: write 5s, 250ms or 1h30m"),
            ("soon", "no duration: write 5s, 250ms or 1h30m"),
            ("", "empty duration"),
            ("300y", "no duration: write 5s, 250ms or 1h30m"),
            ("9999999h", "duration out of range, the longest is 292 years"),
        ],
    )
    def test_a_wrong_duration_is_shown_a_right_one(self, text: str, hint: str) -> None:
        line = mistake(f"--interval={text}")
        assert line == f'invalid value "{text}" for flag -interval: parse error ({hint})'

    def test_lists_gather(self) -> None:
        given = options("--lookup-address=b:1", "-lookup-address", "a:1,c:2")
        assert given.lookup_addresses == ["b:1", "a:1,c:2"]

    def test_percentiles_are_sorted_downwards(self) -> None:
        assert options("--percentile=0.5,0.99", "--percentile=0.75").percentiles == [0.99, 0.75, 0.5]

    def test_percentile_that_is_no_number_ends_with_one_line(self) -> None:
        error = ended("--percentile=0.5,abc")
        assert error.code == 1
        assert re.fullmatch(r"\S+ \S+ Could not parse: abc\n", error.stderr)

    @pytest.mark.parametrize(
        ("argv", "value"),
        [
            ([], TlsRequired.NO),
            (["-tls-required"], TlsRequired.YES),
            (["-tls-required=True"], TlsRequired.YES),
            (["-tls-required=false"], TlsRequired.NO),
            (["-tls-required=TCP-https"], TlsRequired.TCP_HTTPS),
        ],
    )
    def test_tls_required_has_three_states(self, argv: list[str], value: TlsRequired) -> None:
        assert options(*argv).tls_required is value

    def test_tls_versions(self) -> None:
        assert options("--tls-min-version", "TLS1.2").tls_min_version is TlsVersion.TLS1_2
        assert options("--tls-min-version=").tls_min_version is TlsVersion.TLS1_2
        assert [int(version) for version in TlsVersion] == [769, 770, 771, 772]
        line = mistake("--tls-min-version=tls12")
        assert line.startswith(
            'invalid value "tls12" for flag -tls-min-version: unknown TLS version (tls1.0, '
        )
        assert line.endswith(" (did you mean tls1.2?)")
        assert "did you mean" not in mistake("--tls-min-version=x")

    def test_log_levels(self) -> None:
        assert options("--log-level", "WARN").log_level is LogLevel.WARNING
        line = mistake("--log-level=warning")
        assert line.startswith('invalid value "warning" for flag -log-level: invalid log level')
        assert line.endswith(" (did you mean warn?)")

    @pytest.mark.parametrize(
        ("argv", "line"),
        [
            (["-x"], "flag provided but not defined: -x"),
            (["--x=1"], "flag provided but not defined: -x"),
            (["-intervall=1s"], "flag provided but not defined: -intervall (did you mean --interval?)"),
            (
                ["--max-mgs-size", "1"],
                "flag provided but not defined: -max-mgs-size (did you mean --max-msg-size?)",
            ),
            (["-SWITCH"], "flag provided but not defined: -SWITCH (did you mean --switch?)"),
            (["-verison"], "flag provided but not defined: -verison (did you mean --version?)"),
            (["-id=5"], "flag provided but not defined: -id (did you mean --node-id?)"),
            (["-a\nb"], r"flag provided but not defined: -a\nb"),
            (["---switch"], "bad flag syntax: ---switch"),
            (["-=1"], "bad flag syntax: -=1"),
            (["--=1"], "bad flag syntax: --=1"),
            (["-name"], "flag needs an argument: -name"),
            (["-switch=maybe"], 'invalid boolean value "maybe" for -switch: parse error'),
            (["-switch="], 'invalid boolean value "" for -switch: parse error'),
            (["-tls-required=yes"], 'invalid boolean value "yes" for -tls-required: parse error'),
            (
                ["-tls-required=tcphttps"],
                'invalid boolean value "tcphttps" for -tls-required: parse error (did you mean tcp-https?)',
            ),
            (
                ["-max_msg_size=1"],
                "flag provided but not defined: -max_msg_size (did you mean --max-msg-size?)",
            ),
            (
                ["-lookup-addresses=a"],
                "flag provided but not defined: -lookup-addresses (did you mean --lookup-address?)",
            ),
        ],
    )
    def test_mistakes(self, argv: list[str], line: str) -> None:
        assert mistake(*argv) == line

    @given(st.lists(st.text(alphabet="-=abchelpversionswitch01 .", max_size=12), max_size=5))
    def test_any_words_are_read_or_refused(self, argv: list[str]) -> None:
        try:
            parse(Tool, argv, program="prog", version="v")
        except ExitError as error:
            outcome = error.code, error.stderr.count("\n")
        else:
            return
        assert outcome[0] == 0 or outcome == (2, 1)


class TestVersionAndHelp:
    @pytest.mark.parametrize(
        "argv", [["-version"], ["--version=true"], ["-config=/nonexistent", "--version", "-switch"]]
    )
    def test_version_wins_over_all_that_parses(self, argv: list[str]) -> None:
        error = ended(*argv)
        assert (error.code, error.stdout, error.stderr) == (0, "prog v1.4.0\n", "")

    def test_version_does_not_win_over_a_mistake(self) -> None:
        assert ended("-version", "-x").code == 2

    def test_version_switched_off(self) -> None:
        assert options("-version=false") == Every()

    def test_version_wins_over_words_after_the_flags(self) -> None:
        assert ended("-version", "word").code == 0

    def test_a_program_without_version_or_file(self) -> None:
        for flag in ("version", "config"):
            with pytest.raises(ExitError) as caught:
                parse(Tool, [f"-{flag}"], program="tool")
            line = f"flag provided but not defined: -{flag}; see tool --help\n"
            assert (caught.value.code, caught.value.stderr) == (2, line)
        with pytest.raises(ExitError) as caught:
            parse(Tool, ["-h"], program="tool")
        text = caught.value.stderr
        assert "--name" in text
        assert "--version" not in text
        assert "--config" not in text
        assert "TOML" not in text
        assert "DURATION" not in text

    @pytest.mark.parametrize("flag", ["-h", "--h", "-help", "--help", "-help=x"])
    def test_help(self, flag: str) -> None:
        error = ended(flag, "-x", synopsis="does things", example="prog --switch\nprog --name=x")
        assert (error.code, error.stdout) == (0, "")
        assert error.stderr.startswith("prog - does things\n\nUsage:\n  prog [flags]\n\n")
        assert "Example:\n  prog --switch\n  prog --name=x\n" in error.stderr

    def test_help_shows_every_flag_in_its_group_with_its_default(self) -> None:
        text = ended("-h").stderr
        general, rest = text.split("\nGeneral:\n")[1].split("\nSecond:\n")
        second, without_effect = rest.split("\nAccepted without effect:\n")
        assert set(re.findall(r"^  --([a-z-]+)", general + rest, re.MULTILINE)) == {
            "version",
            "config",
            *(option.flag for option in options_of(Every)),
        }
        assert "  --interval DURATION  (default 1m0s)\n        A time.\n" in second
        assert "  --deflate  (default true)\n" in second
        assert "  --switch\n        A switch.\n" in general
        assert "  --name NAME  (default '[x] ')\n" in general
        assert "  --count N\n" in general
        assert "  --node-id N  (default 617)\n        Computed. In the file: id.\n" in general
        assert "  --lookup-address ADDRESS  (may be given several times)\n" in general
        assert "  --max-msg-size BYTES  (default 1024)\n" in general
        assert "  --mode slow|steady|fast  (default slow)\n" in general
        assert "  --log-level LEVEL  (default INFO)\n" in general
        assert "  --tls-min-version VERSION  (default tls1.0)\n" in general
        assert "  --tls-required[=tcp-https]  (default false)\n" in general
        assert "  --rate X  (default 1)\n" in general
        assert re.findall(r"^  --([a-z-]+)", without_effect, re.MULTILINE) == [
            "verbose",
            "worker-id",
            "pool-size",
        ]
        assert max(map(len, text.splitlines())) <= 100


class TestConfigFile:
    def test_flag_wins_over_file_wins_over_default(self, tmp_path: Path) -> None:
        made = from_file(tmp_path, 'max_msg_size = 2\nname = "file"', "--name=flag")
        assert (made.max_msg_size, made.name, made.rate) == (2, "flag", 1.0)

    def test_a_key_without_effect_may_have_any_value(self, tmp_path: Path) -> None:
        made = from_file(tmp_path, "verbose = 7\nworker_id = 'x'\npool_size = 5\n")
        assert made == Every(pool_size=5)

    @pytest.mark.parametrize(
        ("toml", "key", "hint"),
        [
            ("nope = 1", "nope", ""),
            ("'' = 1", "", ""),
            ("rat = 1", "rat", " (did you mean rate?)"),
            ("Max_Mgs_Size = 1", "Max_Mgs_Size", " (did you mean max_msg_size?)"),
            ("'max-msg-size' = 1", "max-msg-size", " (did you mean max_msg_size?)"),
            ("node_id = 3", "node_id", " (did you mean id?)"),
            ("lookup_address = 4", "lookup_address", " (did you mean lookup_addresses?)"),
            ("task = 'x'", "task", " (only a flag: --task)"),
            ("version = true", "version", " (only a flag: --version)"),
            ("config = 'x'", "config", " (only a flag: --config)"),
            ("[section]\nrate = 3.0", "section", " (a section: all keys are on the top level)"),
            ("rate = 2\nnope = 1\nalso = 1\n[third]", "nope", ", and 2 more"),
        ],
    )
    def test_an_unknown_key_is_an_error(self, tmp_path: Path, toml: str, key: str, hint: str) -> None:
        text = file_refused(tmp_path, toml)
        line = f" FATAL: failed to load config file {tmp_path / 'prog.cfg'} - unknown key '{key}'{hint}\n"
        assert text.startswith("[prog] ")
        assert text.endswith(line)
        assert text.count("\n") == 1

    def test_an_unknown_key_that_a_flag_overrides_is_one_all_the_same(self, tmp_path: Path) -> None:
        assert "'rat'" in file_refused(tmp_path, "rat = 1", "--rate=2")

    def test_a_wrong_value_that_a_flag_overrides_is_not_looked_at(self, tmp_path: Path) -> None:
        assert from_file(tmp_path, "rate = 'x'", "--rate=2").rate == 2

    @pytest.mark.parametrize(
        ("toml", "field", "value"),
        [
            ("switch = true", "switch", True),
            ('switch = "t"', "switch", True),
            ('deflate = "false"', "deflate", False),
            ("deflate = 0", "deflate", False),
            ("max_msg_size = 0x10", "max_msg_size", 16),
            ('max_msg_size = "2048"', "max_msg_size", 2048),
            ("rate = 0.25", "rate", 0.25),
            ("rate = 2", "rate", 2.0),
            ('rate = "0.5"', "rate", 0.5),
            ('name = ""', "name", ""),
            ('interval = "5s"', "interval", 5 * SECOND),
            ("interval = 1000", "interval", SECOND),
            ("id = 12", "node_id", 12),
            ('lookup_addresses = ["a:1", "b:2"]', "lookup_addresses", ["a:1", "b:2"]),
            ('lookup_addresses = "a:1, b:2"', "lookup_addresses", ["a:1", "b:2"]),
            ('lookup_addresses = ""', "lookup_addresses", []),
            ("percentiles = [0.5, 1.0, 0.9]", "percentiles", [0.5, 1.0, 0.9]),
            ("percentiles = [1]", "percentiles", [1.0]),
            ('percentiles = "0.5,0.99"', "percentiles", [0.5, 0.99]),
            ('log_level = "Debug"', "log_level", LogLevel.DEBUG),
            ('tls_min_version = "tls1.3"', "tls_min_version", TlsVersion.TLS1_3),
            ("tls_required = true", "tls_required", TlsRequired.YES),
            ('tls_required = "true"', "tls_required", TlsRequired.YES),
            ('tls_required = "tcp-https"', "tls_required", TlsRequired.TCP_HTTPS),
            ("tls_required = false", "tls_required", TlsRequired.NO),
        ],
    )
    def test_values(self, tmp_path: Path, toml: str, field: str, value: object) -> None:
        found = getattr(from_file(tmp_path, toml), field)
        assert found == value
        assert type(found) is type(value)

    def test_lists_of_flags_replace_those_of_the_file(self, tmp_path: Path) -> None:
        made = from_file(
            tmp_path,
            'lookup_addresses = ["a"]\npercentiles = [0.1]',
            "--lookup-address=b",
            "--lookup-address=c",
            "--percentile=0.2",
        )
        assert made.lookup_addresses == ["b", "c"]
        assert made.percentiles == [0.2]

    @pytest.mark.parametrize(
        "toml",
        [
            "switch = 2",
            "switch = 1.0",
            'switch = "yes"',
            "max_msg_size = 1.5",
            "max_msg_size = true",
            'max_msg_size = "x"',
            "max_msg_size = 9223372036854775808",
            "rate = true",
            "rate = []",
            "name = 5",
            'interval = "5"',
            "interval = 1.5",
            "interval = true",
            "interval = 9223372036855",
            "lookup_addresses = [1]",
            "lookup_addresses = 1",
            'percentiles = ["a"]',
            'percentiles = "a"',
            "percentiles = 1",
            "[name]\na = 1",
        ],
    )
    def test_wrong_types(self, tmp_path: Path, toml: str) -> None:
        text = file_refused(tmp_path, toml)
        name = toml.strip("[").split(" ")[0].split("]")[0]
        path = re.escape(str(tmp_path / "prog.cfg"))
        assert re.fullmatch(
            rf"\S+ \S+ ERROR: Resolve failed to coerce value .+ for field {name} - .+ \(in {path}\)\n", text
        )

    @pytest.mark.parametrize(
        ("toml", "reason"),
        [
            ('tls_required = "maybe"', "tls_required maybe in {path} - expected false, tcp-https, true"),
            ("tls_required = 1", "tls_required 1 in {path} - expected false, tcp-https, true"),
            (
                'tls_min_version = "tls-1.2"',
                "tls_min_version tls-1.2 in {path} - expected tls1.0, tls1.1, tls1.2, tls1.3 (did you mean tls1.2?)",
            ),
            (
                "tls_min_version = true",
                "tls_min_version true in {path} - expected tls1.0, tls1.1, tls1.2, tls1.3",
            ),
            (
                'log_level = "warning"',
                "log_level warning in {path} - expected debug, info, warn, error, fatal (did you mean warn?)",
            ),
        ],
    )
    def test_unknown_words(self, tmp_path: Path, toml: str, reason: str) -> None:
        text = file_refused(tmp_path, toml)
        assert text.startswith("[prog] ")
        line = reason.format(path=tmp_path / "prog.cfg")
        assert text.endswith(f" FATAL: failed parsing {line}\n")
        assert text.count("\n") == 1

    @pytest.mark.parametrize("toml", ["a = ", "x", "a = 1\na = 2", "[" * 100_000, "#" * (1 << 20) + "#"])
    def test_files_that_are_no_toml(self, tmp_path: Path, toml: str) -> None:
        text = file_refused(tmp_path, toml)
        path = re.escape(str(tmp_path / "prog.cfg"))
        assert re.fullmatch(rf"\[prog\] \S+ \S+ FATAL: failed to load config file {path} - .+\n", text)

    def test_files_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "c"
        path.write_bytes(b'name = "\xff"')
        assert f"FATAL: failed to load config file {path} - " in ended(f"-config={path}").stderr

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        assert ended(f"-config={missing}").stderr.endswith(
            f" FATAL: failed to load config file {missing} - No such file or directory\n"
        )
        assert ended(f"-config={tmp_path}").stderr.endswith(" - Is a directory\n")
        assert "more than 1048576 bytes" in ended("-config=/dev/zero").stderr

    def test_no_name_is_no_file(self) -> None:
        assert options("--config=") == Every()


class TestValuesByConfigName:
    def test_value_with_its_kind(self) -> None:
        made = Every(interval=5 * SECOND, tls_required=TlsRequired.YES)
        assert (option_value(made, "interval").kind, option_value(made, "interval").value) == (
            DURATION,
            5 * SECOND,
        )
        assert option_value(made, "tls_required").kind is TLS_REQUIRED
        assert option_value(made, "id").value == 617

    @pytest.mark.parametrize(
        "name", ["node_id", "verbose", "version", "config", "nope", "", "lookup_address"]
    )
    def test_names_that_are_not_visible(self, name: str) -> None:
        with pytest.raises(KeyError):
            option_value(Every(), name)

    def test_is_the_value_of_now(self) -> None:
        made = Every()
        made.lookup_addresses = ["a:1"]
        field = find_option(Every, "lookup_addresses").field
        assert option_value(made, field).value == ["a:1"]

    def test_lists_are_not_shared(self) -> None:
        first = Every()
        first.lookup_addresses.append("a")
        assert Every().lookup_addresses == []


class TestChecks:
    @pytest.mark.parametrize(
        ("made", "text"),
        [
            (Every(max_msg_size=0), "--max-msg-size must be between 1 and 1099511627776, not 0"),
            (
                Every(max_msg_size=1 << 41),
                "--max-msg-size must be between 1 and 1099511627776, not 2199023255552",
            ),
            (Every(interval=-SECOND), "--interval must be at least 1ns, not -1s"),
            (Every(count=0), "--count must be at least 1, not 0"),
            (Every(mode="x"), "--mode must be one of slow, steady, fast, not 'x'"),
            (Every(mode="fsat"), "--mode must be one of slow, steady, fast, not 'fsat' (did you mean fast?)"),
            (Every(mode="FAST"), "--mode must be one of slow, steady, fast, not 'FAST' (did you mean fast?)"),
            (Every(log_format="xml"), "--log-format must be text or json, not 'xml'"),
        ],
    )
    def test_outside(self, made: Every, text: str) -> None:
        with pytest.raises(OptionError) as caught:
            check_values(made)
        assert str(caught.value) == text

    def test_maximum_alone(self) -> None:
        @attrs.define(kw_only=True)
        class Small:
            few: int = option(1, help="Few.", maximum=3)

        check_values(Small(few=-5))
        with pytest.raises(OptionError, match=r"^--few must be at most 3, not 4\Z"):
            check_values(Small(few=4))

    def test_inside(self) -> None:
        made = Every(max_msg_size=1, interval=1, count=1)
        check_values(made)
        assert made == Every(max_msg_size=1, interval=1, count=1)

    def test_a_value_from_the_file_names_file_and_key(self, tmp_path: Path) -> None:
        made = from_file(tmp_path, "max_msg_size = 0\nid = 2000\ncount = 5", "--count=0")
        path = tmp_path / "prog.cfg"
        with pytest.raises(OptionError) as caught:
            check_values(made)
        bounds = "--max-msg-size must be between 1 and 1099511627776, not 0"
        assert str(caught.value) == f"{bounds} (max_msg_size in {path})"
        assert str(refusal(made, "node_id", "--node-id is bad")) == f"--node-id is bad (id in {path})"
        assert str(refusal(made, "count", "--count is bad")) == "--count is bad"
        assert str(refusal(Tool(), "name", "--name is bad")) == "--name is bad"


class TestDeclaration:
    @pytest.mark.parametrize(
        ("field", "kind", "placeholder"),
        [
            ("switch", BOOL, ""),
            ("max_msg_size", INT, "BYTES"),
            ("count", INT, "N"),
            ("rate", FLOAT, "X"),
            ("name", STRING, "NAME"),
            ("mode", STRING, "slow|steady|fast"),
            ("lookup_addresses", STRINGS, "ADDRESS"),
            ("percentiles", FLOATS, "X,..."),
            ("interval", DURATION, "DURATION"),
            ("log_level", LOG_LEVEL, "LEVEL"),
            ("tls_min_version", TLS_VERSION, "VERSION"),
            ("tls_required", TLS_REQUIRED, "[=tcp-https]"),
        ],
    )
    def test_the_annotation_tells_kind_and_placeholder(
        self, field: str, kind: Kind, placeholder: str
    ) -> None:
        found = next(option for option in options_of(Every) if option.field == field)
        assert found.kind is kind
        assert found.placeholder == placeholder

    def test_the_heading_above_tells_the_group(self) -> None:
        groups = {option.field: option.group for option in options_of(Every)}
        assert groups["log_level"] == groups["switch"] == groups["task"] == "General"
        assert groups["verbose"] == groups["pool_size"] == "Accepted without effect"
        assert groups["deflate"] == groups["interval"] == "Second"

    def test_all_words_of_a_kind_are_values_of_it(self) -> None:
        for kind in (LOG_LEVEL, TLS_VERSION, TLS_REQUIRED):
            values = {kind.from_text(word) for word in kind.words}
            assert len(values) == len(kind.words)
            assert len(values) == len(type(kind.from_text(kind.words[0])).__members__)

    @pytest.mark.parametrize("annotation", [bytes, dict[str, str], list[int], int | str])
    def test_an_annotation_without_a_kind_is_an_error(self, annotation: Any) -> None:
        class Wrong:
            __annotations__ = {"field": annotation}
            field = option(None, help="")

        with pytest.raises(TypeError, match="no kind of option for the annotation"):
            options_of(attrs.define(Wrong))

    def test_a_kind_of_ones_own(self) -> None:
        @attrs.define(kw_only=True)
        class Tool:
            consumer_opt: Checked = option(help="")

        found = parse(Tool, ["-consumer-opt=a,1", "-consumer-opt=b,2"], program="tool")
        assert found.consumer_opt == ["a,1", "b,2"]
        with pytest.raises(ExitError) as caught:
            parse(Tool, ["-consumer-opt=a"], program="tool")
        line = 'invalid value "a" for flag -consumer-opt: no comma; see tool --help\n'
        assert caught.value.stderr == line

    def test_a_list_with_defaults(self) -> None:
        @attrs.define(kw_only=True)
        class Tool:
            words: list[str] = option(factory=lambda: ["a", "b"], help="Words.")

        assert parse(Tool, [], program="tool").words == ["a", "b"]
        assert parse(Tool, ["-words=c"], program="tool").words == ["c"]


class TestLoad:
    def test_gives_the_options(self) -> None:
        assert load(Every, ["--count=3"], program="prog") == Every(count=3)

    def test_prints_and_exits(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            load(Every, ["-version"], program="prog", version="prog v9")
        assert caught.value.code == 0
        assert capsys.readouterr() == ("prog v9\n", "")
        with pytest.raises(SystemExit) as caught:
            load(Every, ["-x"], program="prog", synopsis="does things")
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "flag provided but not defined: -x; see prog --help\n"


class TestNearestName:
    @pytest.mark.parametrize(
        ("word", "hint"),
        [
            ("mem-queue-sizee", " (did you mean mem-queue-size?)"),
            ("MEM_QUEUE_SIZE", " (did you mean mem-queue-size?)"),
            ("mem-queue-bites", " (did you mean mem-queue-bytes?)"),
            ("nsqlookupd", " (did you mean lookupd?)"),
            ("xyz", ""),
            ("", ""),
            ("x" * 1_000_000, ""),
        ],
    )
    def test_of_a_list(self, word: str, hint: str) -> None:
        assert did_you_mean(word, ["mem-queue-size", "mem-queue-bytes", "lookupd"]) == hint

    def test_of_spellings_with_what_is_shown_for_each(self) -> None:
        assert did_you_mean("node_idd", ["node_id", "id"], {"node_id": "id"}) == " (did you mean id?)"


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "nanoseconds"),
        [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("0s", 0),
            ("300ms", 300_000_000),
            ("1.5h", 5_400 * SECOND),
            ("1h2m3.5s", 3_723_500_000_000),
            ("-1.5s", -1_500_000_000),
            ("+2us", 2_000),
            ("2\u00b5s", 2_000),
            ("2\u03bcs", 2_000),
            ("7ns", 7),
            ("0.9ns", 0),
            (".5s", 500_000_000),
            ("1.s", SECOND),
            ("1s1s", 2 * SECOND),
            ("0.1s", 100_000_000),
            ("9223372036854775807ns", 2**63 - 1),
            ("-9223372036854775808ns", -(2**63)),
        ],
    )
    def test_parse(self, text: str, nanoseconds: int) -> None:
        assert parse_duration(text) == nanoseconds

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "-",
            "+",
            "5",
            "1.5",
            ".",
            ".s",
            "s",
            "5 s",
            " 5s",
            "5s ",
            "5d",
            "5S",
            "--5s",
            "1s-1s",
            "1..5s",
            "1e3s",
            "\u0661s",
            "9223372036854775808ns",
            "300y",
            "9" * 100 + "h",
            "0." + "1" * 100 + "s",
            "5s\n",
            "00",
        ],
    )
    def test_parse_refuses(self, text: str) -> None:
        with pytest.raises(ValueError, match="duration"):
            parse_duration(text)

    @pytest.mark.parametrize(
        ("nanoseconds", "text"),
        [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_500, "1.5\u00b5s"),
            (361_975_424, "361.975424ms"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (60 * SECOND, "1m0s"),
            (3_600 * SECOND, "1h0m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (100 * 3_600 * SECOND, "100h0m0s"),
            (-1_500_000_000, "-1.5s"),
            (SECOND + 1, "1.000000001s"),
            (-(2**63), "-2562047h47m16.854775808s"),
        ],
    )
    def test_format(self, nanoseconds: int, text: str) -> None:
        assert format_duration(nanoseconds) == text

    @given(st.integers(-(2**63), 2**63 - 1))
    def test_format_and_back(self, nanoseconds: int) -> None:
        assert parse_duration(format_duration(nanoseconds)) == nanoseconds
