"""The tools where everything is encrypted: flags of the client library for TCP, the system's certificates for HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.nsqkit.http_target import Target
from tests.nsqtools.broker import bodies, fill, wait_finished
from tests.nsqtools.tool import Tool, run_tool
from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """An authority of our own, and the file with its certificate."""
    ca, path = trustme.CA(), tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return ca, path


@pytest.fixture
def secure_nsqd(ca: tuple[trustme.CA, Path], tmp_path: Path) -> Iterator[Daemon]:
    """It takes nothing but TLS on TCP; set `flags` for more."""
    cert = ca[0].issue_cert(HOST)
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "nsqd").mkdir()
    flags = [
        f"--tls-cert={tmp_path}/cert.pem",
        f"--tls-key={tmp_path}/key.pem",
        f"--https-address={HOST}:{free_port()}",
        f"--broadcast-address={HOST}",
        "--tls-required=tcp-https",
    ]
    with Daemon(tmp_path / "nsqd", flags=flags) as nsqd:
        nsqd.start()
        yield nsqd


def tls(ca: tuple[trustme.CA, Path], kind: str, *more: str) -> list[str]:
    """The options of the client library, as flags."""
    return [f"-{kind}-opt={text}" for text in ("tls_v1", f"tls_root_ca_file,{ca[1]}", *more)]


def test_stat_is_sent_on_to_https(
    secure_nsqd: Daemon, ca: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain HTTP is refused with the port of HTTPS; without a certificate to trust, that is the end."""
    nsqd = secure_nsqd
    fill(nsqd, "t", "c", bodies(0, 3))
    nsqd.terminate()
    nsqd.flags = [*nsqd.flags[:-1], "--tls-required"]
    nsqd.start()
    where = f"-nsqd-http-address={HOST}:{nsqd.http_port}"
    flags = ["-topic=t", "-channel=c", "-interval=50ms", "-count=1", where]
    done = run_tool("nsq_stat", *flags)
    assert done.returncode == 1
    assert b"CERTIFICATE_VERIFY_FAILED" in done.stderr
    monkeypatch.setenv("SSL_CERT_FILE", str(ca[1]))
    done = run_tool("nsq_stat", *flags)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[-1].startswith(b"      0       0 |       3 ")


@pytest.mark.parametrize("compression", ["snappy", "deflate"])
def test_nsq_to_nsq(
    secure_nsqd: Daemon, ca: tuple[trustme.CA, Path], tmp_path: Path, compression: str
) -> None:
    """Both connections over TLS, compressed."""
    nsqd = secure_nsqd
    fill(nsqd, "t", "nsq_to_nsq", bodies(0, 1000))
    flags = ["-topic=t", "-destination-topic=u", f"-nsqd-tcp-address={nsqd.tcp_address}"]
    flags += [f"-destination-nsqd-tcp-address={nsqd.tcp_address}"]
    options = [*tls(ca, "consumer", compression), *tls(ca, "producer", compression)]
    with Tool(tmp_path, "nsq_to_nsq", *flags, *options) as tool:
        wait_finished(nsqd, "t", "nsq_to_nsq")
        assert tool.terminate() == 0
    source = f"-nsqd-tcp-address={nsqd.tcp_address}"
    done = run_tool("nsq_tail", "-topic=u", "-channel=c", "-n=1000", source, *tls(ca, "consumer"))
    assert sorted(done.stdout.splitlines()) == bodies(0, 1000)


def test_certificate_that_is_not_trusted(secure_nsqd: Daemon, tmp_path: Path) -> None:
    """No connection, and no message in the clear."""
    flags = ["-topic=t", f"-nsqd-tcp-address={secure_nsqd.tcp_address}", "-producer-opt=publish_timeout,1s"]
    for options in ([], ["-producer-opt=tls_v1"]):
        done = run_tool("to_nsq", *flags, *options, stdin=b"a\n")
        assert done.returncode == 1
        assert b"FATAL: failed to publish to" in done.stderr
    assert secure_nsqd.stats()["topics"] == []


def test_nsq_to_http(
    shared_nsqd: Daemon,
    topic: str,
    ca: tuple[trustme.CA, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To an https server whose authority the system trusts; one that it does not trust gets nothing."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca[0].issue_cert(HOST).configure_cert(context)
    fill(shared_nsqd, topic, "nsq_to_http", bodies(0, 20))
    with Target(tls=context) as target:
        flags = [f"-topic={topic}", f"-nsqd-tcp-address={shared_nsqd.tcp_address}", f"-post={target.url()}"]
        with Tool(tmp_path, "nsq_to_http", *flags, "-consumer-opt=default_requeue_delay,10ms") as tool:
            tool.wait_for_log("CERTIFICATE_VERIFY_FAILED")
            assert tool.terminate() == 0
        assert target.bodies == []
        monkeypatch.setenv("SSL_CERT_FILE", str(ca[1]))
        with Tool(tmp_path, "nsq_to_http", *flags) as tool:
            wait_finished(shared_nsqd, topic, "nsq_to_http")
            assert tool.terminate() == 0
        assert sorted(target.bodies) == bodies(0, 20)
