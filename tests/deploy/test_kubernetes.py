"""`deploy/kubernetes`: valid by the published schemas, and of one piece with the programs that it starts."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from typing import Any

import attrs
import kubernetes_validate
import pytest
import yaml

from nsqd.options import stand_in_ports
from nsqkit.options import parse
from tests.deploy.base import ROOT
from tests.timing import patience

FOLDER = ROOT / "deploy/kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((FOLDER / name).read_text())
]
WORKLOADS = [manifest for manifest in MANIFESTS if manifest["kind"] in ("StatefulSet", "Deployment")]
OPTIONS = {
    "nsqd": "nsqd.options:NsqdOptions",
    "nsqlookupd": "nsqlookupd.options:LookupdOptions",
    "nsqadmin": "nsqadmin.options:AdminOptions",
}


def label(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in MANIFESTS if manifest["kind"] == kind}


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [found] = pod(workload)["containers"]
    return dict(found)


def command_line(workload: dict[str, Any], pod_number: int = 1) -> list[str]:
    """Program and flags, as the shell makes them in a pod."""
    found = container(workload)
    words = [*found["command"], *found["args"]]
    if words[:2] == ["sh", "-c"]:
        before, execute, command = words[2].rpartition("exec ")
        assert execute
        done = subprocess.run(
            ["sh", "-euc", f"{before} printf '%s\\n' {command}"],
            env={"HOSTNAME": f"{workload['metadata']['name']}-{pod_number}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=patience(20),
        )
        words = done.stdout.splitlines()
    assert not any("$" in word for word in words)
    return words


def options(workload: dict[str, Any], pod_number: int = 1) -> Any:
    """What the program makes of its flags."""
    program, *flags = command_line(workload, pod_number)
    module, _, name = OPTIONS[program].partition(":")
    cls: type[attrs.AttrsInstance] = getattr(importlib.import_module(module), name)
    parsed = parse(cls, flags, program=program)
    importlib.import_module(module).validate(parsed)
    return parsed


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=label)
def test_valid_by_the_schema(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_every_file_is_a_resource() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files


@pytest.mark.process
def test_kustomize_builds_all_of_it() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", str(FOLDER)], capture_output=True, timeout=patience(60), check=False
    )
    if b"unknown command" in done.stderr:
        pytest.skip("this kubectl has no kustomize")
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {label(each) for each in built} == {label(each) for each in MANIFESTS}
    for each in built:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("workload", WORKLOADS, ids=label)
def test_program_takes_its_flags_and_listens_where_the_ports_are(workload: dict[str, Any]) -> None:
    parsed = options(workload)
    ports = {each["name"]: each["containerPort"] for each in container(workload)["ports"]}
    for name, number in ports.items():
        assert getattr(parsed, f"{name}_address") == f"0.0.0.0:{number}"
    probes = [container(workload)[f"{kind}Probe"]["httpGet"]["port"] for kind in ("liveness", "readiness")]
    assert set(probes) == {"http"}


def test_addresses_are_those_of_pods() -> None:
    registries = of_kind("StatefulSet")["nsqlookupd"]
    pods = [f"nsqlookupd-{number}.nsqlookupd" for number in range(registries["spec"]["replicas"])]
    nsqd, console = options(of_kind("StatefulSet")["nsqd"]), options(of_kind("Deployment")["nsqadmin"])
    assert nsqd.nsqlookupd_tcp_addresses == [f"{name}:4160" for name in pods]
    assert console.lookupd_http_addresses == [f"{name}:4161" for name in pods]
    assert (nsqd.broadcast_address, nsqd.node_id) == ("nsqd-1.nsqd", 1)
    assert options(registries).broadcast_address == pods[1]


@pytest.mark.parametrize(("number", "follower"), [(0, 1), (1, 0), (2, 1), (3, 2), (10, 9)])
def test_each_nsqd_copies_to_another_one_in_a_set_of_any_size(number: int, follower: int) -> None:
    nsqds = of_kind("StatefulSet")["nsqd"]
    parsed = options(nsqds, number)
    assert parsed.replicate_to == [f"nsqd-{follower}.nsqd:4159"]
    assert (parsed.ack_copies, parsed.min_copies, parsed.node_id) == (2, 1, number)


def test_a_leader_and_its_follower_are_never_on_one_machine() -> None:
    nsqds = of_kind("StatefulSet")["nsqd"]
    labels = nsqds["spec"]["template"]["metadata"]["labels"]
    [apart] = pod(nsqds)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}


def test_only_nsqds_reach_the_replication_port() -> None:
    nsqds = of_kind("StatefulSet")["nsqd"]
    mine = {"matchLabels": nsqds["spec"]["template"]["metadata"]["labels"]}
    policy = of_kind("NetworkPolicy")["nsqd"]["spec"]
    assert (policy["podSelector"], policy["policyTypes"]) == (mine, ["Ingress"])
    among_them, all_others = policy["ingress"]
    assert among_them == {"from": [{"podSelector": mine}], "ports": [{"port": "replication"}]}
    stand_ins = stand_in_ports(options(nsqds))
    ports = [{"port": "tcp"}, {"port": "http"}, {"port": stand_ins[0], "endPort": stand_ins[-1]}]
    assert all_others == {"ports": ports}


def test_the_secret_is_mounted_for_the_user_of_nsqd() -> None:
    nsqds = of_kind("StatefulSet")["nsqd"]
    [volume] = pod(nsqds)["volumes"]
    [mount] = [each for each in container(nsqds)["volumeMounts"] if each["name"] == volume["name"]]
    folder, key = options(nsqds).replication_secret_file.rsplit("/", 1)
    assert mount == {"name": volume["name"], "mountPath": folder, "readOnly": True}
    assert volume["secret"] == {"secretName": "nsqd-replication", "defaultMode": 0o440}
    assert pod(nsqds)["securityContext"]["fsGroup"] == pod(nsqds)["securityContext"]["runAsGroup"]
    create = f"kubectl create secret generic nsqd-replication --from-literal={key}="
    for path in (FOLDER / "nsqd.yaml", ROOT / "docs/operations.md"):
        assert create in path.read_text(), path


@pytest.mark.parametrize("workload", WORKLOADS, ids=label)
def test_selectors_find_the_pods(workload: dict[str, Any]) -> None:
    name = workload["metadata"]["name"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    service = of_kind("Service")[workload["spec"].get("serviceName", name)]
    assert workload["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    ports = {(each["name"], each["port"]) for each in service["spec"]["ports"]}
    assert ports == {(each["name"], each["containerPort"]) for each in container(workload)["ports"]}
    if workload["kind"] == "StatefulSet":
        assert service["spec"]["clusterIP"] == "None"
        budget = of_kind("PodDisruptionBudget")[name]["spec"]
        assert (budget["selector"]["matchLabels"], budget["maxUnavailable"]) == (labels, 1)


def test_registries_are_on_different_machines_if_there_are_enough() -> None:
    registries = of_kind("StatefulSet")["nsqlookupd"]
    [apart] = pod(registries)["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    labels = registries["spec"]["template"]["metadata"]["labels"]
    assert apart["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("workload", WORKLOADS, ids=label)
def test_pods_may_do_little(workload: dict[str, Any]) -> None:
    """They pass the policy `restricted` of Kubernetes, and run as the user of the image."""
    context, own = pod(workload)["securityContext"], container(workload)["securityContext"]
    assert f"--uid {context['runAsUser']} " in (ROOT / "deploy/Dockerfile").read_text()
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
