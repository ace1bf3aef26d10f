"""The status of a cluster, and waiting for it."""

from steps import TestFailure, wait_until
from workload import BASE, REUSE, locations


class Watch:
    """Reads the status of a cluster through a client."""

    def __init__(self, client):
        self.client = client

    def status(self):
        return self.client.action("cluster_status")

    def nodes(self):
        """The live nodes."""
        return [node for node in self.status()["nodes"] if node["state"] == "alive"]

    def leader(self):
        return wait_until(lambda: self.status()["leader"], 60, "a leader")

    def alive(self, count, seconds=120):
        wait_until(lambda: len(self.nodes()) == count, seconds, lambda: f"{count} live nodes: there are {len(self.nodes())}")

    def green(self, seconds=240):
        """Waits until every part has all its copies on live nodes; members may be away."""
        copied = lambda copies: copies["below_replicas"] == copies["unreadable"] == 0
        wait_until(lambda: copied(self.status()["copies"]), seconds, lambda: f"all copies: {self.status()['copies']}")

    def settled(self, nodes, seconds=240):
        """Waits until this many nodes are alive, all copies exist, and no part of the big table has to move."""
        self.alive(nodes)
        self.green(seconds)
        moving = lambda: self.client.action("explain", {"table": BASE})["moving"]
        wait_until(lambda: moving() == 0, seconds, lambda: f"no part has to move: {moving()} have to")

    def holders(self):
        """For each shard of the big table, the addresses of the nodes that hold it."""
        explained = self.client.action("explain", {"table": BASE})
        return [[node["address"] for node in shard["holders"]] for shard in explained["shards"]]

    def in_zones(self):
        """Fails unless the copies of every shard of the big table are in different zones; returns the zones."""
        zones = {address(node): node["zone"] for node in self.nodes()}
        for number, holders in enumerate(self.holders()):
            there = [zones[holder] for holder in holders]
            if len(there) < 2 or len(set(there)) != len(there):
                raise TestFailure(f"the copies of shard {number} are in the zones {there}")
        return sorted(set(zones.values()))

    def located(self, wanted, seconds=240):
        """Waits until the locations of the big table are exactly these addresses."""
        found = lambda: {uri for uris in locations(self.client, BASE) for uri in uris if not uri.startswith(REUSE)}
        lacking = lambda: f"clients get the locations {sorted(wanted)}: they get {sorted(found())}"
        wait_until(lambda: found() == set(wanted), seconds, lacking)

    def settled_at(self, nodes, wanted):
        """Waits until the cluster is settled with this many nodes and the locations of the big table are these addresses. A new
        node gets its share when the leader next scans: until then the cluster is settled without it."""
        self.settled(nodes)
        self.located(wanted)
        self.settled(nodes)


def check_trip(found, wanted):
    """Fails unless a round trip had exactly the wanted locations and each returned rows; returns a sentence about it."""
    rows = {uri: n for uri, n in found["rows"].items() if not uri.startswith(REUSE)}
    if sorted(rows) != sorted(wanted) or not all(rows.values()):
        raise TestFailure(f"rows arrived from {rows} instead of each of {wanted}")
    return f"put {found['put_s']} s, get {found['get_s']} s; locations " + ", ".join(sorted(rows))


def address(node):
    """HOST:PORT by which members know a node."""
    return node["flight"].rsplit("://")[-1]
