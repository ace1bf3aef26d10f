"""Checks the files of deploy/ without a cluster and without an engine.

    python tests/deploy/check.py [--helm HELM] [--binaries FOLDER]

The chart: `helm lint`; rendered with its defaults and with every value set of its folder `ci`; settings that it must refuse; each object
against its schema; each reference to another object. The rendered files of deploy/kubernetes are
those of the chart. The compose file: every variable of a server. With --binaries, every server's command line and
environment, as pods and containers get them, are accepted by `--check-config`.
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

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/volley"
# Versions of the schemas: the oldest that the chart allows, and a new one.
VERSIONS = ["1.30", "1.34"]
# Objects that no schema of Kubernetes knows.
FOREIGN = {"ServiceMonitor"}

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
            if "configMap" in volume and f"ConfigMap/{volume['configMap']['name']}" not in names:
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
            advertised = environment(found, ordinal)["VOLLEY_ADVERTISE"]
            has = external[f"{found['metadata']['name']}-{ordinal}"]["spec"]["ports"][0]["nodePort"]
            if f"external=grpc+tcp://10.0.0.11:{has}" not in advertised.split(","):
                raise TestFailure(f"{title(found)}: pod {ordinal} advertises {advertised}, but its port is {has}")


def accepted(binaries, command, known, what):
    done = run(binaries / command[0], *command[1:], "--check-config", env={"PATH": os.environ["PATH"], **known})
    if done.returncode:
        raise TestFailure(f"{what}: {done.stderr.strip() or done.stdout.strip()}")


def pods(objects, binaries):
    """Every server of the chart accepts the settings of its pod."""
    data = next(found["data"] for found in objects if found["kind"] == "ConfigMap")
    for found in objects:
        if found["kind"] != "StatefulSet":
            continue
        first = found["spec"].get("ordinals", {}).get("start", 0)
        for ordinal in range(first, first + found["spec"]["replicas"]):
            known = environment(found, ordinal)
            mount = next(m for m in containers(found)["volumeMounts"] if m["name"] == "config")
            if known["VOLLEY_CONFIG"] != mount["mountPath"]:
                raise TestFailure(f"{title(found)} reads {known['VOLLEY_CONFIG']}, which is not mounted")
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(data[mount["subPath"]])
                file.flush()
                if binaries:
                    known["VOLLEY_CONFIG"] = file.name
                    accepted(binaries, containers(found)["command"], known, f"{title(found)}, pod {ordinal}")


def compose(binaries):
    """Every server of the compose file accepts its settings; no port is published twice."""
    text = (ROOT / "deploy/compose/docker-compose.yml").read_text()
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    found = yaml.safe_load(text)
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
    for values in [None, *sorted((CHART / "ci").glob("*.yaml"))]:
        arguments = ["-f", values] if values else []
        try:
            objects = template(helm, *arguments)
            schemas(objects)
            references(objects)
            pods(objects, binaries)
            if values and values.stem == "node-ports":
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
        compose(given.binaries)
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
