"""Runs deploy/compose with TLS on a real Docker engine: puts and gets, new certificates while clients work, stop and start.

    python tests/deploy/compose_tls.py [--binaries FOLDER] [--compose COMMAND] [--table FILE] [--keep]

Needs what tests/deploy/compose.py needs, uses the same project and ports, and removes what it started in any case.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import images
from certificates import first_certificate, served_certificate
from compose import COORDINATORS, IMAGE, NODE_PORT, PROJECT, Compose, node
from steps import LOGIN, ROOT, Steps, TestFailure, run, run_test, test_options, wait_until
from watch import Watch, check_trip
from workload import Client, Workload, put_base, round_trip

FILES = ("docker-compose.yml", "docker-compose.tls.yml")
OUTSIDE = [f"grpc+tls://127.0.0.1:{port}" for port in (8815, 8818, 8819)]
NODES = [f"grpc+tls://127.0.0.1:{NODE_PORT + i}" for i in range(1, 5)]
PROXY = "grpc+tls://127.0.0.1:8817"
SERVICES = (*COORDINATORS, *map(node, range(1, 5)))


class ComposeTlsTest:
    def __init__(self, given):
        self.given = given
        self.steps = Steps()
        self.step = self.steps.step
        self.folder = Path(tempfile.mkdtemp())
        self.compose = Compose(given.compose and given.compose.split(), FILES, TLS_FOLDER=str(self.folder))

    def run(self):
        self.start()
        self.reach()
        self.refuse()
        with Workload(OUTSIDE, ca=self.ca) as work:
            self.steps.work = work
            work.progress()
            self.renew()
            with self.step("restart a node and a coordinator"):
                for service in (node(1), COORDINATORS[0]):
                    self.compose.engine("restart", service)
                    self.compose.healthy(service)
                self.watch.settled(4)
            self.steps.work = None
        work.check()
        with self.step("`down`, `up`: all containers are new, the volumes are the old ones") as facts:
            self.compose("down", "--timeout", "60")
            self.compose.up(*SERVICES)
            self.watch.settled(4)
            facts.append(f"{work.everything()} acknowledged appends are there")

    def certificates(self, *words):
        volley = str(Path(self.given.binaries).resolve() / "volley")
        run(ROOT / "deploy/compose/certificates", *words, env=self.compose.environment | {"VOLLEY": volley})

    def start(self):
        with self.step("the images are built from the binaries"):
            images.volley(IMAGE, self.given.binaries)
            images.client()
        with self.step("deploy/compose/certificates") as facts:
            self.certificates()
            facts.append(", ".join(sorted(path.name for path in self.folder.iterdir())))
            self.ca = (self.folder / "ca.crt").read_text()
            os.environ |= dict(zip(LOGIN, (self.folder / "admin").read_text().rstrip("\n").split(":", 1)))
            self.client = Client(OUTSIDE, self.ca)
            self.watch = Watch(self.client)
        with self.step("`docker-compose up -d` with TLS until all 7 are healthy"):
            self.compose.up(*SERVICES)
        with self.step("the first administrator can log in"):
            # The leader creates it some time after it has been elected.
            words = ("--cluster", OUTSIDE[0], "--tls-ca", self.folder / "ca.crt", "whoami")
            can_log_in = lambda: subprocess.run([self.volley(), *words], capture_output=True).returncode == 0
            wait_until(can_log_in, 60, "the administrator of deploy/compose/certificates can log in")

    def reach(self):
        with self.step("put and get by TLS from the host, from all nodes in parallel") as facts:
            put_base(self.client)
            facts.append(check_trip(round_trip(OUTSIDE[0], "verify/host", self.ca), NODES))
        with self.step("put and get by TLS from a container of the network") as facts:
            found = self.compose.inside(images.CLIENT, "grpc+tls://coordinator-1:8815", "verify/inside", self.ca)
            facts.append(check_trip(json.loads(found), [f"grpc+tls://node-{i}:8816" for i in range(1, 5)]))
        with self.step("put and get by TLS through one port") as facts:
            facts.append(check_trip(round_trip(PROXY, "verify/proxy", self.ca), [PROXY]))
        with self.step("`volley doctor` by TLS on the host and in a container"):
            run(self.volley(), "--cluster", OUTSIDE[0], "--tls-ca", self.folder / "ca.crt", "doctor")
            self.compose.volley("doctor")

    def volley(self):
        return Path(self.given.binaries) / "volley"

    def refuse(self):
        with self.step("clients without identity are refused") as facts:
            nobody = {name: value for name, value in os.environ.items() if name not in LOGIN}
            words = ("--cluster", OUTSIDE[0], "--tls-ca", self.folder / "ca.crt", "ls")
            refused = run(self.volley(), *words, refused=True, env=nobody)
            facts.append(refused.stderr.strip()[-300:])
        with self.step("clients without TLS, and those without the CA, are refused") as facts:
            for scheme in ("grpc", "grpc+tls"):
                refused = run(self.volley(), "--cluster", f"{scheme}://127.0.0.1:8815", "ls", refused=True)
                facts.append(refused.stderr.strip()[-300:])

    def renew(self):
        with self.step("deploy/compose/certificates --renew: new certificates, no restart") as facts:
            before = [self.compose.state(service)["StartedAt"] for service in SERVICES]
            self.certificates("--renew")
            if not (self.folder / "admin").read_text().endswith(f":{os.environ['VOLLEY_PASSWORD']}\n"):
                raise TestFailure("--renew replaced the administrator")
            wanted = first_certificate((self.folder / "node-1/tls.crt").read_bytes())
            for uri in (*OUTSIDE, *NODES, PROXY):
                host, port = uri.removeprefix("grpc+tls://").split(":")
                presented = lambda: served_certificate(host, int(port), "volley", self.ca)
                wait_until(lambda: presented() == wanted, 30, f"{uri} presents the new certificate")
            if before != [self.compose.state(service)["StartedAt"] for service in SERVICES]:
                raise TestFailure("a container was restarted")
            found = self.watch.status()
            facts.append(f"{len(OUTSIDE) + len(NODES) + 1} ports; {len(found['nodes'])} nodes")

    def end(self, failed):
        try:
            if failed:
                log = ROOT / "target/compose-tls.log"
                log.parent.mkdir(exist_ok=True)
                log.write_text(self.compose("logs", "--no-color").stdout)
                print(f"logs of the containers: {log}")
            if self.given.keep:
                return print(f"the project {PROJECT} is kept; its certificates are in {self.folder}")
            self.compose("down", "-v", "--remove-orphans", "--timeout", "5")
            run("docker", "image", "rm", "-f", IMAGE, images.CLIENT)
        finally:
            if not self.given.keep:
                shutil.rmtree(self.folder)


def main():
    parser = test_options(__doc__)
    parser.add_argument("--compose", help="the command [docker-compose, else docker compose]")
    run_test("compose-tls", ComposeTlsTest, parser.parse_args())


if __name__ == "__main__":
    main()
