"""A writer whose names are paths, commands, and text that is not what it looks like."""

import json

import pyarrow as pa

from attack import CLIENT_CODES, Attack, Problems, check_clean, check_refused
from process_watch import MARK, OpenedPaths, listing
from protobuf import field
from raw_flight import command_descriptor, ipc_messages, path_descriptor

ROW = pa.table({"n": [1]})

# Names that are UTF-8 without control characters: they may be refused, or are names like all others.
STRANGE = [
    "..", ".", "~", f"../{MARK}", f"../../../../../../tmp/{MARK}", f"a/../../../{MARK}", f"../../etc/{MARK}", "a/./b", "a/..",
    f"..\\..\\{MARK}", f"C:\\{MARK}", f"\\\\host\\share\\{MARK}", f"%2e%2e%2f{MARK}", f"..%2f..%2f{MARK}", f"..;/{MARK}",
    f"．．／{MARK}", f"‥/{MARK}", f"..∕..∕{MARK}", f"{MARK}.arrow", "parts", "tmp", "catalog.redb", "CON", "lost+found",
    f"$(touch /tmp/{MARK})", f"`touch /tmp/{MARK}`", f"; touch /tmp/{MARK} #", f"|touch /tmp/{MARK}", "%s%n%x", "{0}", "-rf",
    f"file:///tmp/{MARK}", "' OR 1=1 --", "\u202egnp.exe", "a\u2066b\u2069", "a\u200bb", "\ufeffa", "\u0430dmin", "e\u0301",
    "\U000e0001", "\ufffd", "\uffff", "x" * 1024, "/".join("x" * 16), "é" * 512,
]
# Names that must be refused, as the bytes of a component, and what the refusal says.
REFUSED = {
    "a NUL": (b"a\0b", "control|NUL"),
    "a NUL after a path": (f"../{MARK}".encode() + b"\0.arrow", "control|NUL"),
    "a line break": (b"a\nb", "control"),
    "an escape sequence": (b"\x1b[2Ja", "control"),
    "DEL": (b"a\x7f", "control"),
    "C1": ("a\u0085b".encode(), "control"),
    "overlong dots": (b"\xc0\xae\xc0\xae\xc0\xaf" + MARK.encode(), "UTF-8"),
    "an overlong slash": (b"a\xe0\x80\xafb", "UTF-8"),
    "an overlong NUL": (b"a\xc0\x80b", "UTF-8"),
    "a surrogate": (b"a\xed\xa0\x80", "UTF-8"),
    "a code point beyond Unicode": (b"\xf4\x90\x80\x80", "UTF-8"),
    "cut UTF-8": (b"a\xe2\x82", "UTF-8"),
    "1,025 bytes": (b"x" * 1025, "1,024|long"),
    "17 components": (b"/".join([b"a"] * 17), "16|components"),
    "an absolute path": (f"/tmp/{MARK}".encode(), "empty"),
    "an empty component": (b"a//b", "empty"),
    "nothing": (b"", "empty"),
}
# A protobuf string that is no UTF-8 is refused before Volley sees the name.
NAME_CODES = {"INVALID_ARGUMENT", "INTERNAL", "PERMISSION_DENIED"}


class Checks:
    """The checks of answers, whose failures are collected."""

    def __init__(self):
        self.problems = Problems()

    def clean(self, what, result, codes=CLIENT_CODES):
        with self.problems.collected():
            check_clean(what, result, codes)

    def refused(self, what, result, words, codes):
        with self.problems.collected():
            check_refused(what, result, words, codes)


def as_json(name, **options):
    return json.dumps({"table": name, **options}).encode()


def put_names(client, checks, number_of_ways):
    """Puts, reads, describes and drops a table of every name that may be one, in `number_of_ways` of the ways to say it; returns
    how many were taken."""
    taken = 0
    for at, name in enumerate(STRANGE):
        ways = [("a path", path_descriptor(name.encode())), ("JSON", command_descriptor(as_json(name))), ("text", command_descriptor(name.encode()))]
        for way, descriptor in (ways[at % 3 :] + ways)[:number_of_ways]:
            what = f"the name {name[:80]!r} as {way}"
            result = client.put(ipc_messages(ROW), descriptor)
            checks.clean(what, result)
            checks.clean(what, client.call("GetSchema", descriptor))
            for ticket in (name.encode(), as_json(name)):
                got = client.call("DoGet", field(1, ticket))
                checks.clean(what, got)
                if way == "JSON" and ticket.startswith(b'{"table"') and result[0] == "OK":
                    with checks.problems.collected():
                        assert got[0] == "OK", f"{what} was taken and cannot be read: {got}"
            for action in ("get_stats", "explain", "list_versions", "drop_table"):
                checks.clean(f"{action} of {what}", client.action(action, as_json(name)))
            taken += result[0] == "OK"
    return taken


def refuse_names(client, checks):
    """Names that no table can have, in every place where a name can stand."""
    for what, (name, words) in REFUSED.items():
        words = f"{words}|invalid string|utf-?8|decod"
        checks.refused(what, client.put(ipc_messages(ROW), path_descriptor(name)), words, NAME_CODES)
        if name:
            checks.refused(what, client.put(ipc_messages(ROW), command_descriptor(name)), words, NAME_CODES)
            checks.refused(f"a ticket of {what}", client.call("DoGet", field(1, name)), ".", CLIENT_CODES | NAME_CODES)
        for method in ("GetFlightInfo", "GetSchema"):
            checks.refused(f"{method} of {what}", client.call(method, path_descriptor(name)), words, NAME_CODES)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            body = b'{"table": "' + name + b'"}'
        else:
            body = as_json(text)
        for action in ("create_table", "drop_table", "get_stats", "list_versions", "restore_version", "begin_write"):
            checks.refused(f"{action} of {what}", client.action(action, body), ".", CLIENT_CODES | NAME_CODES)
        checks.clean(f"list of {what}", client.call("ListFlights", field(1, name)), CLIENT_CODES | NAME_CODES)


def other_names(client, checks):
    """Names of columns, writes and listeners."""
    for at, name in enumerate([f"../{MARK}", "a\0b", "\u202e", "x" * 100_000, ""]):
        table = pa.table({name: [1]})
        checks.clean(f"the column {name[:50]!r}", client.put(ipc_messages(table), path_descriptor(b"attack", b"column%d" % at)))
        checks.clean("a key", client.put(ipc_messages(table), command_descriptor(as_json(f"attack/key{at}", shard_by=[name]))))
        checks.clean("a write", client.put(ipc_messages(ROW), command_descriptor(as_json("attack/write", write_id=name))))
        for action in ("begin_write", "abort_write", "commit_write"):
            checks.clean(action, client.action(action, as_json("attack/write", write_id=name)))


def names(cluster, effort):
    """All of these, while every path that the members open is recorded."""
    before, taken, checks = listing(cluster), 0, Checks()
    with OpenedPaths(cluster) as opened:
        for member in (cluster.coordinators[0], cluster.nodes[0]):
            with cluster.raw(member, "mallory") as client:
                taken += put_names(client, checks, 3 if effort.seconds else 1)
                refuse_names(client, checks)
                other_names(client, checks)
    foreign, created = opened.foreign(), listing(cluster) - before
    assert not foreign, "paths outside of the data folders:\n" + "\n".join(foreign[:20])
    assert not created, f"created: {created}"
    checks.problems.raise_any()
    return f"{taken} names taken, paths " + ("by strace" if opened.is_known else "by listings and open files only: there is no strace")


ATTACKS = [Attack("names", "paths, controls, bidi, overlong UTF-8 as names", names, watches_paths=True)]
