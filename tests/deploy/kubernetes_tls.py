"""Changes the chart to TLS on a real cluster, the one that KUBECONFIG names, and then its certificates, while clients work.

    python tests/deploy/kubernetes_tls.py [--binaries FOLDER] [--load COMMAND] [--direct] ...

With --direct the chart is installed with TLS at once. Otherwise it is installed without, and changes by a rolling upgrade for
each of the steps of docs/kubernetes.md. The certificates are made by `volley certs`. Needs what tests/deploy/kubernetes.py
needs, uses the same namespace, and removes what it made in any case.
"""

import csv
import json
import os
import re
import shlex
import shutil
import ssl
import sys
import tempfile
import urllib.request
from pathlib import Path

import images
import yaml
from certificates import Authority, first_certificate, manifest, members_secret, served_certificate, server_secret
from kubernetes import CHART, COMPONENT, COORDINATORS_PORT, ENTRY, IMAGES, PROXY_PORT, PROXY_SERVICE, RELEASE, SPACE
from kubernetes import KubernetesTest, Release, internal, name
from mounts import uris
from steps import TestFailure, run, run_test, test_options, wait_until
from watch import Watch, check_trip
from workload import Client, Workload, put_base, round_trip

# The value set of the documentation: TLS on every port.
TLS = yaml.safe_load((CHART / "values-tls.yaml").read_text())["tls"]
ROLES = ("coordinator", "node")
# The ports of clients in the pods: Flight and HTTP.
PORTS = {"coordinator": (8815, 8835), "node": (8816, 8836)}
MEMBER_CA = "/etc/volley/members/ca.crt"
# Until the kubelet has updated the files of a Secret: it looks once a minute, and keeps what it saw for a while.
UPDATED = 240
EXPIRY = re.compile(r'^volley_tls_certificate_expiry_timestamp_seconds\{[^}]*file_kind="peer_cert"[^}]*\} (\S+)$', re.MULTILINE)
FAILURES = re.compile(r"^volley_tls_reload_failures_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class TlsRelease(Release):
    """The chart with one StatefulSet of nodes, and the values of TLS. It stays open, unlike with values-tls.yaml, because the test
    is about TLS and its clients begin without."""

    def __init__(self):
        super().__init__([])
        self.tls = {"enabled": False}

    def values(self):
        return super().values() | {"tls": self.tls, "insecure": True, "auth": {"enabled": False}}


class KubernetesTlsTest(KubernetesTest):
    def __init__(self, given):
        super().__init__(given)
        self.release = TlsRelease()
        self.folder = Path(tempfile.mkdtemp())
        self.applied = 0

    def run(self):
        self.prepare()
        if self.given.direct:
            with self.step("`helm install --wait` with TLS") as facts:
                self.use_tls(TLS)
                self.release.helm("install")
                self.watch.alive(self.release.nodes())
                put_base(self.client)
                facts.append(f"{len(self.kube.pods())} pods")
        else:
            self.change_to_tls()
        self.reach()
        self.refuse()
        with Workload(self.outside, ca=self.ca) as work:
            self.steps.work = work
            work.progress()
            self.renew_server_certificate()
            self.replace_member_authority()
            self.steps.work = None
        work.check()
        self.install_again(work)

    def prepare(self):
        with self.step("the images are built and loaded onto the machines") as facts:
            images.client()
            images.volley(IMAGES[0], self.given.binaries)
            run(*shlex.split(self.given.load), IMAGES[0], images.CLIENT)
            facts.append(f"{images.size_mb(IMAGES[0])} MB")
        with self.step("the certificates are made by `volley certs`, and are in Secrets") as facts:
            run("kubectl", "create", "namespace", SPACE)
            self.clients = Authority(self.folder / "clients", self.given.binaries)
            self.members = Authority(self.folder / "members", self.given.binaries)
            self.ca = self.clients.ca.read_text()
            self.apply(TLS["clients"]["secretName"], server_secret(self.clients, self.names()))
            self.held = {role: members_secret(self.members, self.uris(role)) for role in ROLES}
            for role, files in self.held.items():
                self.apply(self.secret_of(role), files)
                facts.append(f"{self.secret_of(role)}: {', '.join(files)}")

    def names(self):
        """Every name by which clients reach the servers."""
        pods = [f"*.{RELEASE}-{role}.{SPACE}.svc.cluster.local" for role in ROLES]
        return [ENTRY, *pods, *(internal(one) for one in self.machines)]

    def uris(self, role):
        """The members of a role, before their pods exist."""
        ordinals = {"start": 1} if role == "coordinator" else {}
        replicas = 3 if role == "coordinator" else self.release.nodes()
        metadata = {"name": f"{RELEASE}-{role}", "labels": {COMPONENT: role}}
        return uris({"metadata": metadata, "spec": {"ordinals": ordinals, "replicas": replicas}})

    @staticmethod
    def secret_of(role):
        return TLS["members"][f"{role}s"]["secretName"]

    def apply(self, secret, files):
        """Makes or replaces a Secret."""
        # Without --server-side kubectl would write the contents into an annotation, too.
        self.kube("apply", "--server-side", "-f", "-", input=json.dumps(manifest(secret, files)))
        self.applied += 1
        # A pod that changes is looked at soon, with its Secrets.
        if pods := [f"pod/{name(pod)}" for pod in self.kube.pods()]:
            self.kube("annotate", *pods, f"volley-verify/secrets={self.applied}", "--overwrite")

    def use_tls(self, tls):
        """From the next `helm` on; with TLS for clients, they use it from now on."""
        self.release.tls = tls
        if "clients" in tls:
            self.scheme = "grpc+tls"
            self.outside = self.entries()
            self.client = Client(self.outside, self.ca)
            self.watch = Watch(self.client)

    def change_to_tls(self):
        with self.step("`helm install --wait` without TLS") as facts:
            self.release.helm("install")
            self.watch.alive(self.release.nodes())
            put_base(self.client)
            self.wait_for_recovery()
            facts.append(f"{len(self.machines)} machines, {len(self.kube.pods())} pods")
        with Workload(self.outside, "plaintext") as work:
            self.steps.work = work
            work.progress()
            for mode in ("accept", "prefer", "require"):
                with self.step(f"rolling `helm upgrade`: tls.members.mode={mode}"):
                    self.use_tls({"enabled": True, "members": TLS["members"] | {"mode": mode}})
                    self.upgrade_release()
            self.steps.work = None
        work.check()
        with self.step("rolling `helm upgrade`: TLS for clients, who change to it") as facts:
            self.use_tls(TLS)
            self.upgrade_release()
            work.addresses, work.ca = self.outside, self.ca
            facts.append(f"{work.everything()} acknowledged appends are there")

    def upgrade_release(self):
        self.release.helm("upgrade")
        self.wait_for_recovery()

    def reach(self):
        trip = lambda address, table: round_trip(address, table, self.ca)
        with self.step("put and get by TLS from the host by node ports, from all nodes in parallel") as facts:
            facts.append(check_trip(trip(self.outside[0], "verify/host"), self.published()))
        with self.step("put and get by TLS from a pod, from all nodes in parallel") as facts:
            asked = f"grpc+tls://{ENTRY}:8815"
            found = json.loads(self.kube.inside("client", images.CLIENT, asked, "verify/inside", self.ca))
            facts.append(check_trip(found, [f"grpc+tls://{self.domain(pod)}:8816" for pod in self.kube.pods("node")]))
        with self.step("put and get by TLS through one forwarded port") as facts:
            with self.kube.forwarded(PROXY_SERVICE, PROXY_PORT, PROXY_PORT):
                proxy = f"grpc+tls://127.0.0.1:{PROXY_PORT}"
                facts.append(check_trip(trip(proxy, "verify/proxy"), [proxy]))
        with self.step("`volley put` and `volley get` by TLS on the host"):
            self.command_line()
        with self.step("`volley doctor` by TLS on the host and in a pod; `helm test`"):
            self.volley("doctor")
            self.kube.volley("doctor")
            run("helm", "test", RELEASE, "--namespace", SPACE, "--timeout", "3m")

    def volley(self, *words, **more):
        """`volley` on this machine, by TLS."""
        at = ["--cluster", self.outside[0], "--tls-ca", self.clients.ca]
        return run(Path(self.given.binaries) / "volley", *at, *words, **more)

    def command_line(self):
        rows = [["i", "s"], *([str(i), f"row {i}"] for i in range(1000))]
        sent, got = self.folder / "sent.csv", self.folder / "got.csv"
        with sent.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        self.volley("put", sent, "--table", "verify/cli")
        self.volley("get", "verify/cli", "--output", got)
        with got.open(newline="") as file:
            if list(csv.reader(file)) != rows:
                raise TestFailure(f"{got} does not have the rows of {sent}")

    def refuse(self):
        machine = internal(self.machines[0])
        binary = Path(self.given.binaries) / "volley"
        with self.step("clients without TLS, and those without the CA, are refused") as facts:
            for scheme in ("grpc", "grpc+tls"):
                refused = run(binary, "--cluster", f"{scheme}://{machine}:{COORDINATORS_PORT}", "ls", refused=True)
                facts.append(refused.stderr.strip()[-300:])

    def each_pod(self):
        """Every pod's name with its role."""
        return [(name(pod), role) for role in ROLES for pod in self.kube.pods(role)]

    def served(self, pod, port):
        """The certificate that a port of a pod presents, verified, in DER."""
        with self.kube.forwarded(f"pod/{pod}", port, 0) as local:
            return served_certificate("127.0.0.1", local, ENTRY, self.ca)

    def metrics(self, pod, role):
        """The metrics of a pod, by its HTTP port, as text."""
        context = ssl.create_default_context(cadata=self.ca)
        with self.kube.forwarded(f"pod/{pod}", PORTS[role][1], 0) as local:
            with urllib.request.urlopen(f"https://127.0.0.1:{local}/metrics", context=context, timeout=10) as answer:
                return answer.read().decode()

    def check_reloads(self):
        """No member found a file that it could not use."""
        for pod, role in self.each_pod():
            failures = sum(map(float, FAILURES.findall(self.metrics(pod, role))))
            if failures:
                raise TestFailure(f"{pod} could not use {failures:.0f} changed files")

    def renew_server_certificate(self):
        with self.step("a new certificate of the servers: the Secret is replaced, no pod restarts") as facts:
            before = self.starts()
            files = server_secret(self.clients, self.names(), days=200)
            wanted = first_certificate(files["tls.crt"])
            self.apply(TLS["clients"]["secretName"], files)
            for pod, role in self.each_pod():
                for port in PORTS[role]:
                    what = f"{pod} presents the new certificate on port {port}"
                    wait_until(lambda: self.served(pod, port) == wanted, UPDATED, what)
            self.check_reloads()
            self.check_starts(before)
            facts.append(f"{len(before)} pods, Flight and HTTP ports")

    def replace_member_authority(self):
        following = Authority(self.folder / "following", self.given.binaries)
        old, new = self.members.ca.read_bytes(), following.ca.read_bytes()
        issued = {role: members_secret(following, self.uris(role), days=300) for role in ROLES}
        before = self.starts()
        with self.step("a new CA of the members, step 1: members trust both"):
            self.replace(self.held, old + new)
            self.trusted(2)
        with self.step("step 2: members get certificates of the new CA"):
            self.replace(issued, old + new)
            for pod, role in self.each_pod():
                wanted = self.expected(following, role)
                wait_until(lambda: self.expiry(pod, role) in wanted, UPDATED, f"{pod} uses its new certificate")
        with self.step("step 3: members trust only the new CA") as facts:
            self.replace(issued, new)
            self.trusted(1)
            self.check_reloads()
            self.check_starts(before)
            self.wait_for_recovery()
            facts.append("no pod was restarted")
        with self.step("all pods are restarted, one by one"):
            self.kube("rollout", "restart", *(f"statefulset/{name(one)}" for one in self.kube.sets()))
            self.wait_for_recovery()

    def replace(self, secrets, ca):
        for role, files in secrets.items():
            self.apply(self.secret_of(role), files | {"ca.crt": ca})

    def trusted(self, count):
        """Waits until every pod has so many CAs of members."""
        for pod, _ in self.each_pod():
            words = ["exec", pod, "--", "volley", "--json", "certs", "show", MEMBER_CA]
            found = lambda: len(json.loads(self.kube(*words).stdout))
            wait_until(lambda: found() == count, UPDATED, lambda: f"{pod} has {count} CAs in {MEMBER_CA}: it has {found()}")

    def expiry(self, pod, role):
        """When the certificate expires that a member uses, seconds since 1970; None if there is no answer."""
        try:
            found = EXPIRY.search(self.metrics(pod, role))
        except OSError:
            return None
        return found and int(float(found[1]))

    @staticmethod
    def expected(authority, role):
        files = sorted(authority.folder.glob(f"{role}-*.crt"))
        return {authority.certs("show", file)[0]["not_after_ms"] // 1000 for file in files}

    def starts(self):
        """When each container was started."""
        return {name(pod): pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] for pod in self.kube.pods()}

    def check_starts(self, before):
        if restarted := [pod for pod, at in self.starts().items() if before.get(pod) != at]:
            raise TestFailure(f"{', '.join(restarted)} restarted")

    def end(self, failed):
        try:
            super().end(failed)
        finally:
            if not self.given.keep:
                shutil.rmtree(self.folder)


def main():
    parser = test_options(__doc__)
    parser.add_argument("--load", default="kind load docker-image", help="loads images into the cluster [kind load docker-image]")
    parser.add_argument("--direct", action="store_true", help="installs with TLS at once, without the change from plaintext")
    given = parser.parse_args()
    if "KUBECONFIG" not in os.environ:
        sys.exit("kubernetes: KUBECONFIG must name the cluster; the test touches no other")
    run_test("kubernetes-tls", KubernetesTlsTest, given)


if __name__ == "__main__":
    main()
