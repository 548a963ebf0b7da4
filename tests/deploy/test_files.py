"""What is in `deploy/`, as far as it can be looked at without a machine: true examples, units that are alike."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from nsqkit.options import HIDDEN, option_value, options_of, parse, tables_of
from tests.deploy.base import ROOT
from tests.deploy.configuration import configuration

EXAMPLES = runpy.run_path(str(ROOT / "deploy/config/examples.py"))
PROGRAMS: list[str] = sorted(EXAMPLES["PROGRAMS"])
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def options_class(program: str) -> type[attrs.AttrsInstance]:
    cls: type[attrs.AttrsInstance] = EXAMPLES["options_class"](program)
    return cls


def settings(program: str, only_defaults: bool = False) -> dict[str, Any]:
    """What the file says when every # before an option is taken away."""
    lines = (ROOT / f"deploy/config/{program}.toml").read_text().splitlines()
    table = tomllib.loads("\n".join(line.removeprefix("#") for line in lines if not line.startswith("# ")))
    left_out = {**EXAMPLES["EXAMPLES"], **EXAMPLES["SET"]} if only_defaults else {}
    return {name: value for name, value in table.items() if name not in left_out}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_shows_every_option_and_no_other(program: str) -> None:
    cls = options_class(program)
    known = {option.config_name for option in options_of(cls)} - {HIDDEN}
    known |= {tables.key for tables in tables_of(cls)}
    assert set(settings(program)) == known, "deploy/config/examples.py writes it anew"


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_shows_the_defaults(program: str, tmp_path: Path) -> None:
    """Read by the daemon's own parser, the values are those it has without a file."""
    path = tmp_path / "all.toml"
    text = (ROOT / f"deploy/config/{program}.toml").read_text()
    path.write_text(
        "\n".join(line.removeprefix("#") for line in text.splitlines() if not line.startswith("# "))
    )
    cls = options_class(program)
    read = parse(cls, [f"--config={path}"], program=program)
    arrays = {tables.key for tables in tables_of(cls)}  # which have examples
    for name in settings(program, only_defaults=True).keys() - arrays:
        assert option_value(read, name).value == option_value(cls(), name).value, name


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_sets_what_makes_one_machine_a_cluster(program: str) -> None:
    here = {"broadcast_address": "127.0.0.1"}
    wanted = {
        "nsqd": {"nsqlookupd_tcp_addresses": ["127.0.0.1:4160"], **here},
        "nsqlookupd": here,
        "nsqadmin": {"nsqlookupd_http_addresses": ["127.0.0.1:4161"]},
    }
    found = tomllib.loads((ROOT / f"deploy/config/{program}.toml").read_text())
    assert found == wanted[program]


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_is_what_its_maker_writes(program: str) -> None:
    """The same groups and the same help as the daemon's."""
    wanted = EXAMPLES["example"](program)
    assert (ROOT / f"deploy/config/{program}.toml").read_text() == wanted, (
        "deploy/config/examples.py writes it anew"
    )


def test_a_setting_in_an_example_can_be_changed() -> None:
    text = configuration("nsqd", durability="disk", nsqlookupd_tcp_addresses=["a:4160"])
    found = tomllib.loads(text)
    assert (found["durability"], found["nsqlookupd_tcp_addresses"]) == ("disk", ["a:4160"])
    assert found.keys() == {"durability", "nsqlookupd_tcp_addresses", "broadcast_address"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_program_that_is_installed(path: Path) -> None:
    command = service_section(path)["ExecStart"][0].split()
    program = command[0].removeprefix("/usr/local/bin/")
    assert program in SCRIPTS
    assert command[1:] == ["--config=${CREDENTIALS_DIRECTORY}/" + f"{path.stem.replace('@', '-%i')}.toml"]
    name = path.stem.replace("@", "-%i")
    assert service_section(path)["LoadCredential"] == [f"{name}.toml:/etc/nsq/{name}.toml"]


def test_all_units_are_in_the_same_sandbox() -> None:
    """They differ in names, folders, limits and time-outs alone."""
    own = {
        "ExecStart",
        "WorkingDirectory",
        "StateDirectory",
        "StateDirectoryMode",
        "User",
        "LimitNOFILE",
        "LoadCredential",
    }
    times = {"TimeoutStartSec", "TimeoutStopSec"}
    common = [
        {name: values for name, values in service_section(path).items() if name not in own | times}
        for path in UNITS
    ]
    assert len(UNITS) == 4
    assert all(section == common[0] for section in common)
    assert common[0]["DynamicUser"] == ["yes"]


def service_section(path: Path) -> dict[str, list[str]]:
    """Each setting with all of its values: a filter may be given twice."""
    section: dict[str, list[str]] = {}
    for line in path.read_text().partition("[Service]\n")[2].partition("\n[")[0].splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            section.setdefault(name, []).append(value)
    return section
