"""Makes docs/pictures/web-page.png: the page Cluster of a real cluster of which one node is down, as Chromium shows it.

    VOLLEY_BIN_DIR=target/debug .venv/bin/python tests/docs/web_page_picture.py

Needs what tests/python/test_web_page.py needs.
"""

import base64
import pathlib
import shutil
import sys
import tempfile

import pyarrow as pa

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "python"))
from browser import Browser  # noqa: E402
from cluster import Cluster, put  # noqa: E402

PICTURE = ROOT / "docs" / "pictures" / "web-page.png"
TABLES = {"sales/orders": 24, "sales/items": 24, "weather": 12}
ROWS = pa.table({"id": pa.array(range(200_000), pa.int64())})
# The part of the page that is of most use.
CLIP = {"x": 0, "y": 0, "width": 1185, "height": 992, "scale": 1}


def main():
    # What repair would do in the meantime is not in the picture.
    patient = ("--node-timeout-ms", "2000", "--repair-delay-ms", "600000")
    cluster = Cluster(coordinators=3, nodes=6, zones=3, coordinator_options=patient)
    profile = tempfile.mkdtemp()
    try:
        with cluster.client() as client:
            for table, shards in TABLES.items():
                put(client, table, ROWS, shards=shards, shard_by=["id"])
        cluster.nodes[4].kill()
        browser = Browser(profile)
        try:
            browser.scheme("light")
            browser.open(f"http://{cluster.coordinators[0].host}:8835/ui/cluster")
            browser.wait(lambda: browser.texts("#health") == ["yellow"], "the page turns yellow")
            browser.wait(lambda: len(browser.all("#nodes .badge.bad")) == 1, "one node is unreachable")
            taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": CLIP, "captureBeyondViewport": True})
            PICTURE.write_bytes(base64.b64decode(taken["data"]))
        finally:
            browser.close()
    finally:
        cluster.close()
        shutil.rmtree(profile, ignore_errors=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
