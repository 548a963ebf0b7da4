"""The command line: defaults, names in the configuration file, and invalid options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nsqadmin.addresses import host_and_port, join_host_port
from nsqadmin.options import AdminOptions, load, normal_base_path, validate
from nsqkit.options import OptionError, option_value

SECOND = 1_000_000_000
LOOKUPD = "--lookupd-http-address=127.0.0.1:4161"


def options(**values: object) -> AdminOptions:
    return AdminOptions(**{"nsqd_http_addresses": ["127.0.0.1:4151"], **values})


def refusal(**values: object) -> str:
    with pytest.raises(OptionError) as refused:
        validate(options(**values))
    return str(refused.value)


def test_defaults_are_those_of_the_field() -> None:
    found = load([LOOKUPD])
    validate(found)
    assert (found.http_address, found.base_path) == ("0.0.0.0:4171", "/")
    assert (found.acl_http_header, found.admin_users) == ("X-Forwarded-User", [])
    assert found.allow_config_from_cidr == "127.0.0.1/8"
    assert (found.http_client_connect_timeout, found.http_client_request_timeout) == (2 * SECOND, 5 * SECOND)
    assert (found.statsd_prefix, found.statsd_interval) == ("nsq.%s", 60 * SECOND)
    assert found.log_prefix == "[nsqadmin] "


def test_lists_gather_and_have_the_config_names_of_the_field(tmp_path: Path) -> None:
    found = load([LOOKUPD, "--lookupd-http-address", "b:1", "-admin-user=ann", "-admin-user=bob"])
    assert option_value(found, "nsqlookupd_http_addresses").value == ["127.0.0.1:4161", "b:1"]
    assert option_value(found, "admin_users").value == ["ann", "bob"]
    file = tmp_path / "nsqadmin.cfg"
    file.write_text('nsqd_http_addresses = ["a:1", "b:2"]\nadmin_users = "eve"\npoll_interval = 2000\n')
    filed = load([f"--config={file}"])
    assert (filed.nsqd_http_addresses, filed.admin_users) == (["a:1", "b:2"], ["eve"])
    assert filed.poll_interval == 2 * SECOND


def test_one_way_to_find_nsqds_must_be_chosen() -> None:
    assert refusal(nsqd_http_addresses=[]) == "--nsqd-http-address or --lookupd-http-address required"
    assert (
        refusal(lookupd_http_addresses=["a:1"])
        == "use --nsqd-http-address or --lookupd-http-address not both"
    )


@pytest.mark.parametrize(
    "address", ["http://a:1", "a", "a:", ":x", "a:0", "a:65536", "a b:1", "::1:4161", "a:+1"]
)
def test_an_address_must_be_host_and_port(address: str) -> None:
    assert refusal(nsqd_http_addresses=[address]).startswith(
        f"failed to resolve --nsqd-http-address ({address}) - "
    )


def test_addresses_are_taken_apart_and_put_together() -> None:
    assert host_and_port("[::1]:4161") == ("::1", 4161)
    assert join_host_port("::1", 4161) == "[::1]:4161"
    assert join_host_port("a", 1) == "a:1"


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    here = str(tmp_path / "x.pem")
    assert "--http-client-tls-key must be specified" in refusal(http_client_tls_cert=here)
    assert "--http-client-tls-cert must be specified" in refusal(http_client_tls_key=here)
    assert "failed to read --http-client-tls-cert" in refusal(
        http_client_tls_cert=here, http_client_tls_key=here
    )


def test_certificates_must_be_some(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    assert "failed to read --http-client-tls-root-ca-file" in refusal(http_client_tls_root_ca_file=str(file))
    file.write_text("nothing of the kind")
    assert str(file) in refusal(http_client_tls_root_ca_file=str(file))
    assert str(file) in refusal(http_client_tls_cert=str(file), http_client_tls_key=str(file))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"allow_config_from_cidr": "nowhere"}, "failed to parse --allow-config-from-cidr"),
        ({"log_format": "xml"}, "--log-format must be text or json"),
        ({"http_address": ""}, "--http-address must not be empty"),
        ({"graphite_url": "graphite:80"}, "--graphite-url must begin with http"),
        ({"notification_http_endpoint": "ftp://x"}, "--notification-http-endpoint must begin with http"),
        ({"graphite_url": "::"}, "--graphite-url must begin with http"),
        ({"notification_http_endpoint": "hook:80/x"}, "--notification-http-endpoint must begin with http"),
        ({"alarm_webhooks": ["http://a/", "a:80"]}, "--alarm-webhook must begin with http"),
        ({"alarm_requeue_percent": 101}, "--alarm-requeue-percent must be between 0 and 100"),
        ({"poll_interval": 1}, "--poll-interval must be between"),
        ({"history_bytes": -1}, "--history-bytes must be at least 0"),
        (
            {"access_token_file": "/nonexistent"},
            "--access-token-file: /nonexistent: No such file or directory",
        ),
        (
            {"access_token_file": "/dev/null"},
            "--access-token-file: /dev/null: must have one token and nothing else",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(values: dict[str, object], reason: str) -> None:
    assert reason in refusal(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"proxy_graphite": True},
        {"graphite_url": "HTTP://graphite:80"},
        {"notification_http_endpoint": "HTTPS://Hook.example/x"},
        {"alarm_webhooks": ["http://a/x", "https://b:1/y?z"]},
    ],
)
def test_unusual_values_with_a_meaning_are_accepted(values: dict[str, Any]) -> None:
    validate(AdminOptions(nsqd_http_addresses=["127.0.0.1:4151"], **values))


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('nsqlookupd_http_addresses = ["nowhere"]', "nsqlookupd_http_addresses"),
        ('allow_config_from_cidr = "nowhere"', "allow_config_from_cidr"),
        ('http_address = ""', "http_address"),
        ('graphite_url = "graphite:80"', "graphite_url"),
        ('http_client_tls_root_ca_file = "/nonexistent"', "http_client_tls_root_ca_file"),
        ('log_format = "xml"', "log_format"),
        ("poll_interval = 0", "poll_interval"),
        ('access_token_file = "/nonexistent"', "access_token_file"),
    ],
)
def test_a_refused_value_names_the_file_and_the_key(toml: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "nsqadmin.cfg"
    path.write_text(toml)
    argv = [f"--config={path}"] + [LOOKUPD] * (not key.startswith("nsqlookupd"))
    with pytest.raises(OptionError) as refused:
        validate(load(argv))
    assert str(refused.value).endswith(f" ({key} in {path})")


@pytest.mark.parametrize(
    ("given", "normal"),
    [("", "/"), ("/", "/"), ("adm", "/adm"), ("adm/", "/adm"), ("//a//b/../c/", "/a/c"), ("/..", "/")],
)
def test_the_base_path_has_one_form(given: str, normal: str) -> None:
    assert normal_base_path(given) == normal


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["-help"])
    printed = capsys.readouterr().err
    for flag in ("lookupd-http-address", "admin-user", "acl-http-header", "poll-interval", "dev-static-dir"):
        assert f"-{flag}" in printed
