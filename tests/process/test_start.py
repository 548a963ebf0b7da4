"""What nsqd refuses to start with: one line that says why, exit code 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.timing import patience


def start(*flags: str) -> tuple[int, str]:
    """Start an nsqd that is expected to end at once; gives its exit code and what it said."""
    command = [
        sys.executable,
        "-m",
        "nsqd",
        "--tcp-address=127.0.0.1:0",
        "--http-address=127.0.0.1:0",
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(20), check=False)
    return done.returncode, done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--tls-cert=/c.pem", "--tls-key=/k.pem"],
            "failed to build TLS config - /c.pem: No such file or directory",
        ),
        (
            ["--tls-cert=/c.pem"],
            "failed to build TLS config - a certificate file (/c.pem) without a key file",
        ),
        (
            ["--tls-root-ca-file=/ca.pem"],
            "failed to build client TLS config - /ca.pem: No such file or directory",
        ),
        (["--auth-http-request-method=put"], "--auth-http-request-method must be post or get"),
        (["--log-format=xml"], "--log-format must be text or json"),
        (["--tls-required"], "cannot require TLS client connections without TLS key and cert"),
        (
            ["--tls-client-auth-policy=require"],
            "cannot require TLS client connections without TLS key and cert",
        ),
        (["--durability=tape"], "--durability must be os or disk, not 'tape'"),
        (["--tcp-address=256.0.0.1:1"], "listen (256.0.0.1:1) failed - "),
    ],
)
def test_protection_that_is_not_there_is_not_promised(tmp_path: Path, flags: list[str], reason: str) -> None:
    """Who asks for TLS or authorization must not get a daemon without them (I15)."""
    code, said = start(f"--data-path={tmp_path}", *flags)
    assert code == 1
    assert f"FATAL: failed to instantiate nsqd - {reason}" in said


@pytest.mark.process
def test_a_data_path_that_is_not_there(tmp_path: Path) -> None:
    code, said = start(f"--data-path={tmp_path}/none")
    assert (code, said.count("\n")) == (1, 1)
    assert f"failed to lock data-path: {tmp_path}/none: No such file or directory" in said
