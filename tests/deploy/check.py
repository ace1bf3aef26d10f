"""Checks the files of deploy/ without a cluster and without an engine.

    python tests/deploy/check.py [--helm HELM] [--binaries FOLDER]

The chart: `helm lint`; rendered with its defaults, with values-tls.yaml and with every value set of its folder `ci`; settings
that it must refuse; each object against its schema; each reference to another object. The rendered files of deploy/kubernetes
are those of the chart. The compose file, without and with TLS: every variable of a server. With --binaries, every server's
command line and environment, as pods and containers get them, are accepted by `--check-config`, which reads certificates made
by `volley certs`. The alert rules and the dashboard: alerts.py. With --binaries, what deploy/release packs: release.py.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

import alerts
import release
from certificates import Authority
from mounts import ETC, Mounts, write

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/volley"
# Versions of the schemas: the oldest that the chart allows, and a new one.
VERSIONS = ["1.30", "1.34"]
# Objects that no schema of Kubernetes knows.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "Certificate"}
# The Secrets of members in a value set that gives no issuer.
SECRETS = ["tls.enabled=true", "tls.members.coordinators.secretName=c", "tls.members.nodes.secretName=n"]

# Settings that must be refused, each with a word of the reason.
REFUSED = {
    "replicas": ["coordinators.replicas=2"],
    "twice": ["nodes.zones[0].name=a", "nodes.zones[1].name=a"],
    "nodes.hold": ["nodes.hold[0]=a"],
    "for ten": ["external.type=nodePort", "nodes.replicas=11"],
    "multiple of ten": ["external.nodePort.nodes=30905"],
    "external.loadBalancer.domain": ["external.type=loadBalancer"],
    "proxy.advertise": ["proxy.service.type=LoadBalancer"],
    "replica": ["nodes.replica=4"],
    "listen": ["nodes.config.listen=x"],
    "certificates of all members": SECRETS[:2],
    "Secrets and an issuer": [*SECRETS, "tls.members.certManager.issuerRef.name=i"],
    "a secretName and an issuer": [*SECRETS, "tls.clients.secretName=s", "tls.clients.certManager.issuerRef.name=i"],
    "mode is accept": [*SECRETS, "tls.members.mode=accept", "tls.clients.secretName=s"],
    "the ports of clients have no TLS": [*SECRETS, "tls.clients.clientCA.mode=required"],
    "have no certificate": [
        *SECRETS,
        "tls.clients.secretName=s",
        "tls.clients.clientCA.mode=required",
        "nodes.localReads.enabled=true",
    ],
    "TLS on every port": ["insecure=false"],
    "mode=require": [*SECRETS, "tls.clients.secretName=s", "tls.members.mode=prefer", "insecure=false"],
    "give TLS to http": [*SECRETS, "tls.clients.secretName=s", "tls.clients.listeners={internal,tunnel}", "insecure=false"],
    "give grpc+tls://": [*SECRETS, "tls.clients.secretName=s", "proxy.advertise=grpc+tcp://h:1"],
    "auth.enabled": ["auth.bootstrapAdminSecret=a"],
    "secretname": ["tls.secretname=x"],
    "peer_ca": ["nodes.config.peer_ca=x"],
    "52 letters": ["fullnameOverride=" + "v" * 40, "nodes.zones[0].name=" + "z" * 20],
}


class TestFailure(Exception):
    """A failed check, in one sentence."""


def run(*command, **more):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)


def template(helm, *arguments, kube="1.34.0"):
    done = run(helm, "template", "volley", CHART, "--namespace", "tables", "--kube-version", kube, *arguments)
    if done.returncode:
        raise TestFailure(done.stderr.strip())
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def title(found):
    return f"{found['kind']}/{found['metadata']['name']}"


def schemas(objects):
    for found in objects:
        if found["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(found, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(step) for step in error.path)
                raise TestFailure(f"{title(found)} by the schema of {version}: {path}: {error.message}") from error


def references(objects):
    """Every reference leads to an object, and names are unique."""
    names = [title(found) for found in objects]
    for name in names:
        if names.count(name) > 1:
            raise TestFailure(f"{name} exists twice")
    sets = [found for found in objects if found["kind"] == "StatefulSet"]
    for found in sets:
        pod = found["spec"]["template"]
        if f"Service/{found['spec']['serviceName']}" not in names:
            raise TestFailure(f"{title(found)} names a Service that does not exist")
        if not within(found["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]):
            raise TestFailure(f"{title(found)} does not select its own pods")
        for volume in pod["spec"]["volumes"]:
            # Like Secrets, the CAs of the members are not the chart's.
            if "configMap" in volume and volume["name"] != "member-ca" and f"ConfigMap/{volume['configMap']['name']}" not in names:
                raise TestFailure(f"{title(found)} mounts a ConfigMap that does not exist")
        mounts = [mount["name"] for mount in containers(found)["volumeMounts"]]
        held = [volume["name"] for volume in pod["spec"]["volumes"]] + ["data"]
        if set(mounts) - set(held):
            raise TestFailure(f"{title(found)} mounts {set(mounts) - set(held)}, which are no volumes")
    ports = set()
    for found in objects:
        if found["kind"] == "Service":
            service(found, sets, ports)
        if found["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            wanted = found["spec"].get("selector", found["spec"].get("podSelector"))["matchLabels"]
            if not any(within(wanted, one["spec"]["template"]["metadata"]["labels"]) for one in sets):
                raise TestFailure(f"{title(found)} selects no pods")


def service(found, sets, ports):
    wanted = dict(found["spec"]["selector"])
    pod = wanted.pop("statefulset.kubernetes.io/pod-name", None)
    chosen = [one for one in sets if within(wanted, one["spec"]["template"]["metadata"]["labels"])]
    chosen = [one for one in chosen if pod is None or pod.rsplit("-", 1)[0] == one["metadata"]["name"]]
    if not chosen:
        raise TestFailure(f"{title(found)} selects no pods")
    for port in found["spec"]["ports"]:
        for one in chosen:
            if port["targetPort"] not in [p["name"] for p in containers(one)["ports"]]:
                raise TestFailure(f"{title(found)} leads to {port['targetPort']}, which {title(one)} does not have")
        if port.get("nodePort") in ports:
            raise TestFailure(f"{title(found)} has the node port {port['nodePort']} of another Service")
        ports.add(port.get("nodePort", object()))


def within(some, all_of):
    return some.items() <= all_of.items()


def containers(found):
    return found["spec"]["template"]["spec"]["containers"][0]


def expand(text, known):
    """$(NAME), as Kubernetes expands it."""
    return re.sub(r"\$\((\w+)\)", lambda m: known.get(m[1], m[0]), text)


def environment(found, ordinal):
    """The variables of a pod, as the kubelet would set them on a machine `machine-1` of zone `here`."""
    name = f"{found['metadata']['name']}-{ordinal}"
    fields = {
        "metadata.name": name,
        "metadata.labels['apps.kubernetes.io/pod-index']": str(ordinal),
        "metadata.labels['topology.kubernetes.io/zone']": "here",
        "spec.nodeName": "machine-1",
        "status.hostIP": "10.0.0.11",
    }
    known = {}
    for one in containers(found)["env"]:
        source = one.get("valueFrom")
        known[one["name"]] = fields[source["fieldRef"]["fieldPath"]] if source else expand(one["value"], known)
    left = [f"{key}={value}" for key, value in known.items() if "$(" in value]
    if left:
        raise TestFailure(f"{title(found)}: {left[0]} names a variable that is not before it")
    return known


def node_ports(objects):
    """A pod advertises the port of its Service."""
    external = {found["metadata"]["name"]: found for found in objects if found["kind"] == "Service"}
    for found in objects:
        if found["kind"] != "StatefulSet" or found["metadata"]["labels"]["app.kubernetes.io/component"] != "node":
            continue
        for ordinal in range(found["spec"]["replicas"]):
            known = environment(found, ordinal)
            advertised = known["VOLLEY_ADVERTISE"]
            scheme = "grpc+tls" if "external=" in known.get("VOLLEY_TLS_CERT", "") else "grpc+tcp"
            has = external[f"{found['metadata']['name']}-{ordinal}"]["spec"]["ports"][0]["nodePort"]
            if f"external={scheme}://10.0.0.11:{has}" not in advertised.split(","):
                raise TestFailure(f"{title(found)}: pod {ordinal} advertises {advertised}, but its port is {has}")


def accepted(binaries, command, known, what):
    done = run(binaries / command[0], *command[1:], "--check-config", env={"PATH": os.environ["PATH"], **known})
    if done.returncode:
        raise TestFailure(f"{what}: {done.stderr.strip() or done.stdout.strip()}")


def mounted(known, found):
    """Every file that the environment names is in a volume."""
    paths = [mount["mountPath"] for mount in containers(found)["volumeMounts"]]
    for key, value in known.items():
        for path in re.findall(rf"{ETC}[^,]*", value):
            if not any(path == mount or path.startswith(f"{mount}/") for mount in paths):
                raise TestFailure(f"{title(found)}: {key} names {path}, which is not mounted")


def probes(found):
    """The probes speak TLS if, and only if, their port does."""
    known = {one["name"]: one.get("value", "") for one in containers(found)["env"]}
    with_tls = [cert.partition("=")[0] for cert in known.get("VOLLEY_TLS_CERT", "").split(",")]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = containers(found)[kind]
        if "grpc" in probe and "internal" in with_tls:
            raise TestFailure(f"{title(found)}: the {kind} uses gRPC, for which Kubernetes has no TLS")
        if "httpGet" in probe and (probe["httpGet"].get("scheme") == "HTTPS") != ("http" in with_tls):
            raise TestFailure(f"{title(found)}: the {kind} {probe['httpGet']} does not fit the ports with TLS, {with_tls}")


def pods(objects, binaries):
    """Every server of the chart accepts the settings of its pod."""
    with tempfile.TemporaryDirectory() as folder:
        made = binaries and [Authority(Path(folder) / name, binaries) for name in ("members", "clients")]
        mounts = made and Mounts(objects, *made)
        servers(objects, binaries, mounts, Path(folder))


def servers(objects, binaries, mounts, folder):
    for found in objects:
        if found["kind"] != "StatefulSet":
            continue
        probes(found)
        etc = folder / found["metadata"]["name"]
        if mounts:
            write(etc, mounts.files(found))
        first = found["spec"].get("ordinals", {}).get("start", 0)
        for ordinal in range(first, first + found["spec"]["replicas"]):
            known = environment(found, ordinal)
            mounted(known, found)
            if mounts:
                known = {key: value.replace(ETC, f"{etc}/") for key, value in known.items()}
                accepted(binaries, containers(found)["command"], known, f"{title(found)}, pod {ordinal}")


def compose_file(name):
    text = (ROOT / "deploy/compose" / name).read_text()
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def with_tls(found):
    """The compose file with docker-compose.tls.yml, as Compose merges them."""
    for name, more in compose_file("docker-compose.tls.yml")["services"].items():
        one = found["services"][name]
        one["environment"] = one.get("environment", {}) | more.get("environment", {})
        targets = {volume.split(":")[1] for volume in more["volumes"]}
        one["volumes"] = [v for v in one["volumes"] if v.split(":")[1] not in targets] + more["volumes"]
    return found


def compose_tls(binaries):
    """The same with TLS, and the certificates of deploy/compose/certificates, first and renewed."""
    found = with_tls(compose_file("docker-compose.yml"))
    for name, one in found["services"].items():
        plain = [key for key, value in one.get("environment", {}).items() if "grpc+tcp" in value]
        if "VOLLEY_PEER_CERT" in one.get("environment", {}) and f"./tls/{name}:{ETC}tls:ro" not in one["volumes"]:
            raise TestFailure(f"compose with TLS: {name} does not mount its certificates: {one['volumes']}")
        if "VOLLEY_PEER_CERT" in one.get("environment", {}) and one["environment"]["VOLLEY_INSECURE"] != "false":
            raise TestFailure(f"compose with TLS: {name} serves callers without identity")
        if plain:
            raise TestFailure(f"compose with TLS: {name} has an address without TLS in {plain[0]}")
    if not binaries:
        return compose(found, None)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"PATH": os.environ["PATH"], "TLS_FOLDER": folder, "VOLLEY": str(Path(binaries) / "volley")}
        for words in ([], ["--renew"]):
            done = run(ROOT / "deploy/compose/certificates", *words, env=settings)
            if done.returncode:
                raise TestFailure(f"deploy/compose/certificates: {done.stderr.strip()}")
            for name, one in found["services"].items():
                known = one.get("environment", {})
                one["environment"] = {key: value.replace(f"{ETC}tls/", f"{folder}/{name}/") for key, value in known.items()}
            compose(found, binaries)


def compose(found, binaries):
    """Every server of the compose file accepts its settings; no port is published twice."""
    published = []
    for name, one in found["services"].items():
        published += [port.rsplit(":", 1)[0] for port in one.get("ports", [])]
        volumes = [v.split(":")[0] for v in one.get("volumes", []) if not v.startswith(".")]
        if set(volumes) - set(found["volumes"]):
            raise TestFailure(f"compose: {name} uses {set(volumes) - set(found['volumes'])}, which are no volumes")
        if binaries and str(one.get("command", [""])[0]).startswith("volley-"):
            accepted(binaries, one["command"], one["environment"], f"compose: {name}")
    if len(published) != len(set(published)):
        raise TestFailure("compose: a port is published twice")


def chart(helm, binaries):
    done = run(helm, "lint", "--strict", CHART)
    if done.returncode:
        raise TestFailure(done.stdout.strip())
    for values in [None, CHART / "values-tls.yaml", *sorted((CHART / "ci").glob("*.yaml"))]:
        arguments = ["-f", values] if values else []
        try:
            objects = template(helm, *arguments)
            schemas(objects)
            references(objects)
            pods(objects, binaries)
            outside = [found for found in objects if title(found).endswith("-external") and found["kind"] == "Service"]
            if any(found["spec"]["type"] == "NodePort" for found in outside):
                node_ports(objects)
        except TestFailure as failure:
            raise TestFailure(f"{values.name if values else 'defaults'}: {failure}") from failure
        print(f"{values.stem if values else 'defaults'}: {len(objects)} objects")
    for word, settings in REFUSED.items():
        try:
            template(helm, *[part for setting in settings for part in ("--set", setting)])
        except TestFailure as failure:
            if word not in str(failure):
                raise TestFailure(f"{settings} is refused without naming {word!r}: {failure}") from failure
        else:
            raise TestFailure(f"{settings} should be refused")
    print(f"{len(REFUSED)} settings are refused")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", default=os.environ.get("HELM", "helm"))
    parser.add_argument("--binaries", type=Path)
    given = parser.parse_args()
    try:
        wrong = alerts.check() + release.check(given.binaries)
        if wrong:
            raise TestFailure("; ".join(wrong))
        compose(compose_file("docker-compose.yml"), given.binaries)
        compose_tls(given.binaries)
        chart(given.helm, given.binaries)
        done = run(ROOT / "deploy/kubernetes/render", "--check", env={**os.environ, "HELM": given.helm})
        if done.returncode:
            raise TestFailure(done.stdout + done.stderr)
        for file in ("namespace.yaml", "volley.yaml"):
            schemas(list(yaml.safe_load_all((ROOT / "deploy/kubernetes" / file).read_text())))
    except TestFailure as failure:
        sys.exit(f"deploy: {failure}")
    print("deploy: ok")


if __name__ == "__main__":
    main()
