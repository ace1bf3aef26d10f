"""A page in Chromium that reads a table with the plain JavaScript of `apache-arrow`, from another origin."""

import functools
import http.server
import subprocess
import tarfile
import threading

import pyarrow as pa
import pytest

from cluster import put
from toolchains import require

PACKAGE = "apache-arrow@21.2.0"
SECONDS = 120
HOSTILE = "<script>document.title = 'run'</script>"
PAGE = """<!doctype html>
<title>rows</title>
<script src="arrow.js"></script>
<p id="shown">waiting</p>
<script>
  const shown = (text) => { document.getElementById("shown").textContent = text; };
  fetch("ADDRESS/api/v1/data/page/rows?columns=n,word")
    .then((response) => Arrow.tableFromIPC(response))
    .then((table) => shown(table.toArray().map((row) => `${row.n}:${row.word}`).join(" ")))
    .catch((error) => shown(`failed: ${error.name}`));
</script>
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder, and the origins of two sites that serve it."""
    servers = [
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=tmp_path)) for _ in range(2)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, [f"http://127.0.0.1:{server.server_port}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def shown(url, profile):
    """The page after its scripts have run."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server", f"--user-data-dir={profile}",
        "--virtual-time-budget=30000", "--dump-dom", url,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def test_page_of_a_listed_origin_shows_a_table(own, site):
    require("chromium", "npm")
    folder, (listed, other) = site
    packed = subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    if packed.returncode != 0:
        pytest.skip(f"npm does not have {PACKAGE}: {packed.stderr[-300:]}")
    with tarfile.open(folder / packed.stdout.split()[-1]) as package:
        (folder / "arrow.js").write_bytes(package.extractfile("package/Arrow.es2015.min.js").read())
    cluster = own(coordinators=1, nodes=1, node_options=("--http-cors-origins", listed))
    put(cluster.client(), "page/rows", pa.table({"n": pa.array([1, 2], pa.int32()), "word": [HOSTILE, "ü"]}))
    (folder / "index.html").write_text(PAGE.replace("ADDRESS", f"http://{cluster.nodes[0].host}:8836"))
    page = shown(f"{listed}/index.html", folder / "one")
    assert "1:&lt;script&gt;document.title = 'run'&lt;/script&gt; 2:ü" in page and "<title>rows</title>" in page, page
    assert "failed: TypeError" in shown(f"{other}/index.html", folder / "other"), "the browser hides what it may not read"
