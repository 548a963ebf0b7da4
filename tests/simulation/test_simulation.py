"""Seeds of the simulation of a cluster: none is red; with a rule of takeover switched off, some are.

More of them: `python -m tests.simulation --seeds 0-9999 --jobs 2`.
"""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import main, run, shrunk
from tests.simulation.cluster import SECONDS, lived
from tests.simulation.faults import KINDS, schedule
from tests.simulation.mutations import MUTATIONS

AT_ONCE = 10
RED = {
    "age-ignored": (11, "R7"),
    "heard-ignored": (1, "R7"),
    "list-ignored": (34, "R7"),
    "granted-ignored": (7, "R7"),
    "brake-off": (2, "brake"),
    "answers-counted": (4, "R7"),
    "grace-ignored": (31, "R16"),
    "release-forgotten": (403, "alive"),
    "fence-late": (49, "R6"),
    "standing-ignored": (49, "R6"),
    "echo-read-late": (49, "R6"),
    "one-follower-is-enough": (729, "R6"),
    "stand-in-forgotten": (79, "R6"),
}
"""By mutation: a seed that it turns red, and what does not hold then."""


@pytest.mark.parametrize("first", range(0, 60, AT_ONCE))
def test_no_seed_is_red(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        lived(seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, 10_000, 250))
def test_no_seed_of_many_is_red(first: int) -> None:
    for seed in range(first, first + 250):
        lived(seed)


def test_there_is_a_seed_for_each_rule() -> None:
    assert RED.keys() == MUTATIONS.keys()


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
    assert any(run(seed, mutation)[2] is not None for seed in range(1000))


def test_a_seed_tells_the_same_story_each_time() -> None:
    one, other = lived(2, 60.0), lived(2, 60.0)
    assert one.story == other.story
    assert (one.now, one.checker.found) == (other.now, other.checker.found)


def test_copies_are_adopted_by_themselves() -> None:
    """Else the rules would hold whatever they were."""
    clusters = [lived(seed) for seed in (7, 8)]
    assert all(cluster.by_itself and cluster.checker.served for cluster in clusters)


def test_without_a_kind_of_fault_the_others_happen_as_before() -> None:
    faults = schedule(3, SECONDS)
    kinds = {fault.kind for fault in faults}
    assert kinds <= KINDS.keys()
    for kind in kinds:
        assert schedule(3, SECONDS, [kind]) == [fault for fault in faults if fault.kind != kind]


def test_a_red_seed_is_told_with_as_few_faults_as_can_be() -> None:
    found = shrunk(49, "fence-late")
    assert [fault.kind for fault in found.faults] == ["sigstop"]
    assert "is stopped until" in found.story
    assert "adopts" in found.story
    assert run(49, "fence-late", faults=found.faults, steps=found.steps - 1)[2] is None
    assert run(49, "fence-late", faults=())[2] is None


def test_the_command_says_what_is_red(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["simulation", "--seeds=49", "--mutation=fence-late"])
    assert main() == 1
    said = capsys.readouterr().out
    assert "1 seeds, 1 red {'R6': 1}" in said
    assert "seed 49 is red with 1 faults (sigstop): R6" in said
