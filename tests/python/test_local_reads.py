"""Reads on the node's machine: by pyarrow over grpc+unix://, and by the Python package from the node's files."""

import pathlib
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.flight as flight
import pytest

ROWS = 300_000

#: Reads the table with the setting of its last argument, and prints the sum, what was read by files, and MiB of anonymous memory.
READER = """
import sys
import pyarrow.compute as pc
import volley

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("RssAnon:"))

db = volley.connect(sys.argv[1], timeout=30, local=sys.argv[2])
db.get("t", limit=1)
before = anonymous()
table = db.get("t")
grown = anonymous() - before
reads = db.local_reads
print(pc.sum(table.to_arrow()["c3"]).as_py(), reads["rows"], sum(reads["fallbacks"].values()), grown)
"""

#: Reads all values of the table, waits for a line, and prints how many KiB of the nodes' files are in memory, and its share of them.
HOLDER = """
import sys
import pyarrow.compute as pc
import volley

def mapped():
    of_part, resident, share = False, 0, 0
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            words = line.split()
            if not words[0].endswith(":"):
                of_part = "/parts/" in line
            elif of_part and words[0] == "Rss:":
                resident += int(words[1])
            elif of_part and words[0] == "Pss:":
                share += int(words[1])
    return resident, share

table = volley.connect(sys.argv[1], timeout=30).get("t").to_arrow()
for name in table.column_names:
    pc.sum(table[name])
print("read", flush=True)
sys.stdin.readline()
print(*mapped(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def local(request):
    """A cluster whose nodes have local sockets, with a table of 16 columns, and the path of a socket."""
    from cluster import Cluster

    folder = pathlib.Path(tempfile.mkdtemp(prefix="volley-local-"))
    # Of one node, because all have the same options.
    path = folder / "node.sock"
    cluster = Cluster(coordinators=1, nodes=1, zones=1, node_options=("--local-socket", str(path)))
    request.addfinalizer(cluster.close)
    client = cluster.client()
    columns = {f"c{at}": pa.array(range(at, at + ROWS), pa.int64()) for at in range(16)}
    writer, reader = client.do_put(flight.FlightDescriptor.for_path("t"), pa.table(columns).schema)
    writer.write_table(pa.table(columns), max_chunksize=65_536)
    writer.done_writing()
    while reader.read() is not None:
        pass
    writer.close()
    return cluster, path


def test_pyarrow_connects_by_the_socket(local):
    _, path = local
    # By itself gRPC names the host by the path of the socket, which is no name of a host in HTTP.
    with flight.connect(f"grpc+unix://{path}", generic_options=[("grpc.default_authority", "localhost")]) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path("t"))
        assert info.total_records == ROWS
        table = client.do_get(flight.Ticket(b"t")).read_all()
        assert table.num_rows == ROWS and table["c3"][0].as_py() == 3
        # Locations are those of the ports, which every client can dial.
        uris = [location.uri for endpoint in info.endpoints for location in endpoint.locations]
        assert uris and all(uri.startswith(b"grpc+tcp://") for uri in uris), uris


def read(cluster, setting):
    address = cluster.address(cluster.coordinators[0])
    done = subprocess.run([sys.executable, "-c", READER, address, setting], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_package_reads_the_nodes_files(local):
    cluster, _ = local
    wanted = sum(range(3, 3 + ROWS))
    total, rows, fallbacks, grown = read(cluster, "auto")
    assert (total, rows, fallbacks) == (wanted, ROWS + 1, 0)
    # The table has 38 MB.
    assert grown < 16, f"{grown} MiB of anonymous memory"
    assert read(cluster, "never")[:3] == [wanted, 0, 0]


def test_setting_is_auto_or_never(local):
    import volley

    cluster, _ = local
    with pytest.raises(volley.InvalidArgument, match="local is \"always\": give auto or never"):
        volley.connect(cluster.address(cluster.coordinators[0]), local="always")


def test_processes_share_one_copy(local):
    cluster, _ = local
    address, size = cluster.address(cluster.coordinators[0]), 16 * 8 * ROWS
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen([sys.executable, "-c", HOLDER, address], **pipes) for _ in range(8)]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["read\n"] * 8
        measured = []
        for reader in readers:
            reader.stdin.write("\n")
            reader.stdin.flush()
            measured.append([1024 * int(word) for word in reader.stdout.readline().split()])
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    assert all(resident > 0.9 * size for resident, _ in measured), measured
    assert sum(share for _, share in measured) < 1.1 * size, measured
