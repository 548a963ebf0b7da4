"""Flags, configuration file, help and bounds, on an options class that has every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.options import (
    DURATION,
    FLOATS,
    HIDDEN,
    INT,
    STRINGS,
    TLS_REQUIRED,
    ExitError,
    LogLevel,
    OptionError,
    Parsed,
    TlsRequired,
    TlsVersion,
    check_bounds,
    find_option,
    format_duration,
    load,
    load_parsed,
    option,
    option_value,
    options_of,
    parse,
    parse_duration,
)

SECOND = 1_000_000_000


@attrs.define(kw_only=True)
class Every:
    """One field of each kind, and each way to name one."""

    switch: bool = option(False, help="A switch.")
    deflate: bool = option(True, help="A switch that is on.", group="Second")
    max_msg_size: int = option(1024, help="A number.", minimum=1, maximum=1 << 40)
    count: int | None = option(None, kind=INT, help="Unset unless given.", minimum=1)
    rate: float = option(1.0, help="A fraction.")
    name: str = option("[x] ", help="A text.", placeholder="NAME")
    interval: int = option("1m", kind=DURATION, help="A time.", group="Second", minimum=1)
    node_id: int = option(factory=lambda: 617, kind=INT, help="Computed.", config_name="id")
    lookup_addresses: list[str] = option(kind=STRINGS, flag="lookup-address", help="A list.")
    percentiles: list[float] = option(kind=FLOATS, flag="percentile", help="Numbers.")
    log_level: LogLevel = option(LogLevel.INFO, help="A level.")
    tls_min_version: TlsVersion = option(TlsVersion.TLS1_0, help="A version.")
    tls_required: TlsRequired = option(TlsRequired.NO, help="Three ways.")
    verbose: bool = option(False, help="Only a flag.", config_name=HIDDEN)


def read(*argv: str, **settings: Any) -> Parsed[Every]:
    """Parse a command line for a daemon of the name `prog`."""
    return parse(Every, argv, program="prog", **({"version": "prog v1.4.0"} | settings))


def options(*argv: str) -> Every:
    return read(*argv).options


def ended(*argv: str, **settings: Any) -> ExitError:
    with pytest.raises(ExitError) as caught:
        read(*argv, **settings)
    return caught.value


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
        parsed = read()
        assert parsed == Parsed(Every(), [], frozenset())
        assert parsed.options.interval == 60 * SECOND
        assert parsed.options.node_id == 617
        assert parsed.options.count is None

    def test_given_names_the_fields(self) -> None:
        assert read("--count=3", "--lookup-address=a").given == {"count", "lookup_addresses"}

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

    def test_bare_boolean_leaves_the_next_word_alone(self) -> None:
        parsed = read("-deflate", "false", "-switch")
        assert parsed.options.deflate is True
        assert parsed.options.switch is False
        assert parsed.arguments == ["false", "-switch"]

    @pytest.mark.parametrize(
        ("argv", "rest"),
        [
            (["foo", "-version"], ["foo", "-version"]),
            (["-switch", "--", "-version"], ["-version"]),
            (["-switch", "-", "-version"], ["-", "-version"]),
            (["-switch", "", "-version"], ["", "-version"]),
            (["--"], []),
        ],
    )
    def test_stops_at_the_first_word_that_is_no_flag(self, argv: list[str], rest: list[str]) -> None:
        assert read(*argv).arguments == rest

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
        error = ended(f"--max-msg-size={text}")
        assert error.stderr.startswith(f'invalid value "{text}" for flag -max-msg-size: parse error\n')

    @pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), "9" * 5000])
    def test_integers_beyond_64_bits(self, text: str) -> None:
        error = ended(f"--max-msg-size={text}")
        assert error.stderr.startswith(f'invalid value "{text}" for flag -max-msg-size: value out of range\n')

    def test_floats(self) -> None:
        assert options("--rate", ".5").rate == 0.5
        assert options("--rate", "-1e-3").rate == -0.001
        for text in ("nan", "inf", "1_0", "", "x", "0x1p4"):
            assert "parse error" in ended(f"--rate={text}").stderr
        assert "value out of range" in ended("--rate=1e999").stderr

    def test_durations(self) -> None:
        assert options("--interval", "1h2m3.5s").interval == 3_723_500_000_000
        assert ended("--interval=10").stderr.startswith(
            'invalid value "10" for flag -interval: parse error\n'
        )

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
        assert options("--tls-min-version=").tls_min_version is TlsVersion.TLS1_0
        assert [int(version) for version in TlsVersion] == [769, 770, 771, 772]
        assert ended("--tls-min-version=ssl3.0").code == 2

    def test_log_levels(self) -> None:
        assert options("--log-level", "WARN").log_level is LogLevel.WARNING
        assert ended("--log-level=warning").stderr.startswith(
            'invalid value "warning" for flag -log-level: invalid log level'
        )

    @pytest.mark.parametrize(
        ("argv", "line"),
        [
            (["-x"], "flag provided but not defined: -x"),
            (["--x=1"], "flag provided but not defined: -x"),
            (["---switch"], "bad flag syntax: ---switch"),
            (["-=1"], "bad flag syntax: -=1"),
            (["--=1"], "bad flag syntax: --=1"),
            (["-name"], "flag needs an argument: -name"),
            (["-switch=maybe"], 'invalid boolean value "maybe" for -switch: parse error'),
            (["-switch="], 'invalid boolean value "" for -switch: parse error'),
            (["-tls-required=yes"], 'invalid boolean value "yes" for -tls-required: parse error'),
            (["-max_msg_size=1"], "flag provided but not defined: -max_msg_size"),
            (["-lookup-addresses=a"], "flag provided but not defined: -lookup-addresses"),
        ],
    )
    def test_mistakes(self, argv: list[str], line: str) -> None:
        error = ended(*argv)
        assert (error.code, error.stdout) == (2, "")
        first, rest = error.stderr.split("\n", 1)
        assert first == line
        assert rest == ended("-h").stderr

    @given(st.lists(st.text(alphabet="-=abchelpversionswitch01 .", max_size=12), max_size=5))
    def test_any_words_are_read_or_refused(self, argv: list[str]) -> None:
        try:
            parsed = parse(Every, argv, program="prog", version="v", config_file=False)
        except ExitError as error:
            code: int | None = error.code
        else:
            code = None
            assert parsed.arguments == argv[len(argv) - len(parsed.arguments) :]
        assert code in (None, 0, 2)


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
        assert read("-version=false").options == Every()

    def test_a_program_without_version_or_file(self) -> None:
        assert ended("-version", version=None).stderr.startswith("flag provided but not defined: -version\n")
        assert ended("-config=x", config_file=False).stderr.startswith(
            "flag provided but not defined: -config\n"
        )
        text = ended("-h", version=None, config_file=False).stderr
        assert "--version" not in text
        assert "--config" not in text
        assert "TOML" not in text

    @pytest.mark.parametrize("flag", ["-h", "--h", "-help", "--help", "-help=x"])
    def test_help(self, flag: str) -> None:
        error = ended(flag, "-x", synopsis="does things", example="prog --switch\nprog --name=x")
        assert (error.code, error.stdout) == (0, "")
        assert error.stderr.startswith("prog - does things\n\nUsage:\n  prog [flags]\n\n")
        assert "Example:\n  prog --switch\n  prog --name=x\n" in error.stderr

    def test_help_shows_every_flag_in_its_group_with_its_default(self) -> None:
        text = ended("-h").stderr
        general, second = text.split("\nGeneral:\n")[1].split("\nSecond:\n")
        assert set(re.findall(r"^  --([a-z-]+)", general + second, re.MULTILINE)) == {
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
        assert "  --lookup-address TEXT  (may be given several times)\n" in general
        assert "  --log-level LEVEL  (default INFO)\n" in general
        assert "  --tls-min-version VERSION  (default tls1.0)\n" in general
        assert "  --tls-required[=tcp-https]  (default false)\n" in general
        assert "  --rate X  (default 1)\n" in general
        assert max(map(len, text.splitlines())) <= 100

    def test_help_fits_programs_without_durations(self) -> None:
        @attrs.define(kw_only=True)
        class Small:
            name: str = option("", help="A text.")

        with pytest.raises(ExitError) as caught:
            parse(Small, ["-h"], program="small")
        assert "DURATION" not in caught.value.stderr


class TestConfigFile:
    def test_flag_wins_over_file_wins_over_default(self, tmp_path: Path) -> None:
        made = from_file(tmp_path, 'max_msg_size = 2\nname = "file"', "--name=flag")
        assert (made.max_msg_size, made.name, made.rate) == (2, "flag", 1.0)

    def test_given_tells_the_files_fields_too(self, tmp_path: Path) -> None:
        path = tmp_path / "c"
        path.write_text("count = 3")
        assert read("-config", str(path), "-switch").given == {"count", "switch"}

    def test_unknown_keys_and_hidden_ones_are_ignored(self, tmp_path: Path) -> None:
        toml = "node_id = 3\nlookup_address = 4\nverbose = true\nnope = 1\n'' = 1\n[section]\nrate = 3.0\n"
        assert from_file(tmp_path, toml) == Every()

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
        assert re.fullmatch(
            rf"\S+ \S+ ERROR: Resolve failed to coerce value .+ for field {name} - .+\n", text
        )

    @pytest.mark.parametrize(
        ("toml", "reason"),
        [
            ('tls_required = "maybe"', "failed parsing tls_required maybe"),
            ("tls_required = 1", "failed parsing tls_required 1"),
            ('tls_min_version = "ssl3.0"', "failed parsing tls_min_version ssl3.0"),
            ("tls_min_version = true", "failed parsing tls_min_version true"),
            ('log_level = "warning"', "failed parsing log_level warning"),
        ],
    )
    def test_unknown_words(self, tmp_path: Path, toml: str, reason: str) -> None:
        assert re.fullmatch(rf"\[prog\] \S+ \S+ FATAL: {reason}\n", file_refused(tmp_path, toml))

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


class TestBounds:
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
        ],
    )
    def test_outside(self, made: Every, text: str) -> None:
        with pytest.raises(OptionError) as caught:
            check_bounds(made)
        assert str(caught.value) == text

    def test_maximum_alone(self) -> None:
        @attrs.define(kw_only=True)
        class Small:
            few: int = option(1, help="Few.", maximum=3)

        check_bounds(Small(few=-5))
        with pytest.raises(OptionError, match=r"^--few must be at most 3, not 4\Z"):
            check_bounds(Small(few=4))

    def test_inside(self) -> None:
        made = Every(max_msg_size=1, interval=1, count=1)
        check_bounds(made)
        assert made == Every(max_msg_size=1, interval=1, count=1)


class TestDeclaration:
    def test_a_kind_is_needed_where_no_default_tells_it(self) -> None:
        with pytest.raises(TypeError, match="needs a kind"):
            option(factory=list, help="")

    def test_a_kind_of_ones_own(self) -> None:
        def checked(text: str) -> list[str]:
            if "," not in text:
                raise ValueError("no comma")
            return [text]

        @attrs.define(kw_only=True)
        class Tool:
            consumer_opt: list[str] = option(kind=attrs.evolve(STRINGS, from_text=checked), help="")

        found = parse(Tool, ["-consumer-opt=a,1", "-consumer-opt=b,2"], program="tool", config_file=False)
        assert found.options.consumer_opt == ["a,1", "b,2"]
        with pytest.raises(ExitError) as caught:
            parse(Tool, ["-consumer-opt=a"], program="tool", config_file=False)
        assert caught.value.stderr.startswith('invalid value "a" for flag -consumer-opt: no comma\n')

    def test_a_list_with_defaults(self) -> None:
        @attrs.define(kw_only=True)
        class Tool:
            words: list[str] = option(("a", "b"), kind=STRINGS, help="Words.")

        assert parse(Tool, [], program="tool").options.words == ["a", "b"]
        assert parse(Tool, ["-words=c"], program="tool").options.words == ["c"]


class TestLoad:
    def test_gives_the_options(self) -> None:
        assert load(Every, ["--count=3", "rest"], program="prog") == Every(count=3)

    def test_gives_the_rest_too(self) -> None:
        parsed = load_parsed(Every, ["--count=3", "rest"], program="prog")
        assert (parsed.options.count, parsed.arguments, parsed.given) == (3, ["rest"], frozenset({"count"}))

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
        assert err.startswith("flag provided but not defined: -x\nprog - does things\n")


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
