"""A reader who attacks by SQL: queries that never end, that need more memory or disk than there is, that nobody reads or that are
cancelled, and statements that are deep or long."""

import contextlib
import json
import os
import threading

from attack import CLIENT_CODES, Attack, Problems, check_clean, check_refused, check_text, tally
from attack_cluster import MIB, QUERY_PLACES, QUERY_SECONDS, RESULT_SPACE, SPILL_SPACE
from cluster import wait_until
from process_watch import threads
from protobuf import SERVICE, field, fields
from raw_flight import CODES, command_descriptor
from raw_http2 import CANCEL, MAX_WINDOW, RST_STREAM, RawConnection, frame
from sql_statements import (
    ENDLESS, GROWING, QUICK, ROWS, SORTS, STORED, WITHOUT_COLUMNS, growing_lists, long, nested, repeated_lists, wide_rows,
)

DO_GET = SERVICE + "DoGet"
READER = "rita"
# How a query may end, beside its rows, and what the text names: its limit.
LIMIT_CODES = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
LIMITS = "statement_timeout_s|sql_memory_bytes|sql_spill_bytes|max_queries_per_principal|max_concurrent_queries|sql_distribute_bytes"
PLACES = "max_queries_per_principal|max_concurrent_queries|max_calls|relay_memory_bytes"
# Every query is answered within this time, seconds: that of a query, and that of planning a long one while others do the same.
ANSWERED_WITHIN = QUERY_SECONDS + 30
# After an attack everything of it has ended within this time, seconds.
FREE_WITHIN = 15


def ticket(statement):
    """The request of a DoGet."""
    return field(1, command(statement))


def command(statement):
    return json.dumps({"sql": statement}).encode()


def open_queries(cluster, member, tickets, window=MAX_WINDOW):
    """A connection with a DoGet of each ticket."""
    connection = RawConnection(cluster.host_port(member), cluster.sources(1)[0], window)
    connection.settle()
    headers = cluster.headers(READER)
    for request in tickets:
        connection.send(connection.request(DO_GET, request, headers))
    return connection


def answers(names, connection, seconds=ANSWERED_WITHIN):
    """Code and text of all replies, which have these names. Each must have ended."""
    replies = connection.replies
    connection.read(lambda: all(reply.is_ended for reply in replies.values()), seconds)
    for name, (stream, reply) in zip(names, replies.items()):
        assert reply.code is not None, f"{name} is not answered: {connection.describe(stream)}"
    return [(CODES[reply.code], reply.message, None) for reply in replies.values()]


def query_all(cluster, member, statements):
    """The answers to statements by their names, asked all at once."""
    with open_queries(cluster, member, map(ticket, statements.values())) as connection:
        return dict(zip(statements, answers([f"{name} at {member.name}" for name in statements], connection)))


def is_open(reply):
    return reply.is_ended or reply.headers


def members_of(cluster):
    """One of each kind that a client asks."""
    return cluster.coordinators[0], cluster.nodes[0]


def query_ticks(node):
    """Processor time of the threads of queries so far, in ticks of the system (10 ms)."""
    ticks = 0
    for thread in threads(node.process.pid):
        with contextlib.suppress(OSError):
            with open(f"/proc/{node.process.pid}/task/{thread}/stat") as stat:
                name, _, numbers = stat.read().partition("(")[2].rpartition(")")
            ticks += sum(map(int, numbers.split()[11:13])) if name == "sql" else 0
    return ticks


def is_idle(node):
    """Whether queries use hardly any processor time."""
    before = query_ticks(node)
    threading.Event().wait(0.3)
    return query_ticks(node) - before <= 6


def has_places(cluster, member):
    """Whether as many queries as one principal may run at a node are answered."""
    codes = [code for code, _, _ in query_all(cluster, member, {at: QUICK for at in range(QUERY_PLACES)}).values()]
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}, f"after the attack {member.name} answers {tally(codes)}"
    return set(codes) == {"OK"}


def check_free(cluster):
    """Nothing of the queries is left: no thread is busy, no place is taken, nothing is on disk."""
    for node in cluster.nodes:
        wait_until(lambda: is_idle(node), FREE_WITHIN, f"queries that have ended use no processor of {node.name}")
    # A query runs on all of them.
    for node in cluster.nodes:
        wait_until(lambda: has_places(cluster, node), FREE_WITHIN, f"{node.name} has places for queries again")
        wait_until(lambda: spilled(node) == 0, FREE_WITHIN, f"{node.name} has removed what queries had on disk")


def spilled(node):
    return bytes_below(node.folder / "spill")


def stored(node):
    """Bytes of stored results of queries."""
    return sum(map(bytes_below, (node.folder / "parts").glob("query_results+*")))


def bytes_below(folder):
    """Bytes of all files below a folder, which come and go."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(path, name)).st_size
    return total


class DiskWatch:
    """Samples what `measure()` gives inside a `with` block; `most` is the largest."""

    def __init__(self, measure):
        self.measure, self.most, self.done = measure, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _sample(self):
        while not self.done.wait(0.02):
            self.most = max(self.most, self.measure())


def run_beyond_limits(cluster, effort, statements):
    """Runs statements that no node can finish, all at once and again and again; returns what ended them."""
    told, problems = [], Problems()
    for _ in effort.rounds():
        for member in members_of(cluster):
            for name, answer in query_all(cluster, member, statements).items():
                with problems.collected():
                    check_refused(f"{name} at {member.name}", answer, LIMITS, LIMIT_CODES)
                told.append(answer[0])
    check_free(cluster)
    problems.raise_any()
    return tally(told)


def endless_queries(cluster, effort):
    """Queries that would run for years. Their time ends them, wherever they run."""
    told = run_beyond_limits(cluster, effort, ENDLESS)
    assert "DEADLINE_EXCEEDED" in told, told
    return told


def growing_queries(cluster, effort):
    """Aggregates, joins and windows over more rows than fit into memory."""
    told = run_beyond_limits(cluster, effort, GROWING)
    assert "RESOURCE_EXHAUSTED" in told, told
    return told


def spilling_queries(cluster, effort):
    """Sorts that fill the spill space, which all of them together do not exceed, and which is empty afterwards."""
    with DiskWatch(lambda: max(map(spilled, cluster.nodes))) as watch:
        told = run_beyond_limits(cluster, effort, {f"{name} {at}": sql for at in range(2) for name, sql in SORTS.items()})
    # The space is checked after each batch, of which several are written at once.
    assert 0 < watch.most <= SPILL_SPACE + 8 * MIB, f"{watch.most >> 20} MiB were spilled at one node"
    return f"{told}; {watch.most >> 20} MiB spilled at one node"


def many_queries(cluster, effort):
    """2,000 queries at once at each member: some are answered, the others refused with a hint when to try again."""
    told = []
    for member in members_of(cluster):
        codes = []
        for _ in effort.rounds():
            count = max(effort.count(2_000), 4 * QUERY_PLACES)
            with open_queries(cluster, member, [ticket(QUICK)] * count) as connection:
                names = [f"query {at} at {member.name}" for at in range(count)]
                for answer, reply in zip(answers(names, connection), connection.replies.values()):
                    if answer[0] == "RESOURCE_EXHAUSTED":
                        check_refused(f"a query at {member.name}", answer, PLACES)
                        assert reply.headers.get("grpc-retry-pushback-ms"), f"no hint when to try again: {vars(reply)}"
                    else:
                        check_clean(f"a query at {member.name}", answer, LIMIT_CODES)
                    codes.append(answer[0])
        assert "OK" in codes, tally(codes)
        told.append(f"{member.name}: {tally(codes)}")
    check_free(cluster)
    return "; ".join(told)


def state(reply):
    """What became of a query that is not read, as a word; a fault of the server is an AssertionError."""
    if reply.code is None:
        assert reply.reset_code is None, f"reset: {vars(reply)}"
        return "open" if reply.headers else "waiting"
    name = CODES[reply.code]
    assert name == "OK" or name in LIMIT_CODES, f"{name}: {reply.message}"
    check_text("DoGet", reply.message)
    return name


def leave_unread(cluster, effort, statement):
    """Reads the first kilobyte of many results, and holds them for longer than a query may run."""
    told = []
    for member in members_of(cluster):
        states = []
        for _ in effort.rounds():
            with open_queries(cluster, member, [], window=1_000) as connection:
                # One after the other, so that each begins before all places are taken.
                for _ in range(effort.count(200)):
                    connection.send(connection.request(DO_GET, ticket(statement), cluster.headers(READER)))
                    reply = list(connection.replies.values())[-1]
                    connection.read(lambda: is_open(reply), ANSWERED_WITHIN)
                # What is held longest is held for the time of a query.
                connection.read(lambda: all(reply.is_ended for reply in connection.replies.values()), QUERY_SECONDS + 1)
                states += [state(reply) for reply in connection.replies.values()]
        assert "waiting" not in states and {"open", "OK"} & set(states), f"{member.name}: {tally(states)}"
        told.append(f"{member.name}: {tally(states)}")
    check_free(cluster)
    return "; ".join(told)


def unread_queries(cluster, effort):
    """Queries whose rows have no end, and are not read."""
    return leave_unread(cluster, effort, ROWS)


def unread_results(cluster, effort):
    """Results of 4 MB that are complete, and are not read: the queries have ended."""
    return leave_unread(cluster, effort, wide_rows(1024, 4_000))


def reset_queries(cluster, effort):
    """Endless queries that are reset as soon as they run, as many as there are places, again and again."""
    told = []
    for member in members_of(cluster):
        states = []
        with open_queries(cluster, member, [], window=1_000) as connection:
            for _ in effort.rounds():
                first = connection.next_stream
                for sql in [*ENDLESS.values(), ROWS]:
                    connection.send(connection.request(DO_GET, ticket(sql), cluster.headers(READER)))
                streams = range(first, connection.next_stream, 2)
                connection.read(lambda: all(is_open(connection.replies[stream]) for stream in streams), ANSWERED_WITHIN)
                states += [state(connection.replies[stream]) for stream in streams]
                connection.send(b"".join(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")) for stream in streams))
        assert "waiting" not in states and "open" in states, f"{member.name}: {tally(states)}"
        told.append(f"{member.name}: {tally(states)}")
    check_free(cluster)
    return "; ".join(told)


def cancelled_queries(cluster, effort):
    """Endless queries that `CancelFlightInfo` ends."""
    ended = 0
    for member in members_of(cluster):
        with cluster.raw(member, READER) as client:
            for _ in effort.rounds():
                infos = []
                for name in ("a cross join", "a join of few keys", "numbers"):
                    code, text, replies = client.call("GetFlightInfo", command_descriptor(command(ENDLESS[name])))
                    assert code == "OK", f"{name} at {member.name}: {code} {text}"
                    infos.append(bytes(replies[0]))
                # Of the first endpoint the ticket, as a DoGet has it.
                tickets = [fields(fields(info)[3][0])[1][0] for info in infos]
                with open_queries(cluster, member, tickets) as connection:
                    replies = list(connection.replies.values())
                    connection.read(lambda: all(map(is_open, replies)), ANSWERED_WITHIN)
                    for info in infos:
                        check_clean("CancelFlightInfo", client.action("CancelFlightInfo", field(1, info)))
                    names = [f"a cancelled query at {member.name}"] * len(infos)
                    for name, answer in zip(names, answers(names, connection)):
                        check_refused(name, answer, "cancel|statement_timeout_s", {"CANCELLED", "DEADLINE_EXCEEDED"})
                        ended += 1
    check_free(cluster)
    return f"{ended} cancelled"


def unfetched_results(cluster, effort):
    """FlightInfos of queries that nobody fetches: plans, and results that are stored, within the space for these."""
    codes = []
    with DiskWatch(lambda: max(map(stored, cluster.nodes))) as watch:
        for member in members_of(cluster):
            with cluster.raw(member, READER) as client:
                for _ in effort.rounds():
                    for sql in [QUICK] * effort.count(400) + [STORED] * effort.count(40):
                        answer = client.call("GetFlightInfo", command_descriptor(command(sql)))
                        check_clean(f"GetFlightInfo at {member.name}", answer, LIMIT_CODES)
                        codes.append(answer[0])
    # Each node stores what it computes, and copies of what the other one does.
    assert watch.most <= 2 * RESULT_SPACE, f"stored results have {watch.most >> 20} MiB on one node"
    check_free(cluster)
    return f"{tally(codes)}; {watch.most >> 20} MiB of results on one node"


def nested_statements(cluster, effort):
    """Statements with 30,000 levels of everything that can be nested."""
    problems, count = Problems(), 0
    for member in members_of(cluster):
        for _ in effort.rounds():
            for name, sql in nested(effort.count(30_000)).items():
                with problems.collected():
                    answer = query_all(cluster, member, {name: sql})[name]
                    check_refused(f"nested {name} at {member.name}", answer, ".", {"INVALID_ARGUMENT", "UNIMPLEMENTED"})
                    count += 1
    check_free(cluster)
    problems.raise_any()
    return f"{count} refused"


def long_statements(cluster, effort):
    """Statements with 20,000 values, columns, joins and so on: answered, or refused with a reason."""
    problems, codes = Problems(), []
    for member in members_of(cluster):
        for _ in effort.rounds():
            for name, sql in long(effort.count(20_000)).items():
                with problems.collected():
                    answer = query_all(cluster, member, {name: sql})[name]
                    check_clean(f"a long {name} at {member.name}", answer, CLIENT_CODES | LIMIT_CODES)
                    codes.append(answer[0])
    check_free(cluster)
    problems.raise_any()
    return tally(codes)


def repeated_rows(cluster, effort):
    """Values that are much larger than the rows from which they are made, and rows without columns."""
    statements = {"lists of a window": growing_lists(effort.count(8_000)), "lists of a join": repeated_lists(effort.count(8_000), 8_000)}
    if effort.seconds:
        statements["rows without columns"] = WITHOUT_COLUMNS
    told = []
    for _ in effort.rounds():
        for name, answer in query_all(cluster, cluster.nodes[0], statements).items():
            check_clean(f"{name} at node1", answer, LIMIT_CODES)
            told.append(answer[0])
    check_free(cluster)
    return tally(told)


ATTACKS = [
    Attack("endless queries", "cross joins and recursions that never end", endless_queries),
    Attack("growing queries", "aggregates, joins and windows beyond the memory", growing_queries),
    Attack("spilling queries", "sorts beyond the spill space", spilling_queries),
    Attack("many queries", "2,000 queries at once", many_queries, bytes_each=32 << 10, units=2_000),
    Attack("unread queries", "rows without end that are not read", unread_queries, bytes_each=2 * MIB, units=2 * QUERY_PLACES),
    Attack("reset queries", "endless queries that are reset when they run", reset_queries),
    Attack("cancelled queries", "endless queries that CancelFlightInfo ends", cancelled_queries),
    Attack("unfetched results", "FlightInfos whose results are not fetched", unfetched_results),
    Attack("nested statements", "SQL with 30,000 levels", nested_statements),
    Attack("long statements", "SQL with 20,000 values, columns, joins", long_statements),
    Attack("unread results", "complete results that are not read", unread_results),
    Attack("repeated rows", "lists for each row, rows without columns", repeated_rows),
]
