"""`nsqd token`: what it prints, and what it says to mistakes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nsqkit.access import Access, Need
from nsqkit.access.command import run_token_command


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "tokens")


def run(path: str, command: str, *args: str) -> int:
    return run_token_command([command, f"--tokens-file={path}", *args])


def test_a_token_is_made_listed_used_and_revoked(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "new", "--name=shop", "--scope=publish:orders.*", "--scope=read", "--expires=90d") == 0
    secret, told = capsys.readouterr()
    assert secret.startswith("nsq_")
    assert secret.strip() not in told
    assert "made the token shop (publish:orders.*,read)" in told
    header = f"Bearer {secret.strip()}".encode()
    assert Access.load("none", path).denial(Need.PUBLISH, "orders.a", "", header) is None
    assert run(path, "list") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "SCOPES", "CREATED", "EXPIRES"]
    assert row.split()[:2] == ["shop", "publish:orders.*,read"]
    assert run(path, "revoke", "shop") == 0
    assert Access.load("none", path).denial(Need.PUBLISH, "orders.a", "", header) is not None
    assert run(path, "list") == 0
    assert "shop" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 90 * 86400), ("12h", 12 * 3600), ("2999-01-31", None), ("2999-01-31T12:00:00Z", None)],
)
def test_an_expiry(path: str, text: str, seconds: int | None) -> None:
    before = time.time()
    assert run(path, "new", "--name=a", "--scope=read", f"--expires={text}") == 0
    token = Access.load("none", path).tokens.by_name["a"]
    if seconds is None:
        assert 32_474_000_000 < token.expires < 32_476_000_000
    else:
        assert before + seconds - 1 <= token.expires <= time.time() + seconds


def test_a_token_that_has_expired_is_listed_as_such(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, "new", "--name=a", "--scope=read")
    text = Path(path).read_text().replace('"expires":null', '"expires":"2020-01-01T00:00:00Z"')
    Path(path).write_text(text)
    assert run(path, "list") == 0
    assert "2020-01-01T00:00:00Z (has expired)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("new", "--name=a", "--scope=all"), "nsqd token new: 'all' is no scope"),
        (("new", "--name=a b", "--scope=read"), "nsqd token new: name 'a b': must have"),
        (("list",), "No such file or directory"),
        (("revoke", "a"), "No such file or directory"),
    ],
)
def test_what_cannot_be_done(
    path: str, args: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(path, *args) == 1
    out, err = capsys.readouterr()
    assert reason in err
    assert not out
    assert not Path(path).exists()


@pytest.mark.parametrize("text", ["yesterday", "-1d", "0d", "2020-01-01", "9999999d", "1e9", "", "12"])
def test_what_is_no_expiry(path: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run(path, "new", "--name=a", "--scope=read", f"--expires={text}")
    assert exited.value.code == 2
    assert "is no time in the future such as 90d, 12h or 2027-06-30" in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["new"], ["list"], ["revoke", "--tokens-file=x"], ["old"]])
def test_mistakes_on_the_command_line(args: list[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run_token_command(args)
    assert exited.value.code == 2


def test_the_help_has_all_that_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run_token_command(["--help"])
    assert exited.value.code == 0
    text = capsys.readouterr().out
    for word in (
        "publish:TOPIC",
        "consume:TOPIC/CHANNEL",
        "read",
        "operate",
        "admin",
        "--anonymous=none",
        "revoke",
    ):
        assert word in text
