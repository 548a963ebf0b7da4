"""Seeds of the simulation: none is red; with a rule of the product switched off, some are.

More of them: `python -m tests.nsqd.replication.simulation --seeds 0-9999 --jobs 2`.
"""

from __future__ import annotations

import pytest

from tests.nsqd.replication.simulation.__main__ import main, run, shortest
from tests.nsqd.replication.simulation.checker import Violation
from tests.nsqd.replication.simulation.mutations import MUTATIONS
from tests.nsqd.replication.simulation.world import lived

AT_ONCE = 10
RED = {
    "absence_orders": (246, "R3"),
    "ack_before_sync": (1, "R8"),
    "folder_kept": (0, "R11"),
    "gap_said_too_late": (110, "S"),
    "gaps_ignored": (132, "S"),
    "gaps_owned": (5228, "R3"),
    "newest_first": (4, "S"),
    "no_new_segment": (2, "R2"),
    "no_snapshot_barrier": (6, "S"),
    "owned_not_synced": (15, "R5"),
    "ranges_kept": (37, "R4"),
    "replacement_unnoticed": (1, "R11"),
    "seal_not_synced": (0, "R5"),
    "ticket_first": (1, "R8"),
    "unsynced_closed": (0, "S"),
}
"""By mutation: a seed that it turns red, and the invariant that does not hold then. Others take more seeds."""


@pytest.mark.parametrize("first", range(0, 60, AT_ONCE))
def test_no_seed_is_red(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        lived(seed)


@pytest.mark.parametrize("first", range(0, 20, AT_ONCE))
def test_no_seed_with_disks_that_forget_is_red(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        lived(seed, rots=True)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rots", [False, True])
@pytest.mark.parametrize("first", range(0, 10_000, 500))
def test_no_seed_of_many_is_red(first: int, rots: bool) -> None:
    for seed in range(first, first + 500):
        lived(seed, rots=rots)


def test_a_seed_tells_the_same_story_each_time() -> None:
    one, other = lived(3, 60), lived(3, 60)
    assert len(one.story) == len(other.story)
    assert (one.now, one.checker.found) == (other.now, other.checker.found)


@pytest.mark.parametrize("mutation", sorted(RED))
def test_a_rule_that_is_switched_off_is_noticed(mutation: str) -> None:
    seed, invariant = RED[mutation]
    violation = run(seed, mutation)[2]
    assert violation is not None
    assert violation.invariant == invariant


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_each_rule_is_noticed_within_some_seeds(mutation: str) -> None:
    """Also when other seeds are red than those that stand here."""
    assert any(run(seed, mutation)[2] is not None for seed in range(2000))


def test_the_story_of_a_red_seed_is_as_short_as_can_be() -> None:
    steps, violation = shortest(0, "seal_not_synced")
    assert isinstance(violation, Violation)
    assert run(0, "seal_not_synced", steps)[2] is not None
    assert run(0, "seal_not_synced", steps - 1)[2] is None


def test_the_command_says_what_is_red(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["simulation", "--seeds=0-0", "--mutation=seal_not_synced"])
    assert main() == 1
    said = capsys.readouterr().out
    assert "1 seeds, 1 red {'R5': 1}" in said
    assert "adopts" in said
