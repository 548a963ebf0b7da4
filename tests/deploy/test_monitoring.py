"""`deploy/monitoring`: rules that promtool tests, and a dashboard whose queries a real Prometheus answers."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.deploy.base import ROOT
from tests.nsqkit.promtool import needs_promtool
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

MONITORING = ROOT / "deploy/monitoring"
RULES = (MONITORING / "alerts.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
ALERTS = re.findall(r"(?m)^ +- alert: (\w+)$", RULES)


def promtool(*words: str) -> str:
    done = subprocess.run(
        ["promtool", *words],
        cwd=MONITORING,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience(30),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_promtool
@pytest.mark.process
def test_rules_fire_when_they_must() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_each_rule_has_a_test_and_a_row_in_the_documentation() -> None:
    tested = re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text())
    table = (ROOT / "docs/operations.md").read_text().partition("## Alarms")[2].partition("Log lines that")[0]
    documented = re.findall(r"(?m)^\| `(Nsq\w+)` \|", table)
    assert len(ALERTS) == 18
    assert set(tested) == set(ALERTS) == set(documented)


def test_dashboard_is_what_its_maker_writes() -> None:
    maker = runpy.run_path(str(MONITORING / "dashboard.py"))
    assert maker["dashboard"]() == DASHBOARD, "deploy/monitoring/dashboard.py writes it anew"


def queries() -> list[str]:
    """Of all panels, with what Grafana puts in for the variables."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [
        query.replace("$topic", ".*").replace("$channel", ".*").replace("$__rate_interval", "10s")
        for query in found
    ]


def rule_series() -> list[str]:
    """The names of the series in the rules that daemons of this project have."""
    expressions = re.sub(r"(?m)^ +summary: .*$", "", RULES)
    return sorted(set(re.findall(r"\b(?:nsqd|nsqlookupd|process)_[a-z0-9_]+", expressions)))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The HTTP port of a Prometheus that collects from a small cluster with traffic."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        registry = stack.enter_context(LookupDaemon())
        registry.start()
        copies = f"{HOST}:{free_port()}"
        (folder / "follower").mkdir()
        follower = stack.enter_context(Daemon(folder / "follower", (f"--replication-address={copies}",)))
        follower.start()
        flags = (f"--lookupd-tcp-address={registry.tcp_address}", f"--replicate-to={copies}")
        nsqd = stack.enter_context(Daemon(folder, flags))
        nsqd.start()
        nsqd.create_channel("orders", "audit")
        nsqd.create_channel(
            "orders", "nobody"
        )  # where messages wait: the age of the oldest is there only then
        stack.callback(start_traffic(nsqd).set)
        port = free_port()
        config = (MONITORING / "prometheus.yml").read_text()
        config = config.replace("interval: 15s", "interval: 1s").replace(
            "alerts.yml", str(MONITORING / "alerts.yml")
        )
        config = config.replace("127.0.0.1:4151", f"{HOST}:{nsqd.http_port}")
        config = config.replace("127.0.0.1:4161", f"{HOST}:{registry.http_port}")
        (folder / "prometheus.yml").write_text(config)
        command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--web.listen-address={HOST}:{port}"], stdout=log, stderr=log, cwd=folder
            )
        try:
            yield port
        finally:
            process.kill()
            process.wait(patience(10))


def start_traffic(nsqd: Daemon) -> threading.Event:
    """Publish and finish messages until the event is set."""
    end = threading.Event()

    def work() -> None:
        with RawClient.connect(nsqd.tcp_port) as client:
            client.sub("orders", "audit")
            client.rdy(1)
            while not end.wait(0.2):
                nsqd.request("POST", "/pub?topic=orders", b"x")
                client.fin(client.message().id)

    threading.Thread(target=work, daemon=True).start()
    return end


def ask(port: int, query: str) -> list[Any]:
    """The samples that Prometheus answers with; AssertionError for a query that it does not understand."""
    url = f"http://{HOST}:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=patience(10)) as answer:
        content = json.load(answer)
    assert content["status"] == "success", content
    return list(content["data"]["result"])


def answered(port: int, query: str) -> bool:
    try:
        return bool(ask(port, query))
    except OSError:
        return False


@pytest.mark.process
@pytest.mark.xdist_group("prometheus")
def test_prometheus_answers_every_query_of_the_dashboard(prometheus: int) -> None:
    assert len(queries()) > 15
    for query in queries():
        wait_until(lambda query=query: answered(prometheus, query), 30.0, f"an answer to {query}")


@pytest.mark.process
@pytest.mark.xdist_group("prometheus")
def test_series_of_the_rules_exist(prometheus: int) -> None:
    """But for a topic's age, which is there only while a message waits in the topic itself."""
    names = [name for name in rule_series() if "topic_oldest" not in name]
    assert len(names) > 10
    for name in names:
        wait_until(lambda name=name: answered(prometheus, name), 30.0, f"a series {name}")
