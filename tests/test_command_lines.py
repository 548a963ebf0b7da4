"""What the options of all programs have in common: every option of every program is looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest

import nsqadmin.options
import nsqd.options
import nsqlookupd.options
from nsqkit.options import (
    BOOL,
    DURATION,
    FLOAT,
    FLOATS,
    HIDDEN,
    INT,
    STRING,
    STRINGS,
    DaemonOptions,
    ExitError,
    Option,
    OptionError,
    check_values,
    option_value,
    options_of,
    parse,
)
from nsqtools import nsq_peek, nsq_stat, nsq_tail, to_nsq
from nsqtools.nsq_to_file.options import ToFileFlags
from nsqtools.nsq_to_http.options import ToHttpFlags
from nsqtools.nsq_to_nsq.options import NsqToNsqFlags

CLASSES: dict[str, type[attrs.AttrsInstance]] = {
    "nsqd": nsqd.options.NsqdOptions,
    "nsqlookupd": nsqlookupd.options.LookupdOptions,
    "nsqadmin": nsqadmin.options.AdminOptions,
    "nsq_peek": nsq_peek.PeekFlags,
    "nsq_stat": nsq_stat.StatFlags,
    "nsq_tail": nsq_tail.TailFlags,
    "nsq_to_file": ToFileFlags,
    "nsq_to_http": ToHttpFlags,
    "nsq_to_nsq": NsqToNsqFlags,
    "to_nsq": to_nsq.ToNsqFlags,
}
DAEMONS = ("nsqd", "nsqlookupd", "nsqadmin")
LOADS: dict[str, Callable[[Sequence[str]], Any]] = {
    "nsqd": nsqd.options.load,
    "nsqlookupd": nsqlookupd.options.load,
    "nsqadmin": nsqadmin.options.load,
}
KEYS_OF_THE_ORIGINAL = {
    "nsqd": """
        log_level log_prefix verbose id worker_id tcp_address http_address https_address broadcast_address
        broadcast_tcp_port broadcast_http_port nsqlookupd_tcp_addresses auth_http_addresses
        auth_http_request_method http_client_connect_timeout http_client_request_timeout topology_region
        topology_zone data_path mem_queue_size max_bytes_per_file sync_every sync_timeout
        queue_scan_worker_pool_max queue_scan_selection_count msg_timeout max_msg_timeout max_msg_size
        max_body_size max_req_timeout max_heartbeat_interval max_rdy_count max_output_buffer_size
        max_output_buffer_timeout min_output_buffer_timeout output_buffer_timeout max_channel_consumers
        statsd_address statsd_prefix statsd_interval statsd_mem_stats statsd_udp_packet_size
        statsd_exclude_ephemeral e2e_processing_latency_percentiles e2e_processing_latency_window_time tls_cert
        tls_key tls_client_auth_policy tls_root_ca_file tls_required tls_min_version deflate max_deflate_level
        snappy enable_experiment
    """,
    "nsqlookupd": """
        log_level log_prefix verbose tcp_address http_address broadcast_address inactive_producer_timeout
        tombstone_lifetime
    """,
    "nsqadmin": """
        log_level log_prefix verbose http_address base_path dev_static_dir nsqlookupd_http_addresses
        nsqd_http_addresses graphite_url proxy_graphite statsd_prefix statsd_counter_format statsd_gauge_format
        statsd_interval notification_http_endpoint http_client_connect_timeout http_client_request_timeout
        http_client_tls_insecure_skip_verify http_client_tls_root_ca_file http_client_tls_cert
        http_client_tls_key allow_config_from_cidr acl_http_header admin_users
    """,
}


class Case(NamedTuple):
    """An option of a program."""

    program: str
    option: Option

    def __str__(self) -> str:
        return f"{self.program}-{self.option.flag}"


EVERY = [Case(program, option) for program, cls in CLASSES.items() for option in options_of(cls)]
DURATIONS = [case for case in EVERY if case.option.kind is DURATION]
IN_FILES = [case for case in EVERY if case.program in DAEMONS and case.option.config_name != HIDDEN]


def refused(program: str, *argv: str) -> ExitError:
    with pytest.raises(ExitError) as caught:
        parse(CLASSES[program], argv, program=program, version="v1")
    return caught.value


def mistake(program: str, *argv: str) -> str:
    """The one line for a mistake on the command line."""
    error = refused(program, *argv)
    assert (error.code, error.stdout, error.stderr.count("\n")) == (2, "", 1)
    assert error.stderr.endswith(f"; see {program} --help\n")
    return error.stderr.removesuffix(f"; see {program} --help\n")


def config_file(tmp_path: Path, toml: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(toml)
    return path


def misspelt(name: str) -> str:
    """A letter too many, so that it is no other name either."""
    return name + name[-1] + name[-1]


@pytest.mark.parametrize("case", EVERY, ids=str)
class TestEveryOption:
    def test_is_suggested_for_a_misspelt_flag(self, case: Case) -> None:
        flag = case.option.flag
        line = mistake(case.program, f"--{misspelt(flag)}=1")
        begin = f"flag provided but not defined: -{misspelt(flag)}"
        if len(flag) > 2:
            assert line == f"{begin} (did you mean --{flag}?)"
        else:
            assert line == begin

    def test_is_explained_in_plain_sentences(self, case: Case) -> None:
        text = case.option.help
        assert text[0].isupper() or text.startswith("statsd")
        assert text.endswith((".", ".)"))
        assert "  " not in text
        assert len(text) <= 450
        vague = r"\b(whoever|whatever|nobody|somebody|so long|so many|what is|goes on|behind the)\b"
        assert not re.search(vague, text), text

    def test_is_in_the_help_with_its_placeholder(self, case: Case) -> None:
        option, text = case.option, refused(case.program, "-help").stderr
        separator = "" if not option.placeholder or option.placeholder.startswith("[") else " "
        head = f"  --{option.flag}{separator}{option.placeholder}"
        [line] = re.findall(rf"^  --{option.flag}(?![\w=-]).*$", text, re.MULTILINE)
        assert line == head or line.startswith(f"{head}  (")
        last = text.rindex("\n\n")
        assert ("Accepted without effect:" in text[last:] and line in text[last:]) == option.no_effect

    def test_of_the_kind_switch_takes_its_value_after_an_equals_sign(self, case: Case) -> None:
        flag = case.option.flag
        if case.option.kind.boolean:
            assert (
                mistake(case.program, f"-{flag}", "false")
                == f"unknown arguments: [false] (write -{flag}=false)"
            )
            assert (
                mistake(case.program, f"-{flag}", "x") == f"unknown arguments: [x] (-{flag} takes no value)"
            )
        elif case.option.kind in (STRING, STRINGS):
            assert mistake(case.program, f"-{flag}", "x", "false") == "unknown arguments: [false]"

    def test_out_of_a_few_words_suggests_one(self, case: Case) -> None:
        option = case.option
        for word in option.kind.words:
            if not option.kind.boolean and case.program != "nsq_to_file":
                assert f"(did you mean {word}?)" in mistake(case.program, f"--{option.flag}={word}{word[-1]}")
        for word in option.choices:
            made = parse(CLASSES[case.program], [f"--{option.flag}={word}{word[-1]}"], program=case.program)
            with pytest.raises(OptionError) as caught:
                check_values(made)
            assert str(caught.value).startswith(f"--{option.flag} must be ")
            assert str(caught.value).endswith(f"not '{word}{word[-1]}' (did you mean {word}?)")


@pytest.mark.parametrize("case", IN_FILES, ids=str)
class TestEveryKeyOfAConfigurationFile:
    def test_is_suggested_for_a_misspelt_one(self, case: Case, tmp_path: Path) -> None:
        key = misspelt(case.option.config_name)
        path = config_file(tmp_path, f"{key} = 1")
        error = refused(case.program, f"--config={path}")
        hint = f" (did you mean {case.option.config_name}?)"
        assert (error.code, error.stderr.count("\n")) == (1, 1)
        assert error.stderr.startswith(f"[{case.program}] ")
        assert error.stderr.endswith(
            f" FATAL: failed to load config file {path} - unknown key '{key}'{hint}\n"
        )

    def test_is_named_with_the_file_for_a_wrong_value(self, case: Case, tmp_path: Path) -> None:
        path = config_file(tmp_path, f"{case.option.config_name} = [[]]")
        error = refused(case.program, f"--config={path}")
        assert (error.code, error.stderr.count("\n")) == (1, 1)
        assert re.search(
            rf" (failed parsing|for field) {case.option.config_name} .*\bin {path}\b.*\n", error.stderr
        )

    def test_is_named_with_the_file_for_a_value_out_of_bounds(self, case: Case, tmp_path: Path) -> None:
        option = case.option
        wrong = [
            limit + step for limit, step in ((option.minimum, -1), (option.maximum, 1)) if limit is not None
        ]
        texts = [f'"{number}ns"' if option.kind is DURATION else str(number) for number in wrong]
        for text in texts + ['"nonsense"'] * bool(option.choices):
            path = config_file(tmp_path, f"{option.config_name} = {text}")
            made = parse(CLASSES[case.program], [f"--config={path}"], program=case.program)
            with pytest.raises(OptionError) as caught:
                check_values(made)
            assert str(caught.value).startswith(f"--{option.flag} must be ")
            assert str(caught.value).endswith(f" ({option.config_name} in {path})")

    def test_takes_a_value_as_the_flag_does(self, case: Case, tmp_path: Path) -> None:
        samples = {BOOL: "true", INT: "3", FLOAT: "0.5", FLOATS: "0.5", DURATION: "3s"}
        sample = samples.get(case.option.kind, (case.option.kind.words or ("x",))[-1])
        path = config_file(tmp_path, f'{case.option.config_name} = "{sample}"')
        cls = CLASSES[case.program]
        from_file = parse(cls, [f"--config={path}"], program=case.program)
        assert from_file == parse(cls, [f"--{case.option.flag}={sample}"], program=case.program)
        assert option_value(from_file, case.option.config_name).kind is case.option.kind


@pytest.mark.parametrize("case", DURATIONS, ids=str)
class TestEveryDuration:
    def test_needs_a_unit_on_the_command_line(self, case: Case) -> None:
        hint = "duration without a unit: write 60s"
        line = mistake(case.program, f"--{case.option.flag}=60")
        assert line == f'invalid value "60" for flag -{case.option.flag}: parse error ({hint})'
        zero = parse(CLASSES[case.program], [f"--{case.option.flag}=0"], program=case.program)
        assert getattr(zero, case.option.field) == 0

    def test_is_milliseconds_in_a_file_without_one(self, case: Case, tmp_path: Path) -> None:
        if case.program in DAEMONS:
            path = config_file(tmp_path, f"{case.option.config_name} = 1500")
            made = parse(CLASSES[case.program], [f"--config={path}"], program=case.program)
            assert getattr(made, case.option.field) == 1_500_000_000


@pytest.mark.parametrize("program", DAEMONS)
def test_a_file_may_have_every_key_of_the_original(program: str, tmp_path: Path) -> None:
    keys = KEYS_OF_THE_ORIGINAL[program].split()
    by_name = {option.config_name: option for option in options_of(CLASSES[program])}
    defaults = CLASSES[program]()
    lines = []
    for key in keys:
        option = by_name.get(key)
        value = [] if option and option.kind in (STRINGS, FLOATS) else ""
        if option and value == "":
            value = option.kind.to_text(getattr(defaults, option.field))
        lines.append(f"{key} = {value!r}")
    assert LOADS[program]([f"--config={config_file(tmp_path, chr(10).join(lines))}"]) == defaults


@pytest.mark.parametrize("program", DAEMONS)
def test_a_daemon_has_a_configuration_file(program: str) -> None:
    assert issubclass(CLASSES[program], DaemonOptions)
    assert "\n  --config PATH\n" in refused(program, "--help").stderr


@pytest.mark.parametrize("program", sorted(CLASSES.keys() - set(DAEMONS)))
def test_a_tool_has_none(program: str) -> None:
    assert mistake(program, "--config=x").startswith("flag provided but not defined: -config")


@pytest.mark.parametrize("program", CLASSES)
def test_a_stray_word_is_a_mistake(program: str) -> None:
    assert mistake(program, "foo", "-x") == "unknown arguments: [foo -x]"
    assert mistake(program, "--", "foo") == "unknown arguments: [foo]"
    assert refused(program, "-version", "foo").stdout == "v1\n"


WITHOUT_EXTRAS = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"msgspec", "trio", "anyio", "httpx", "httptools"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import nsqkit.options
from nsqkit.options import Duration, ExitError, SECOND, load, option
import attrs

@attrs.define(kw_only=True)
class Flags:
    wait: Duration = option(5 * SECOND, help="How long to wait.")

print(load(Flags, ["--wait=2s"], program="x").wait)
"""


def test_the_package_needs_nothing_but_attrs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("2000000000\n", "")
