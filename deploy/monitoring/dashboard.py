"""Writes the Grafana dashboard in this folder, dashboard.json. Import it in Grafana (Dashboards, New, Import).

python deploy/monitoring/dashboard.py            # after a change
python deploy/monitoring/dashboard.py --check    # exit code 1 if the file is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("dashboard.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
CHANNEL = 'topic=~"$topic",channel=~"$channel"'
TOPIC = 'topic=~"$topic"'
RATE = "[$__rate_interval]"
BY_CHANNEL = "{{topic}}/{{channel}}"

# Rows of panels: title, unit, and queries with their legends.
ROWS: list[tuple[str, list[tuple[str, str, list[tuple[str, str]]]]]] = [
    (
        "Messages",
        [
            (
                "Published",
                "cps",
                [(f"sum by (topic) (rate(nsqd_topic_messages_total{{{TOPIC}}}{RATE}))", "{{topic}}")],
            ),
            (
                "Finished",
                "cps",
                [
                    (
                        "sum by (topic, channel) "
                        f"(rate(nsqd_channel_finished_messages_total{{{CHANNEL}}}{RATE}))",
                        BY_CHANNEL,
                    )
                ],
            ),
            (
                "Oldest message",
                "s",
                [
                    (
                        f"max by (topic, channel) (nsqd_channel_oldest_message_age_seconds{{{CHANNEL}}})",
                        BY_CHANNEL,
                    )
                ],
            ),
        ],
    ),
    (
        "Channels",
        [
            ("Depth", "short", [(f"sum by (topic, channel) (nsqd_channel_depth{{{CHANNEL}}})", BY_CHANNEL)]),
            (
                "In flight and deferred",
                "short",
                [
                    (f"sum(nsqd_channel_in_flight_messages{{{CHANNEL}}})", "in flight"),
                    (f"sum(nsqd_channel_deferred_messages{{{CHANNEL}}})", "deferred"),
                ],
            ),
            (
                "Requeued and timed out",
                "cps",
                [
                    (f"sum(rate(nsqd_channel_requeues_total{{{CHANNEL}}}{RATE}))", "requeued"),
                    (f"sum(rate(nsqd_channel_timeouts_total{{{CHANNEL}}}{RATE}))", "timed out"),
                ],
            ),
            (
                "Consumers",
                "short",
                [(f"sum by (topic, channel) (nsqd_channel_clients{{{CHANNEL}}})", BY_CHANNEL)],
            ),
        ],
    ),
    (
        "Nodes",
        [
            ("Healthy", "short", [("nsqd_healthy", "{{instance}}")]),
            (
                "CPU",
                "percentunit",
                [(f'rate(process_cpu_seconds_total{{job="nsqd"}}{RATE})', "{{instance}}")],
            ),
            ("Memory", "bytes", [('process_resident_memory_bytes{job="nsqd"}', "{{instance}}")]),
            ("Connections", "short", [("nsqd_connections", "{{instance}}")]),
        ],
    ),
    (
        "Disk",
        [
            ("Logs", "bytes", [(f"sum by (topic) (nsqd_topic_log_bytes{{{TOPIC}}})", "{{topic}}")]),
            ("Appends that are not synced", "short", [("nsqd_unsynced_appends", "{{instance}}")]),
            (
                "Event loop late, 99 %",
                "s",
                [
                    (
                        "histogram_quantile(0.99, "
                        f"sum by (instance, le) (rate(nsqd_loop_lag_seconds_bucket{RATE})))",
                        "{{instance}}",
                    )
                ],
            ),
            (
                "Damaged messages",
                "short",
                [("sum by (instance) (nsqd_channel_damaged_messages_total)", "{{instance}}")],
            ),
        ],
    ),
    (
        "Copies",
        [
            (
                "In step, of those wanted",
                "short",
                [
                    ("nsqd_copies_in_step", "{{instance}}"),
                    ("nsqd_copies_wanted", "{{instance}}, wanted"),
                ],
            ),
            (
                "Appends not acknowledged",
                "short",
                [("nsqd_follower_lag_appends", "{{instance}} to {{follower}}")],
            ),
            (
                "Sent",
                "Bps",
                [(f"rate(nsqd_follower_sent_bytes_total{RATE})", "{{instance}} to {{follower}}")],
            ),
            ("Held for others", "bytes", [("nsqd_copies_held_bytes", "{{instance}}")]),
        ],
    ),
    (
        "Registries",
        [
            ("Nodes", "short", [("nsqlookupd_nodes", "{{instance}}")]),
            ("Registrations", "short", [("nsqlookupd_registrations", "{{instance}}")]),
            (
                "Requests",
                "reqps",
                [
                    (
                        f"sum by (instance, code) (rate(nsqlookupd_http_requests_total{RATE}))",
                        "{{instance}} {{code}}",
                    )
                ],
            ),
        ],
    ),
]


def dashboard() -> dict[str, Any]:
    """The whole dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, 24, 1)}
        )
        width = 24 // len(row)
        for number, (name, unit, queries) in enumerate(row):
            panels.append(_panel(name, unit, queries, _place(number * width, y + 1, width, 8)))
        y += 9
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "NSQ",
        "uid": "nsq-trio",
        "tags": ["nsq"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("topic", "label_values(nsqd_topic_messages_total, topic)"),
                _variable("channel", 'label_values(nsqd_channel_depth{topic=~"$topic"}, channel)'),
            ]
        },
        "panels": panels,
    }


def _panel(title: str, unit: str, queries: list[tuple[str, str]], place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(queries)
        ],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def main() -> None:
    """Write the file, or check it."""
    wanted = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        sys.exit(not PATH.exists() or PATH.read_text() != wanted)
    PATH.write_text(wanted)


if __name__ == "__main__":
    main()
