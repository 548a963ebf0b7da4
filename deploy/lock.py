"""Writes the lock file from what pip would install, for `make lock`.

    pip install --dry-run --ignore-installed --report REPORT --requirement NEEDED
    python deploy/lock.py <REPORT >LOCK_FILE

Each package stands there with its version and the hash of the file that pip chose, so that the lock is for one version
of Python on one kind of machine.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def lock(report: dict[str, Any]) -> str:
    """The lock file for a report of pip."""
    machine = report["environment"]
    lines = [
        f"# What CI installs, written by `make lock`: {machine['implementation_name']} {machine['python_version']}, "
        f"{machine['sys_platform']} {machine['platform_machine']}.",
    ]
    for package in sorted(report["install"], key=lambda each: str(each["metadata"]["name"]).lower()):
        metadata, archive = package["metadata"], package["download_info"]["archive_info"]
        lines.append(f"{metadata['name']}=={metadata['version']} --hash=sha256:{archive['hashes']['sha256']}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(lock(json.load(sys.stdin)))
