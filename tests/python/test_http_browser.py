"""A page in Chromium that reads LZ4 and ZSTD tables with the plain JavaScript of `apache-arrow`, from another origin."""

import functools
import http.server
import subprocess
import threading

import pyarrow as pa
import pytest

from cluster import put, wait_until
from toolchains import apache_arrow_js, require

SECONDS = 120
HOSTILE = "<script>document.title = 'run'</script>"
PAGE = """<!doctype html>
<title>rows</title>
<script src="arrow.js"></script>
<p id="shown">waiting</p>
<script>
  const shown = (text) => { document.getElementById("shown").textContent = text; };
  const rows = (codec) =>
    fetch(`ADDRESS/api/v1/data/page/${codec}?columns=n,word`)
      .then((response) => Arrow.tableFromIPC(response))
      .then((table) => table.toArray().map((row) => `${codec}:${row.n}:${row.word}`).join(" "));
  Promise.all(["lz4", "zstd"].map(rows))
    .then((found) => shown(found.join(" ")))
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


def dumped(url, profile):
    """The page when Chromium takes its scripts for ended."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server", f"--user-data-dir={profile}",
        "--virtual-time-budget=30000", "--dump-dom", url,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def shown(url, profile):
    """The page after its scripts have run. On a busy machine Chromium's virtual time can end before answers are there."""
    def answered():
        page = dumped(url, profile)
        return None if ">waiting<" in page else page

    return wait_until(answered, SECONDS, "the page has its rows, or an error")


def test_page_of_a_listed_origin_shows_compressed_tables(own, site):
    require("chromium", "npm")
    folder, (listed, other) = site
    apache_arrow_js(folder)
    cluster = own(coordinators=1, nodes=1, node_options=("--http-cors-origins", listed))
    for codec in ("lz4", "zstd"):
        table = pa.table({"n": pa.array([1, 2], pa.int32()), "word": [HOSTILE, "ü"]})
        put(cluster.client(), f"page/{codec}", table, compression=codec)
    (folder / "index.html").write_text(PAGE.replace("ADDRESS", f"http://{cluster.nodes[0].host}:8836"))
    page = shown(f"{listed}/index.html", folder / "one")
    for codec in ("lz4", "zstd"):
        assert f"{codec}:1:&lt;script&gt;document.title = 'run'&lt;/script&gt; {codec}:2:ü" in page, page
    assert "<title>rows</title>" in page, page
    assert "failed: TypeError" in shown(f"{other}/index.html", folder / "other"), "the browser hides what it may not read"
