"""Looks up known vulnerabilities of the locked packages, with pip-audit, for `make audit`.

    python deploy/audit.py PIP_AUDIT LOCK_FILE

Exit code 1 if there are any. Where no database of advisories can be reached, or it does not know the packages, a line
says so, and the exit code is 0: the check is then to be made elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys


def audit(program: str, lock: str) -> tuple[int, str]:
    """The exit code, and what to print."""
    done = subprocess.run(  # noqa: S603 - the program that the Makefile has installed
        [
            program,
            "--requirement",
            lock,
            "--no-deps",
            "--disable-pip",
            "--format=json",
            "--progress-spinner=off",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip() or "no answer").splitlines()[-1]
        return 0, f"audit: skipped, no database of advisories can be reached ({last})"
    skipped = sum("skip_reason" in package for package in packages)
    found = [
        f"{package['name']} {package['version']}: {', '.join(each['id'] for each in package['vulns'])}"
        for package in packages
        if package.get("vulns")
    ]
    if skipped == len(packages):
        return 0, "audit: skipped, the database of advisories that can be reached knows none of the packages"
    summary = f"audit: {len(packages)} packages, {len(found)} with known vulnerabilities, {skipped} unknown"
    return int(bool(found)), "\n".join([*found, summary])


def main() -> None:
    """Audit the file of the command line."""
    code, text = audit(*sys.argv[1:])
    print(text)
    sys.exit(code)


if __name__ == "__main__":
    main()
