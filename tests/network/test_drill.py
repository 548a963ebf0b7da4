"""`make drill`. What it does is that of test_takeover.py."""

from __future__ import annotations

import pytest

from tests.network import drill


def test_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(drill, "why_not", lambda: "not installed: nft")
    monkeypatch.setattr("sys.argv", ["drill"])
    assert drill.main() == 1
    assert capsys.readouterr().err == "drill: it needs network namespaces: not installed: nft\n"


@pytest.mark.network
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("hosts")
def test_a_drill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["drill", "--seed=3"])
    assert drill.main() == 0
    said = capsys.readouterr().out
    assert said.count(": 0 are lost") == 2
    assert "nobody has given a command" in said
