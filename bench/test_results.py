"""Tables of tails and curves, their pictures, and the page of the documentation that holds them."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import attrs
import pytest

from bench.charts import svg
from bench.curves import CURVES
from bench.docs import BEGIN, END, DocsError, write_docs
from bench.machine import Facts
from bench.meter import Measurement
from bench.nsq import NsqLink
from bench.report import Drawn, Point, Results, to_markdown
from bench.rows import QUICK, TAILS
from bench.runner import Cell, run_row
from bench.server import Broker, Server, nsqd

FACTS = Facts("d", "c", 2, 1, "k", 0.0, "/usr/bin/python3", "cpython 3", {}, "abc", "ext4")
MINE = Broker("mine", "")


def drawn(name: str, *, failed: str = "") -> Drawn:
    curve = next(curve for curve in CURVES if curve.name == name)
    measurement = Measurement(1000, 0.5, 0.002, 0.1, 1 << 20, extra={"start_ms": 7.0})
    return Drawn(
        curve,
        [
            Point(x, series, Cell(row, MINE, [] if failed else [measurement], failed=failed))
            for x, series, row in curve.points(quick=False, large=False)
        ],
    )


def results(*curves: Drawn) -> Results:
    return Results(FACTS, QUICK, [MINE], [], 1.0, curves=curves)


@pytest.mark.parametrize("name", [curve.name for curve in CURVES])
def test_a_curve_has_a_table_and_a_picture_with_a_dot_for_each_figure(name: str) -> None:
    curve = drawn(name)
    root = ElementTree.fromstring(svg(curve))
    dots = root.findall("{*}circle")
    assert len(dots) == 2 * len(curve.points)
    assert all(0 < float(dot.attrib["cx"]) < 840 and 0 < float(dot.attrib["cy"]) < 300 for dot in dots)
    text = to_markdown(results(curve), "pictures")
    assert text.count("| 2,000/s") == len(curve.points)
    assert f"](pictures/{name}.svg)" in text


def test_a_curve_that_failed_says_why_and_draws_nothing() -> None:
    curve = drawn("topics", failed="no room")
    assert ElementTree.fromstring(svg(curve)).find("{*}circle") is None
    assert "FAILED: no room" in to_markdown(results(curve))
    assert results(curve).failed


def test_the_largest_logs_are_only_measured_when_asked_for() -> None:
    curve = next(curve for curve in CURVES if curve.name == "log")
    assert 10_000 not in [x for x, *_ in curve.points(quick=False, large=False)]
    assert 10_000 in [x for x, *_ in curve.points(quick=False, large=True)]


def test_the_page_gets_new_results_and_keeps_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Title\n{BEGIN}\nold\n{END}\nthe end\n")
    write_docs(results(drawn("topics")), tmp_path)
    text = page.read_text()
    assert text.startswith(f"# Title\n{BEGIN}\n\n## Benchmark of d\n")
    assert text.endswith(f"\n{END}\nthe end\n")
    assert "### Number of topics" in text
    assert "old" not in text
    assert (tmp_path / "images/performance/topics.svg").exists()
    write_docs(results(drawn("topics")), tmp_path)
    assert page.read_text() == text


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + END + END, BEGIN + BEGIN + END])
def test_a_page_without_its_marks_stays_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(text)
    with pytest.raises(DocsError):
        write_docs(results(drawn("topics")), tmp_path)
    assert page.read_text() == text
    assert list(tmp_path.iterdir()) == [page]


def test_the_page_of_this_project_has_its_marks(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "performance.md"
    (tmp_path / "performance.md").write_text(page.read_text())
    write_docs(results(), tmp_path)
    assert "Benchmark of d" in (tmp_path / "performance.md").read_text()


@pytest.mark.process
def test_a_tail_has_its_figures_with_and_without_the_disturbance(tmp_path: Path) -> None:
    scale = attrs.evolve(QUICK, tail_seconds=0.2)
    row = next(row for row in TAILS if row.name == "tail-publish")
    [cell] = run_row(row, [nsqd(sys.executable)], scale, tmp_path, lambda _: None)
    assert not cell.failed
    extra = cell.measurements[0].extra
    for name in ("publish_p50_ms", "publish_p99.9_ms", "delivery_p99_ms", "stretch_ms"):
        assert extra[name] > 0
        assert extra[f"idle_{name}"] > 0
    text = to_markdown(Results(FACTS, QUICK, [cell.broker], [], 1.0, tails=[[cell]]))
    assert "| before |" in text
    assert "| meanwhile |" in text


@pytest.mark.process
def test_the_watch_on_the_loop_begins_anew_each_time(tmp_path: Path) -> None:
    with Server(nsqd(sys.executable).traced(), tmp_path) as server:
        NsqLink(server.port).close()  # an answer: the loop has waited for the network once
        at_start, at_rest = server.longest_stretch(), server.longest_stretch()
    assert at_start is not None
    assert at_rest is not None
    assert 0 <= at_rest < at_start
