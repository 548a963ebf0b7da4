"""Passwords: what is kept of them, how they are compared, and what that may cost."""

from __future__ import annotations

import threading
import unicodedata

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.auth import passwords
from nsqadmin.auth.passwords import (
    AT_ONCE,
    MAX_BYTES,
    WAITING,
    BadPassword,
    PasswordChecks,
    hash_password,
    is_hash,
    matches,
)
from tests.nsqadmin.auth.people import PASSWORD, quick_hash


def test_a_password_matches_its_hash_and_no_other() -> None:
    kept = hash_password(PASSWORD)
    assert kept.startswith("$scrypt$ln=15,r=8,p=3$")
    assert is_hash(kept)
    assert matches(kept, PASSWORD)
    assert not matches(kept, PASSWORD + "x")
    assert PASSWORD not in kept


def test_equal_passwords_have_different_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_NOBODY", passwords._Hash(1, 1, 1, bytes(16), bytes(32)))
    assert len({hash_password(PASSWORD) for _ in range(10)}) == 10


def test_a_letter_is_the_same_however_a_keyboard_composes_it() -> None:
    composed, decomposed = (unicodedata.normalize(form, "pässwörter") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert matches(quick_hash(composed), decomposed)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "at least 8 characters"),
        ("1234567", "at least 8 characters"),
        ("x" * (MAX_BYTES + 1), "at most 1024 bytes"),
        ("ü" * (MAX_BYTES // 2 + 1), "at most 1024 bytes"),
        ("1234567\n8", "no control characters"),
    ],
)
def test_a_password_that_cannot_be_typed_or_is_short_is_not_taken(password: str, reason: str) -> None:
    with pytest.raises(BadPassword, match=reason):
        hash_password(password)


def test_a_password_of_any_length_is_compared_in_bounded_time() -> None:
    assert not matches(quick_hash(), "x" * 10_000_000)


def test_nobody_s_password_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared all the same, with a hash of the same parameters as those of users."""
    compared: list[passwords._Hash] = []
    digest_of = passwords._Hash.of

    def note(self: passwords._Hash, password: bytes) -> bytes:
        compared.append(self)
        return digest_of(self, password)

    monkeypatch.setattr(passwords._Hash, "of", note)
    assert not matches(None, PASSWORD)
    [nobody] = compared
    made = passwords._parse(hash_password(PASSWORD))
    assert made is not None
    assert (nobody.log2_n, nobody.r, nobody.p) == (made.log2_n, made.r, made.p)
    monkeypatch.setattr(passwords._Hash, "of", lambda *_: nobody.digest)
    assert not matches(None, PASSWORD), "not even a password with the digest that stands for nobody's"


GOOD = quick_hash()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        GOOD + "A",
        GOOD[:-1],
        GOOD.replace("scrypt", "argon2id"),
        GOOD.replace("ln=1,", "ln=25,"),
        GOOD.replace("r=1,", "r=0,"),
        GOOD.replace("ln=1,r=1", "ln=20,r=99"),
        GOOD.replace("p=1", "p=99"),
        GOOD.replace("$AAAA", "$A=AA"),
        GOOD + "\n",
    ],
)
def test_what_is_no_hash_or_would_take_too_much_is_told_before(text: str) -> None:
    assert not is_hash(text)
    assert not is_hash("ü" + GOOD)


@given(
    st.text(max_size=200)
    | st.from_regex(r"\$scrypt\$ln=[0-9]{1,3},r=[0-9]{1,3},p=[0-9]\$[A-Za-z0-9+/=]{0,90}\$A{43}")
)
def test_any_text_is_a_hash_or_none(text: str) -> None:
    found = passwords._parse(text)
    if found is not None:
        assert found.memory <= 256 << 20


async def test_checks_run_a_few_at_a_time_and_apart_from_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, most, go_on = 0, 0, threading.Event()
    lock, started = threading.Lock(), threading.Semaphore(0)

    def check(kept: str | None, password: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        started.release()
        go_on.wait(60)
        with lock:
            running -= 1
        return password == "right"

    monkeypatch.setattr(passwords, "matches", check)
    checks, results = PasswordChecks(), []

    async def one(password: str) -> None:
        results.append(await checks.matches("", password))

    async with trio.open_nursery() as nursery:
        for number in range(WAITING):
            assert not checks.are_full
            nursery.start_soon(one, "right" if number % 2 else "wrong")
            await trio.testing.wait_all_tasks_blocked()
        assert checks.are_full
        for _ in range(AT_ONCE):
            await trio.to_thread.run_sync(started.acquire)
        go_on.set()
    assert sorted(results) == [False] * (WAITING // 2) + [True] * (WAITING // 2)
    assert most == AT_ONCE
    assert not checks.are_full
