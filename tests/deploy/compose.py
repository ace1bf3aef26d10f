"""Runs deploy/compose on a real Docker engine under faults while clients work.

    python tests/deploy/compose.py [--binaries FOLDER] [--compose COMMAND] [--table FILE] [--keep]

Needs a Docker engine, docker-compose 1.29 or 2, the binaries of a build, free ports 8815 to 8819 and 8841 to 8846, and the
packages of tests/python/requirements.txt. It uses no image registry, and removes what it started in any case.
"""

import json
import os
import shutil
from pathlib import Path

import images
from steps import LOGIN, ROOT, Steps, TestFailure, run, run_test, test_options, wait_until
from watch import Watch, check_trip
from workload import Client, Workload, put_base, round_trip

PROJECT = "volley-verify"
IMAGE = "volley:verify"
COORDINATORS = [f"coordinator-{i}" for i in (1, 2, 3)]
# The published ports: the coordinators in their order, the nodes, the proxy.
OUTSIDE = [f"grpc+tcp://127.0.0.1:{port}" for port in (8815, 8818, 8819)]
NODE_PORT = 8840
PROXY = "grpc+tcp://127.0.0.1:8817"


def node(i):
    return f"node-{i}"


def published(*numbers):
    return [f"grpc+tcp://127.0.0.1:{NODE_PORT + i}" for i in numbers]


def login():
    """The options by which a program in a container logs in as those of this machine do."""
    return [word for name in LOGIN if name in os.environ for word in ("-e", f"{name}={os.environ[name]}")]


class Compose:
    """The project: its commands, its containers."""

    def __init__(self, command, files=("docker-compose.yml",), **settings):
        self.command = command or (["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"])
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("VOLLEY_", "COMPOSE_", "EXTERNAL_"))}
        self.environment |= {"IMAGE": IMAGE, **settings}
        self.files = [word for file in files for word in ("-f", ROOT / "deploy/compose" / file)]
        self.network = f"{PROJECT}_default"

    def __call__(self, *words, **more):
        return run(*self.command, "-p", PROJECT, *self.files, "--profile", "more", *words, env=self.environment, **more)

    def up(self, *services):
        self("up", "-d", "--no-build", *services)
        for service in services:
            self.healthy(service)

    def container(self, service):
        label = "label=com.docker.compose"
        found = run("docker", "ps", "-aq", "--filter", f"{label}.project={PROJECT}", "--filter", f"{label}.service={service}")
        if len(found.stdout.split()) != 1:
            raise TestFailure(f"{service} has {len(found.stdout.split())} containers")
        return found.stdout.strip()

    def engine(self, verb, service, *words):
        """A command of the engine for a service's container."""
        return run("docker", verb, *words, self.container(service))

    def state(self, service):
        return json.loads(self.engine("inspect", service).stdout)[0]["State"]

    def healthy(self, service, seconds=180):
        well = lambda: self.state(service)["Health"]["Status"] == "healthy"
        wait_until(well, seconds, lambda: f"{service} is healthy: {json.dumps(self.state(service))[-600:]}")

    def disconnect(self, service):
        run("docker", "network", "disconnect", self.network, self.container(service))

    def connect(self, service):
        run("docker", "network", "connect", "--alias", service, self.network, self.container(service))

    def volley(self, *words, **more):
        return self("exec", "-T", *login(), "coordinator-1", "volley", *words, **more)

    def inside(self, image, *words):
        """Runs a container in the cluster's network to its end."""
        return run("docker", "run", "--rm", "--network", self.network, *login(), image, *words).stdout


class ComposeTest:
    def __init__(self, given):
        self.given = given
        self.steps = Steps()
        self.step = self.steps.step
        self.compose = Compose(given.compose and given.compose.split())
        self.client = Client(OUTSIDE)
        self.watch = Watch(self.client)

    def run(self):
        self.start()
        self.reach()
        with Workload(OUTSIDE) as work:
            self.steps.work = work
            work.progress()
            self.inject_faults()
            self.grow_and_shrink()
            self.upgrade()
            self.steps.work = None
        work.check()
        self.stop_and_start(work)

    def start(self):
        with self.step("the image is built from the binaries; no registry") as facts:
            images.volley(IMAGE, self.given.binaries)
            facts.append(f"{images.size_mb(IMAGE)} MB")
        with self.step("an image with pyarrow, for clients inside"):
            images.client()
        with self.step("`docker-compose up -d` until all 7 are healthy") as facts:
            self.compose.up(*COORDINATORS, *map(node, range(1, 5)))
            facts.append(self.compose("version", "--short").stdout.strip())

    def reach(self):
        with self.step("put and get from the host, from all nodes in parallel") as facts:
            put_base(self.client)
            facts.append(check_trip(round_trip(OUTSIDE[0], "verify/host"), published(1, 2, 3, 4)))
            self.watch.located(published(1, 2, 3, 4))
        with self.step("put and get from a container of the network") as facts:
            found = self.compose.inside(images.CLIENT, "grpc+tcp://coordinator-1:8815", "verify/inside")
            facts.append(check_trip(json.loads(found), [f"grpc+tcp://node-{i}:8816" for i in range(1, 5)]))
        with self.step("put and get through one port") as facts:
            facts.append(check_trip(round_trip(PROXY, "verify/proxy"), [PROXY]))
        with self.step("copies of each shard are in two zones") as facts:
            facts.append("zones " + ", ".join(self.watch.in_zones()))
        with self.step("`volley doctor` on the host and in a container"):
            run(Path(self.given.binaries) / "volley", "--cluster", OUTSIDE[0], "doctor")
            self.compose.inside(IMAGE, "volley", "--cluster", "grpc://coordinator-1:8815", "doctor")

    def inject_faults(self):
        with self.step("kill a node and start it again"):
            self.compose.engine("kill", node(1))
            self.steps.work.progress()
            self.compose.engine("start", node(1))
            self.wait_for_recovery()
        with self.step("kill the leader and start it again") as facts:
            self.away(self.leader(facts), "kill", "start")
        with self.step("pause a node until it is unreachable, and resume it"):
            self.unreachable(2, lambda service: self.compose.engine("pause", service))
            self.compose.engine("unpause", node(2))
            self.wait_for_recovery()
        with self.step("pause the leader, and resume it") as facts:
            self.away(self.leader(facts), "pause", "unpause")
        with self.step("take a node off the network until it is unreachable, and back"):
            self.unreachable(3, self.compose.disconnect)
            self.compose.connect(node(3))
            self.wait_for_recovery()
        with self.step("take the leader off the network, and back") as facts:
            leader = self.leader(facts)
            self.compose.disconnect(leader)
            self.steps.work.progress()
            self.compose.connect(leader)
            self.wait_for_recovery(leader)
        for service in (node(4), "coordinator-2"):
            with self.step(f"restart {service}"):
                self.compose.engine("restart", service)
                self.wait_for_recovery(service)

    def leader(self, facts):
        leader = f"coordinator-{self.watch.leader()}"
        facts.append(leader)
        return leader

    def away(self, service, out, back):
        """Stops a container and brings it back; clients work in between."""
        self.compose.engine(out, service)
        self.steps.work.progress()
        self.compose.engine(back, service)
        self.wait_for_recovery(service)

    def unreachable(self, i, cut):
        cut(node(i))
        self.steps.work.progress()
        self.watch.alive(3)
        self.steps.work.progress()

    def wait_for_recovery(self, *services, nodes=4):
        """Waits until the services are healthy, all nodes are alive and all copies exist."""
        for service in services or map(node, range(1, nodes + 1)):
            self.compose.healthy(service)
        self.watch.settled(nodes)

    def grow_and_shrink(self):
        with self.step("start two more nodes (profile `more`), until they have their share") as facts:
            self.compose.up(node(5), node(6))
            self.watch.settled_at(6, published(*range(1, 7)))
            facts.append(f"clients get {len(published(*range(1, 7)))} locations")
        with self.step("`volley remove` of a node that is not drained is refused") as facts:
            refused = self.compose.volley("remove", "node-5:8816", refused=True)
            facts.append(refused.stderr.strip())
        with self.step("drain a node, remove it, and its container and volume"):
            self.compose.volley("drain", "node-6:8816", seconds=300)
            self.compose.volley("remove", "node-6:8816")
            self.compose("rm", "--stop", "--force", node(6))
            run("docker", "volume", "rm", f"{PROJECT}_{node(6)}")
            self.watch.settled(5)

    def upgrade(self):
        with self.step("the image is rebuilt"):
            before = images.identity(IMAGE)
            after = images.volley(IMAGE, self.given.binaries)
            if before == after:
                raise TestFailure("the rebuilt image is the old one")
        for service in (*COORDINATORS, *map(node, range(1, 6))):
            with self.step(f"upgrade {service}"):
                self.compose("up", "-d", "--no-build", "--no-deps", service)
                self.compose.healthy(service)
                runs = json.loads(self.compose.engine("inspect", service).stdout)[0]["Image"]
                if runs != after:
                    raise TestFailure(f"{service} still runs the image {runs}")
        with self.step("all copies are there after the upgrade"):
            self.watch.settled(5)

    def stop_and_start(self, work):
        services = (*COORDINATORS, *map(node, range(1, 6)))
        with self.step("`down`, `up`: all containers are new, the volumes are the old ones") as facts:
            self.compose("down", "--timeout", "60")
            self.compose.up(*services)
            self.watch.settled(5)
            facts.append(f"{work.everything()} acknowledged appends are there")
        with self.step("kill all containers at once, and start them again") as facts:
            run("docker", "kill", *map(self.compose.container, services))
            self.compose.up(*services)
            self.watch.settled(5)
            facts.append(f"{work.everything()} acknowledged appends are there")

    def end(self, failed):
        if failed:
            log = ROOT / "target/compose.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(self.compose("logs", "--no-color").stdout)
            print(f"logs of the containers: {log}")
        if self.given.keep:
            return
        self.compose("down", "-v", "--remove-orphans", "--timeout", "5")
        run("docker", "image", "rm", "-f", IMAGE, images.CLIENT)


def main():
    parser = test_options(__doc__)
    parser.add_argument("--compose", help="the command [docker-compose, else docker compose]")
    run_test("compose", ComposeTest, parser.parse_args())


if __name__ == "__main__":
    main()
