"""What the Python package shows in notebooks: tables, clusters, progress. Names and values come from anybody."""

import sys
import types
import xml.etree.ElementTree as ElementTree

import pyarrow as pa
from cluster import wait_until
from volley._html import cluster_svg, size, table_html, visible
from volley._progress import Progress

HOSTILE = "</pre><script>alert(1)</script>\u202e\x1b[2J"


def test_hostile_names_and_values_are_escaped(db, name):
    db.put(name, pa.table({"<i>id</i>": [1, 2], "text": [HOSTILE, "plain"]}), shard_by=["text"], shards=2)
    for shown in (db[name]._repr_html_(), db.get(name)._repr_html_()):
        assert "<script" not in shown and "<i>" not in shown and "\u202e" not in shown and "\x1b" not in shown
        assert "&lt;i&gt;id&lt;/i&gt;" in shown and "2 rows" in shown and "plain" in shown
    assert "version 1" in db[name]._repr_html_() and "2 shards by text" in db[name]._repr_html_()
    assert "&lt;/pre&gt;&lt;script" in table_html(HOSTILE, [], [], "")
    assert visible("a\nb\u200bc") == "a\\u{a}b\\u{200b}c"
    assert [size(count) for count in (None, 999, 1_500, 2_000_000_000)] == ["?", "999 bytes", "1.5 kB", "2.0 GB"]


def test_cluster_is_a_picture_of_its_members(db):
    status = db.cluster()
    picture = ElementTree.fromstring(status._repr_html_())
    texts = [element.text for element in picture.iter() if element.tag.endswith("}text")]
    assert {"coordinators", "nodes in zone z0", "nodes in zone z1", *(node["id"] for node in status["nodes"])} <= set(texts)
    assert sum("(leader)" in text for text in texts) == 1


def test_picture_of_a_hostile_cluster_is_valid():
    node = {"id": HOSTILE, "zone": HOSTILE, "flight": HOSTILE, "state": "alive", "condition": HOSTILE, "bytes_total": 0}
    nodes = [node, {"state": "silent", "bytes_total": 10, "bytes_free": 20}] * 100
    text = cluster_svg({"health": HOSTILE, "coordinators": [{"id": 1, "state": "unreachable", "peer": None}], "nodes": nodes})
    assert "<script" not in text and ElementTree.fromstring(text) is not None and "and 72 more nodes" in text
    assert ElementTree.fromstring(cluster_svg({})) is not None


class FakeNotebook:
    """The parts of IPython that a notebook has, with what is displayed."""

    def __init__(self):
        self.texts, self.kernel = [], object()

    def get_ipython(self):
        return self

    def HTML(self, text):
        return text

    def display(self, text, display_id):
        assert display_id
        self.update(text)
        return self

    def update(self, text):
        self.texts.append(text)


def test_progress_is_a_bar_in_notebooks(db, name, monkeypatch):
    notebook = FakeNotebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=notebook.get_ipython))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    with Progress(True, "<b>"):
        wait_until(lambda: notebook.texts, 10, "the bar")
    assert "<progress></progress>" in notebook.texts[0] and "&lt;b&gt;" in notebook.texts[0]
    db.put(name, {"id": [1, 2, 3]}, progress=True)
    assert "3 rows" in notebook.texts[-1] and "<progress" not in notebook.texts[-1]
    shown = len(notebook.texts)
    db.get(name)
    notebook.kernel = None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    db.get(name, progress=True)
    assert len(notebook.texts) == shown
