"""Runs the chart on a real cluster, the one that KUBECONFIG names, under faults while clients work.

    python tests/deploy/kubernetes.py [--binaries FOLDER] [--load COMMAND] [--isolate COMMAND --rejoin COMMAND] ...

Needs kubectl, helm 3, a Docker engine that makes the images, the binaries of a build, and the packages of
tests/python/requirements.txt. `kind create cluster` with several workers is enough; machines in two zones
(label topology.kubernetes.io/zone) test more. The machines' addresses must be reachable from here. The test uses a namespace of its
own, and removes what it made in any case.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import images
from steps import ROOT, Steps, TestFailure, run, run_test, test_options, wait_until
from watch import Watch, address, check_trip
from workload import Client, Workload, put_base, round_trip

CHART = ROOT / "deploy/helm/volley"
SPACE = RELEASE = "volley-verify"
IMAGES = ["volley:verify-1", "volley:verify-2"]
# The Service of the coordinators.
ENTRY = f"{RELEASE}.{SPACE}.svc.cluster.local"
ZONE = "topology.kubernetes.io/zone"
COMPONENT = "app.kubernetes.io/component"
# As in the chart's values: the coordinators' port on every machine, and where the nodes' ports begin.
COORDINATORS_PORT, NODES_PORT = 30815, 30900
PROXY_SERVICE, PROXY_PORT = f"service/{RELEASE}-proxy", 8817
PROXY = f"grpc+tcp://127.0.0.1:{PROXY_PORT}"


class Kubernetes:
    """The cluster, by kubectl."""

    def __call__(self, *words, **more):
        return run("kubectl", "--namespace", SPACE, *words, **more)

    def json(self, *words):
        return json.loads(self(*words, "-o", "json").stdout)

    def get(self, *words):
        return self.json("get", *words)["items"]

    def machines(self):
        """The machines that accept pods."""
        return [one for one in self.get("nodes") if not one["spec"].get("taints")]

    def not_ready(self):
        """Names of the machines that are not ready."""
        well = lambda one: any(c["type"] == "Ready" and c["status"] == "True" for c in one["status"]["conditions"])
        return [name(one) for one in self.get("nodes") if not well(one)]

    def pods(self, component=None):
        wanted = f"{COMPONENT}={component}" if component else f"{COMPONENT} in (coordinator,node)"
        return self.get("pods", "-l", wanted)

    def sets(self):
        return self.get("statefulsets")

    def lacking(self):
        """StatefulSets whose pods are not all up to date and ready."""

        def whole(one):
            status, wanted = one["status"], one["spec"]["replicas"]
            seen = status.get("observedGeneration") == one["metadata"]["generation"]
            return seen and status.get("readyReplicas") == status.get("updatedReplicas") == status["replicas"] == wanted

        going = [name(pod) for pod in self.pods() if "deletionTimestamp" in pod["metadata"]]
        return [name(one) for one in self.sets() if not whole(one)] + going

    def ready(self, seconds=300):
        wait_until(lambda: not self.lacking(), seconds, lambda: f"all pods are ready: {self.lacking()} are not")

    def volley(self, *words, **more):
        return self("exec", f"{RELEASE}-coordinator-1", "--", "volley", *words, **more)

    def inside(self, pod, image, *words):
        """Runs a pod to its end; returns its output."""
        self("run", pod, f"--image={image}", "--image-pull-policy=IfNotPresent", "--restart=Never", "--", *words)
        phase = lambda: self.json("get", "pod", pod)["status"]["phase"]
        ended = wait_until(lambda: phase() in ("Succeeded", "Failed") and phase(), 180, f"the pod {pod} ends")
        said = self("logs", pod).stdout
        if ended == "Failed":
            raise TestFailure(f"the pod {pod} failed: {said[-2000:]}")
        self("delete", "pod", pod)
        return said

    @contextmanager
    def forwarded(self, target, port, local):
        """Forwards one port of this machine, a free one for 0, to a Service or a pod; yields its number."""
        command = ["kubectl", "--namespace", SPACE, "port-forward", target, f"{local}:{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forwarding:
            try:
                line = forwarding.stdout.readline()
                found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) ", line)
                if not found:
                    raise TestFailure(f"`{' '.join(command)}`: {line.strip()}")
                # Its further output must not fill the pipe.
                threading.Thread(target=forwarding.stdout.read, daemon=True).start()
                yield int(found[1])
            finally:
                forwarding.terminate()


def name(one):
    return one["metadata"]["name"]


def ordinal(pod):
    return int(name(pod).rsplit("-", 1)[1])


class Release:
    """The chart, with the values of this test."""

    def __init__(self, zones):
        self.zones = zones
        self.replicas = {zone: 2 for zone in zones} or {None: 4}
        self.image = IMAGES[0]
        self.hold = []

    def values(self):
        nodes = {"persistence": {"size": "4Gi"}}
        if self.zones:
            nodes["zones"] = [{"name": zone, "replicas": self.replicas[zone]} for zone in self.zones]
            nodes["hold"] = self.hold
        else:
            nodes["replicas"] = self.replicas[None]
        repository, tag = self.image.split(":")
        return {
            "fullnameOverride": RELEASE,
            "image": {"repository": repository, "tag": tag},
            "external": {"type": "nodePort", "nodePort": {"coordinators": COORDINATORS_PORT, "nodes": NODES_PORT}},
            "coordinators": {"persistence": {"size": "2Gi"}},
            "nodes": nodes,
        }

    def nodes(self):
        return sum(self.replicas.values())

    def set_of(self, zone):
        return f"{RELEASE}-node-{zone}" if zone else f"{RELEASE}-node"

    def helm(self, verb, **more):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(self.values(), file)
            file.flush()
            words = ["--namespace", SPACE, "-f", file.name, "--wait", "--timeout", "10m"]
            return run("helm", verb, RELEASE, CHART, *words, seconds=660, **more)

    def uninstall(self, **more):
        return run("helm", "uninstall", RELEASE, "--namespace", SPACE, "--wait", "--timeout", "5m", **more)


class KubernetesTest:
    def __init__(self, given):
        self.given = given
        self.steps = Steps()
        self.step = self.steps.step
        self.kube = Kubernetes()
        self.machines = self.kube.machines()
        zones = sorted({one["metadata"]["labels"].get(ZONE, "") for one in self.machines})
        self.release = Release(zones if len(zones) > 1 and all(zones) else [])
        self.scheme = "grpc+tcp"
        self.outside = self.entries()
        self.client = Client(self.outside)
        self.watch = Watch(self.client)
        self.restore = []

    def run(self):
        self.install()
        self.reach()
        with Workload(self.outside) as work:
            self.steps.work = work
            work.progress()
            # First, while each coordinator is on a machine of its own: a drain may leave two on one.
            self.isolate_machine()
            self.delete_pods()
            self.drain_machine()
            self.grow_and_shrink()
            self.upgrade()
            self.steps.work = None
        work.check()
        self.install_again(work)

    def install(self):
        with self.step("the images are built and loaded onto the machines") as facts:
            images.client()
            for image in IMAGES:
                images.volley(image, self.given.binaries)
            if images.identity(IMAGES[0]) == images.identity(IMAGES[1]):
                raise TestFailure("the rebuilt image is the old one")
            run(*shlex.split(self.given.load), *IMAGES, images.CLIENT)
            facts.append(f"{images.size_mb(IMAGES[0])} MB")
        with self.step("`helm install --wait`") as facts:
            run("kubectl", "create", "namespace", SPACE)
            self.release.helm("install")
            self.watch.alive(self.release.nodes())
            facts.append(f"{len(self.machines)} machines, {len(self.release.zones) or 1} zones, {len(self.kube.pods())} pods")

    def reach(self):
        with self.step("put and get from the host by node ports, from all nodes in parallel") as facts:
            put_base(self.client)
            facts.append(check_trip(round_trip(self.outside[0], "verify/host"), self.published()))
        with self.step("put and get from a pod, from all nodes in parallel") as facts:
            asked = f"grpc+tcp://{ENTRY}:8815"
            found = json.loads(self.kube.inside("client", images.CLIENT, asked, "verify/inside"))
            facts.append(check_trip(found, [f"grpc+tcp://{self.domain(pod)}:8816" for pod in self.kube.pods("node")]))
        with self.step("put and get through one forwarded port") as facts, self.kube.forwarded(PROXY_SERVICE, PROXY_PORT, PROXY_PORT):
            facts.append(check_trip(round_trip(PROXY, "verify/proxy"), [PROXY]))
        with self.step("copies of each shard are in different zones, coordinators on different machines") as facts:
            facts.append("zones " + ", ".join(self.watch.in_zones()))
            places = [pod["spec"]["nodeName"] for pod in self.kube.pods("coordinator")]
            if len(set(places)) < min(len(places), len(self.machines)):
                raise TestFailure(f"the coordinators are on the machines {places}")
        with self.step("`volley doctor` on the host and in a pod; `helm test`"):
            run(Path(self.given.binaries) / "volley", "--cluster", self.outside[0], "doctor")
            self.kube.volley("doctor")
            run("helm", "test", RELEASE, "--namespace", SPACE, "--timeout", "3m")

    def entries(self):
        """Where clients outside reach the coordinators."""
        return [f"{self.scheme}://{internal(one)}:{COORDINATORS_PORT}" for one in self.machines]

    def published(self):
        """Where clients outside reach each node: its port, on the machine where its pod is."""
        places = {self.release.set_of(zone): place for place, zone in enumerate(self.release.replicas)}
        port = lambda pod: NODES_PORT + 10 * places[name(pod).rsplit("-", 1)[0]] + ordinal(pod)
        return [f"{self.scheme}://{pod['status']['hostIP']}:{port(pod)}" for pod in self.kube.pods("node")]

    @staticmethod
    def domain(pod):
        return f"{name(pod)}.{RELEASE}-node.{SPACE}.svc.cluster.local"

    def wait_for_recovery(self):
        """Waits until all pods are ready, all copies exist and clients get the right locations."""
        self.kube.ready()
        self.watch.settled_at(self.release.nodes(), self.published())

    def delete_pods(self):
        with self.step("delete the leader's pod") as facts:
            leader = f"{RELEASE}-coordinator-{self.watch.leader()}"
            facts.append(leader)
            self.kube("delete", "pod", leader)
            self.wait_for_recovery()
        with self.step("delete a node's pod without grace") as facts:
            pod = self.kube.pods("node")[0]
            facts.append(name(pod))
            self.kube("delete", "pod", name(pod), "--grace-period=0", "--force")
            self.steps.work.progress()
            self.wait_for_recovery()
        with self.step("delete all coordinators' pods at once") as facts:
            before = {pod["status"]["podIP"] for pod in self.kube.pods("coordinator")}
            self.kube("delete", "pod", "-l", f"{COMPONENT}=coordinator")
            self.wait_for_recovery()
            after = {pod["status"]["podIP"] for pod in self.kube.pods("coordinator")}
            facts.append(f"{len(after - before)} of {len(after)} came back with new addresses")

    def drain_machine(self):
        machine = self.spare_machine()
        if not machine:
            return print("        no machine is drained: no zone has two")
        with self.step("`kubectl drain` a machine, until its pods are ready elsewhere") as facts:
            self.restore.append(("kubectl", "uncordon", machine))
            there = [name(pod) for pod in self.kube.pods() if pod["spec"]["nodeName"] == machine]
            facts.append(f"{machine} with {', '.join(there)}")
            run("kubectl", "drain", machine, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=8m")
            self.wait_for_recovery()
        run(*self.restore.pop())

    def spare_machine(self):
        """A machine with nodes that can go to another of its zone."""
        zone = lambda one: one["metadata"]["labels"].get(ZONE) if self.release.zones else None
        busy = {pod["spec"]["nodeName"] for pod in self.kube.pods("node")}
        for one in self.machines:
            others = [other for other in self.machines if other is not one and zone(other) == zone(one)]
            if others and name(one) in busy:
                return name(one)
        return None

    def isolate_machine(self):
        if not (self.given.isolate and self.given.rejoin):
            return print("        no machine is isolated: give --isolate and --rejoin")
        with self.step("isolate a machine, until all copies are on other machines") as facts:
            self.restore.append(shlex.split(self.given.rejoin))
            run(*shlex.split(self.given.isolate))
            self.steps.work.progress()
            [away] = wait_until(self.kube.not_ready, 120, "Kubernetes reports a machine as not ready")
            lost = [address(node) for node in self.watch.status()["nodes"] if node["state"] != "alive"]
            facts.append(f"{away} with {len(lost)} nodes")
            self.watch.green()
        with self.step("reconnect the machine"):
            run(*self.restore.pop())
            wait_until(lambda: not self.kube.not_ready(), 120, "all machines are back")
            self.wait_for_recovery()

    def grow_and_shrink(self):
        zone = next(iter(self.release.replicas))
        wanted, more = self.release.replicas[zone], self.release.set_of(zone)
        with self.step("`kubectl scale`: one more node, until it has its share") as facts:
            self.kube("scale", f"statefulset/{more}", f"--replicas={wanted + 1}")
            self.release.replicas[zone] = wanted + 1
            self.wait_for_recovery()
            facts.append(f"clients get {self.release.nodes()} locations")
        with self.step("fewer nodes by `helm upgrade`, and `volley remove` without a drain, are refused") as facts:
            self.release.replicas[zone] = wanted
            facts.append(self.release.helm("upgrade", refused=True).stderr.strip()[-300:])
            leaving = f"{more}-{wanted}.{RELEASE}-node.{SPACE}.svc.cluster.local:8816"
            facts.append(self.kube.volley("remove", leaving, refused=True).stderr.strip()[-300:])
        with self.step("drain that node, remove it, scale down"):
            self.kube.volley("drain", leaving, seconds=600)
            self.kube.volley("remove", leaving)
            self.kube("scale", f"statefulset/{more}", f"--replicas={wanted}")
            gone = lambda: f"{more}-{wanted}" not in map(name, self.kube.pods("node"))
            wait_until(gone, 120, "its pod is gone")
            self.kube("delete", "pvc", f"data-{more}-{wanted}")
            self.wait_for_recovery()

    def upgrade(self):
        self.release.image = IMAGES[1]
        zones = self.release.zones
        for at, zone in enumerate(zones or [None]):
            what = f"zone {zone}" if zone else "the nodes"
            with self.step(f"rolling `helm upgrade`: {'' if at else 'the coordinators and '}{what}"):
                self.release.hold = zones[at + 1 :]
                self.release.helm("upgrade")
        with self.step("every pod runs the rebuilt image") as facts:
            self.wait_for_recovery()
            runs = {pod["spec"]["containers"][0]["image"] for pod in self.kube.pods()}
            if runs != {IMAGES[1]}:
                raise TestFailure(f"pods run {runs}")
            facts.append(f"{len(self.kube.pods())} pods")

    def install_again(self, work):
        with self.step("`helm uninstall`, until all pods are gone"):
            self.release.uninstall()
            wait_until(lambda: not self.kube.pods(), 120, "all pods are gone")
        with self.step("`helm install` over the same volumes") as facts:
            self.release.helm("install")
            self.wait_for_recovery()
            facts.append(f"{work.everything()} acknowledged appends are there")

    def end(self, failed):
        for command in reversed(self.restore):
            run(*command)
        if failed:
            self.save_logs()
        if self.given.keep:
            return
        # It may not have been installed.
        subprocess.run(["helm", "uninstall", RELEASE, "--namespace", SPACE, "--ignore-not-found"], stdout=subprocess.DEVNULL)
        run("kubectl", "delete", "namespace", SPACE, "--ignore-not-found", "--timeout=5m")
        run("docker", "image", "rm", "-f", *IMAGES, images.CLIENT)

    def save_logs(self):
        log = ROOT / "target/kubernetes.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as file:
            looks = [["get", "pods,pvc", "-o", "wide"], ["get", "events", "--sort-by=.lastTimestamp"]]
            looks += [["logs", "--prefix", "--tail=-1", f"pod/{name(pod)}"] for pod in self.kube.get("pods")]
            for words in looks:
                subprocess.run(["kubectl", "-n", SPACE, *words], stdout=file, stderr=file)
        print(f"logs of the pods: {log}")


def internal(machine):
    """A machine's address."""
    return next(a["address"] for a in machine["status"]["addresses"] if a["type"] == "InternalIP")


def main():
    parser = test_options(__doc__)
    parser.add_argument("--load", default="kind load docker-image", help="loads images into the cluster [kind load docker-image]")
    parser.add_argument("--isolate", help="a command that takes a machine off the network; left out if not given")
    parser.add_argument("--rejoin", help="a command that brings it back")
    given = parser.parse_args()
    if "KUBECONFIG" not in os.environ:
        sys.exit("kubernetes: KUBECONFIG must name the cluster; the test touches no other")
    run_test("kubernetes", KubernetesTest, given)


if __name__ == "__main__":
    main()
