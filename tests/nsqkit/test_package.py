"""The two distributions as users get them: built, installed, type-checked, imported. Without a network.

The wheel of nsqkit is installed into a fresh environment that has what nsqkit needs and nothing else, linked from the
environment of the tests.
"""

from __future__ import annotations

import email
import email.message
import importlib.metadata
import json
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from packaging.requirements import Requirement

from nsqkit.version import VERSION

ROOT = Path(__file__).parents[2]
PROGRAMS = ("nsqd", "nsqlookupd", "nsqadmin", "nsqtools")
pytestmark = pytest.mark.xdist_group("package")  # one worker builds

PACKAGES = {"anyio", "attrs", "httpx", "certifi", "h11", "httpcore", "idna"}
"""What `pip install nsqkit` brings: the three that it names, and what those need."""
BACKPORTS = {"typing_extensions"}
"""Parts of later standard libraries, which anyio needs as well (4.16: on Python < 3.15)."""

USER = """\
import anyio
from nsqkit.client import ClientOptions, Consumer, ConsumerStats, Message, NSQError, Producer, UncertainPublish
from nsqkit.discovery import Discovery, Node


async def handle(message: Message) -> None:
    body: bytes = message.body
    if message.attempts > 3 or not body:
        message.requeue(5.0, backoff=False)


def plain(message: Message) -> None:
    message.touch()


async def main() -> None:
    options = ClientOptions(max_in_flight=100, msg_timeout=30, tls_v1=True)
    async with Producer(nsqd_tcp_addresses=["127.0.0.1:4150"], options=options, snappy=False) as producer:
        try:
            await producer.publish("t", b"1")
            await producer.publish_multi("t", [b"2", b"3"])
            await producer.publish_deferred("t", b"4", delay=0.5)
        except UncertainPublish as error:
            print(error)
        except NSQError:
            raise
    consumer = Consumer("t", "c", lookupd_http_addresses=["127.0.0.1:4161"], handler=handle, max_attempts=3)
    stats: ConsumerStats = consumer.stats()
    print(stats.in_flight, Consumer("t", "c", nsqd_tcp_addresses=["a:4150"], handler=plain).options.max_in_flight)
    await consumer.run()
    async with Consumer("t", "c", nsqd_tcp_addresses=["127.0.0.1:4150"], auto_touch=True) as stream:
        async for message in stream:
            message.finish()
    nodes: list[Node] = await Discovery(["127.0.0.1:4161"]).lookup("t")
    print(nodes[0].tcp_address)


anyio.run(main)
"""

MISTAKES = """\
from nsqkit.client import ClientOptions, Consumer, Message, Producer

ClientOptions(max_in_fligth=1)
Consumer("t", "c", nsqd_tcp_addresses=["a:1"], max_in_fligth=1)
Consumer("t", "c", nsqd_tcp_addresses=["a:1"], max_in_flight="many")
Producer(nsqd_tcp_addresses=["a:1"], publish_time_out=1.0)
Producer(nsqd_tcp_addresses=["a:1"], snappy=1.5)
Consumer("t", nsqd_tcp_addresses=["a:1"])
Message(1, 1, b"0123456789abcdef", b"").finnish()
Producer(nsqd_tcp_addresses=["a:1"]).publish("t", "text")
Consumer("t", "c", nsqd_tcp_addresses=["a:1"], max_inflight=3)
Consumer("t", "c", nsqd_tcp_addresses=["a:1"], msg_timeout="60s")
Consumer("t", "c", nsqd_tcp_addresses="a:1")
Producer(lookupd_http_addresses="a:4161")
"""
LINES_WITH_MISTAKES = set(range(3, len(MISTAKES.splitlines()) + 1))

SMOKE = """\
import asyncio, importlib.util, sys
import nsqkit.client, nsqkit.discovery, nsqkit.http_client
from nsqkit.client import ClientOptions, Consumer, ConnectionFailed, Producer
from nsqkit.discovery import Discovery, DiscoveryFailed

for name in ("trio", "cramjam", "crc32c", "msgspec", "httptools", "nsqd"):
    assert importlib.util.find_spec(name) is None, name
try:
    ClientOptions(snappy=True)
except ValueError as error:
    assert "pip install 'nsqkit[compression]'" in str(error)
else:
    raise AssertionError("snappy was taken")


async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 16\\r\\n\\r\\n{"topics":["t"]}')
    await writer.drain()
    writer.close()


async def nsqd(reader, writer):
    frame = lambda body: (len(body) + 4).to_bytes(4, "big") + bytes(4) + body
    await reader.readexactly(4)
    await reader.readline()
    await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    writer.write(frame(b'{"max_rdy_count":10}'))
    assert await reader.readline() == b"PUB t\\n"
    await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    writer.write(frame(b"OK"))
    await reader.read()
    writer.close()


async def main():
    import nsqkit.client.layers  # TLS and deflate
    from nsqkit.wire.compression import DeflateEncoder

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await Discovery([f"127.0.0.1:{port}"]).topics() == ["t"]
    broker = await asyncio.start_server(nsqd, "127.0.0.1", 0)
    address = f"127.0.0.1:{broker.sockets[0].getsockname()[1]}"
    async with Producer(nsqd_tcp_addresses=[address], deflate=True) as producer:
        await producer.publish("t", b"x")
    server.close()
    broker.close()


asyncio.run(asyncio.wait_for(main(), 20))
print("fine")
"""


def run(*command: str | Path, cwd: Path | None = None, check: bool = True) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert not check or done.returncode == 0, (
        f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout


def build(source: Path, target: Path, *kinds: str) -> None:
    targets = [f"--target={kind}" for kind in kinds]
    run(sys.executable, "-m", "hatchling", "build", *targets, f"--directory={target}", cwd=source)


@attrs.frozen
class Built:
    """Wheels and sdists of both distributions."""

    folder: Path

    def wheel(self, name: str) -> Path:
        return self.folder / f"{name}-{VERSION}-py3-none-any.whl"

    def sdist(self, name: str) -> Path:
        return self.folder / f"{name}-{VERSION}.tar.gz"

    def files(self, name: str) -> set[str]:
        with zipfile.ZipFile(self.wheel(name)) as wheel:
            return set(wheel.namelist())

    def metadata(self, name: str) -> email.message.Message:
        with zipfile.ZipFile(self.wheel(name)) as wheel:
            return email.message_from_bytes(wheel.read(f"{name}-{VERSION}.dist-info/METADATA"))

    def requirements(self, name: str) -> list[str]:
        return self.metadata(name).get_all("Requires-Dist") or []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    build(ROOT, folder, "wheel", "sdist")
    build(ROOT / "shared", folder, "wheel", "sdist")
    return Built(folder)


def needed(requirements: list[str]) -> set[str]:
    """The distributions that these requirements bring, with all that those need, by what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        name = requirement.name.lower().replace("-", "_")
        if name in found or not any(_applies(requirement, extra) for extra in extras):
            continue
        found.add(name)
        waiting += [
            inner
            for text in importlib.metadata.requires(requirement.name) or []
            if _applies(inner := Requirement(text), "")
        ]
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of an environment with nsqkit and what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", f"--python={python}")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", built.wheel("nsqkit"))
    [packages] = folder.glob("lib/python*/site-packages")
    for name in needed(built.requirements("nsqkit")):
        for top in _top_level(importlib.metadata.distribution(name)):
            (packages / top.name).symlink_to(top)
    return python


def _top_level(distribution: importlib.metadata.Distribution) -> Iterator[Path]:
    """Its folders and modules."""
    for name in {
        file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")
    }:
        yield Path(str(distribution.locate_file(name)))


class TestWheels:
    def test_library(self, built: Built) -> None:
        files = built.files("nsqkit")
        assert {name.split("/")[0] for name in files} == {"nsqkit", f"nsqkit-{VERSION}.dist-info"}
        assert {"nsqkit/py.typed", "nsqkit/client/consumer.py", "nsqkit/service/http/server.py"} <= files

    def test_programs(self, built: Built) -> None:
        files = built.files("nsq_trio")
        assert {name.split("/")[0] for name in files} == {*PROGRAMS, f"nsq_trio-{VERSION}.dist-info"}
        assert {f"{package}/py.typed" for package in PROGRAMS} <= files

    @pytest.mark.parametrize(
        ("name", "source", "packages"), [("nsqkit", "shared", ["nsqkit"]), ("nsq_trio", ".", PROGRAMS)]
    )
    def test_every_file_of_the_packages(
        self, built: Built, name: str, source: str, packages: list[str]
    ) -> None:
        folder = ROOT / source
        wanted = {
            str(path.relative_to(folder))
            for package in packages
            for path in (folder / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert wanted == {path for path in built.files(name) if ".dist-info/" not in path}

    @pytest.mark.parametrize("name", ["nsqkit", "nsq_trio"])
    def test_metadata(self, built: Built, name: str) -> None:
        metadata = built.metadata(name)
        assert metadata["Version"] == VERSION
        assert metadata["License-Expression"] == "MIT"
        assert metadata["Project-URL"]
        assert len(str(metadata.get_payload())) > 500, "no README"
        assert any(path.endswith("/licenses/LICENSE") for path in built.files(name))

    def test_both_have_the_same_licence(self) -> None:
        assert (ROOT / "LICENSE").read_text() == (ROOT / "shared/LICENSE").read_text()

    def test_programs_need_the_library_of_their_version(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert f"nsqkit[compression,service]=={VERSION}" in project["dependencies"]

    @pytest.mark.parametrize(("name", "packages"), [("nsqkit", ["nsqkit"]), ("nsq_trio", PROGRAMS)])
    def test_an_sdist_builds_the_same_wheel(
        self, built: Built, name: str, packages: list[str], tmp_path: Path
    ) -> None:
        run("tar", "-xf", built.sdist(name), "-C", tmp_path)
        build(tmp_path / f"{name}-{VERSION}", tmp_path, "wheel")
        assert Built(tmp_path).files(name) == built.files(name)

    def test_the_library_brings_seven_packages_and_a_backport(self, built: Built) -> None:
        assert needed(built.requirements("nsqkit")) - BACKPORTS == PACKAGES


class TestTypes:
    def mypy(self, python: Path, program: Path) -> str:
        command = (
            "mypy",
            "--strict",
            "--no-incremental",
            f"--python-executable={python}",
            "--no-error-summary",
        )
        return run(sys.executable, "-m", *command, program, cwd=program.parent, check=False)

    def pyright(self, python: Path, program: Path) -> list[dict[str, Any]]:
        (program.parent / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
        command = ("basedpyright", "--outputjson", f"--pythonpath={python}", f"--project={program.parent}")
        told = run(sys.executable, "-m", *command, program, cwd=program.parent, check=False)
        found: list[dict[str, Any]] = json.loads(told)["generalDiagnostics"]
        return found

    @pytest.fixture
    def user(self, tmp_path: Path) -> Path:
        path = tmp_path / "user.py"
        path.write_text(USER)
        return path

    @pytest.fixture
    def mistakes(self, tmp_path: Path) -> Path:
        path = tmp_path / "mistakes.py"
        path.write_text(MISTAKES)
        return path

    def test_mypy_is_content_with_a_good_program(self, python: Path, user: Path) -> None:
        assert self.mypy(python, user) == ""

    def test_mypy_finds_mistakes(self, python: Path, mistakes: Path) -> None:
        told = self.mypy(python, mistakes).splitlines()
        lines = {int(line.split(":")[1]) for line in told if ": error:" in line}
        assert lines == LINES_WITH_MISTAKES, told

    def test_pyright_is_content_with_a_good_program(self, python: Path, user: Path) -> None:
        assert self.pyright(python, user) == []

    def test_pyright_finds_mistakes(self, python: Path, mistakes: Path) -> None:
        told = self.pyright(python, mistakes)
        lines = {each["range"]["start"]["line"] + 1 for each in told if each["severity"] == "error"}
        assert lines == LINES_WITH_MISTAKES, told


def test_it_works_without_extras(python: Path) -> None:
    assert run(python, "-I", "-W", "error", "-c", SMOKE) == "fine\n"
