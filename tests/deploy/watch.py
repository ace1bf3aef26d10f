"""What a cluster says of itself, and waiting for it."""

from steps import Trouble, wait_until
from workload import BASE, REUSE, told


class Watch:
    """Looks at a cluster through a client."""

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
        """Waits until every part has all its copies on live nodes."""
        wait_until(lambda: self.status()["health"] == "green", seconds, lambda: f"green: {self.status()['copies']}")

    def settled(self, nodes, seconds=240):
        """Waits until so many nodes are alive, all copies are there, and the big table is where it should be."""
        self.alive(nodes)
        self.green(seconds)
        moving = lambda: self.client.action("explain", {"table": BASE})["moving"]
        wait_until(lambda: moving() == 0, seconds, lambda: f"all parts in their places: {moving()} are not")

    def holders(self):
        """Of each shard of the big table: the nodes that hold it, by their addresses."""
        explained = self.client.action("explain", {"table": BASE})
        return [[node["address"] for node in shard["holders"]] for shard in explained["shards"]]

    def in_zones(self):
        """Trouble unless the copies of every shard of the big table are in different zones; the zones."""
        zones = {address(node): node["zone"] for node in self.nodes()}
        for number, holders in enumerate(self.holders()):
            there = [zones[holder] for holder in holders]
            if len(there) < 2 or len(set(there)) != len(there):
                raise Trouble(f"the copies of shard {number} are in the zones {there}")
        return sorted(set(zones.values()))

    def reached(self, wanted, seconds=240):
        """Waits until the big table's pieces are told to be at just these addresses, each of them used. A node that is new gets
        its share when the leader looks next: until then all is settled without it."""
        found = lambda: {uri for uris in told(self.client, BASE) for uri in uris if not uri.startswith(REUSE)}
        lacking = lambda: f"clients are told {sorted(wanted)}: they are told {sorted(found())}"
        wait_until(lambda: found() == set(wanted), seconds, lacking)


def check_trip(found, wanted):
    """Trouble unless a round trip was told just the wanted addresses, and each gave rows; a sentence about it."""
    rows = {uri: n for uri, n in found["rows"].items() if not uri.startswith(REUSE)}
    if sorted(rows) != sorted(wanted) or not all(rows.values()):
        raise Trouble(f"rows came from {rows}, and should come from each of {wanted}")
    return f"put {found['put_s']} s, get {found['get_s']} s; told " + ", ".join(sorted(rows))


def address(node):
    """HOST:PORT by which members know a node."""
    return node["flight"].rsplit("://")[-1]
