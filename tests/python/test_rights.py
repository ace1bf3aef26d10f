"""Rights: prefixes by whole components, hidden tables, restricted columns, tickets, staged writes, quotas."""

import json
import re

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put
from identity_cluster import ADMIN, put_schema, refusal_of
from matrix import PAIRS, matrix
from protobuf import SERVICE, field

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [1.5, 2.5, 3.5]})
KEYED = dict(shards=4, shard_by=["b"])


def listed(client):
    found = [info.descriptor for info in client.list_flights()]
    return {(b"/".join(one.path or []) or one.command).decode() for one in found}


def hidden(cluster, table, **who):
    """Checks that a table is missing at every member for a principal."""
    for member in cluster.members():
        with cluster.client(member, **who) as client:
            for call in (
                lambda: client.get_flight_info(descriptor(table)),
                lambda: client.get_schema(descriptor(table)),
                lambda: client.do_get(flight.Ticket(table.encode())).read_all(),
                lambda: action(client, "get_stats", {"table": table}),
            ):
                with pytest.raises(KeyError, match=f'there is no table "{table}"'):
                    call()
            assert table not in listed(client)
            assert table not in [found["table"] for found in action(client, "list_tables")["tables"]]


def test_prefix_means_whole_components(secured, name):
    sales = f"{name}/sales"
    inside, outside = [sales, f"{sales}/eu", f"{sales}/eu/2026"], [f"{name}/sales_old", f"{name}/sale", name]
    for table in inside + outside:
        put(secured.client(), table, TABLE)
    ana, eve = secured.add_user(("reader", f"{sales}/")), secured.add_user(("reader", f"{sales}/eu"))
    for member in secured.members():
        assert listed(secured.client(member, user=ana)) == set(inside)
        assert listed(secured.client(member, user=eve)) == set(inside[1:])
        tables = action(secured.client(member, user=ana), "list_tables")["tables"]
        assert {table["table"] for table in tables} == set(inside)
        assert secured.rows(inside[2], user=eve, member=member).equals(TABLE)
    for table in outside:
        hidden(secured, table, user=ana)
    hidden(secured, sales, user=eve)


# Calls that name a table, as bytes: a hidden table and a missing one must not differ in anything.
NAMING = {
    "GetFlightInfo": lambda table: path_bytes(table),
    "PollFlightInfo": lambda table: path_bytes(table),
    "GetSchema": lambda table: path_bytes(table),
    "DoGet": lambda table: field(1, table.encode()),
    **{
        f"DoAction {name}": lambda table, name=name: field(1, name.encode()) + field(2, json.dumps({"table": table}).encode())
        for name in ("get_stats", "explain", "list_versions", "drop_table")
    },
    "DoAction restore_version": lambda table: field(1, b"restore_version")
    + field(2, json.dumps({"table": table, "version": 1}).encode()),
}


def path_bytes(table):
    return b"\x08\x01" + b"".join(field(3, part.encode()) for part in table.split("/"))


@pytest.mark.parametrize("call, places", matrix(NAMING, PAIRS))
def test_hidden_table_cannot_be_told_from_a_missing_one(secured, name, call, places):
    put(secured.client(), f"{name}/hidden", TABLE)
    ana = secured.add_user(("reader", f"{name}/other"))
    # The name of a call ends its error: the same for both.
    metadata = [("authorization", f"Bearer {secured.session(ana)}"), ("x-request-id", "same")]
    for member in (secured.members()[at] for at in places):
        answers = []
        for table in (f"{name}/hidden", f"{name}/absent"):
            with secured.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
                list(channel.unary_stream(SERVICE + call.split()[0])(NAMING[call](table), metadata=metadata, timeout=20))
            trailers = {key for key, _ in error.value.trailing_metadata() or ()}
            answers.append((error.value.code(), error.value.details().replace(table, "TABLE"), trailers))
        assert answers[0] == answers[1] and answers[0][0] == grpc.StatusCode.NOT_FOUND, answers


def test_each_role_includes_the_ones_below(secured, name):
    put(secured.client(), name, TABLE)
    put(secured.client(), f"{name}_old", TABLE)
    reader, writer, owner = (secured.add_user((role, name)) for role in ("reader", "writer", "owner"))
    for member in secured.members():
        of = lambda user: secured.client(member, user=user)
        for user in (reader, writer, owner):
            assert of(user).do_get(flight.Ticket(name.encode())).read_all().num_rows >= 3
        said = str(refusal_of(lambda: put_schema(of(reader), name, TABLE.schema, mode="append")))
        assert all(word in said for word in (reader, "writer", name, "grant")), said
        for user in (writer, owner):
            put(of(user), name, TABLE, mode="append")
            put(of(user), f"{name}/{user}", TABLE)
        # Whether a table exists that one may not write to is not said.
        for table in (f"{name}_old", f"{name}_none"):
            refused = refusal_of(lambda: put_schema(of(owner), table, TABLE.schema))
            assert isinstance(refused, flight.FlightUnauthorizedError) and table in str(refused), refused
        for user in (reader, writer):
            assert "owner" in str(refusal_of(lambda: action(of(user), "drop_table", {"table": name})))
        assert action(of(owner), "drop_table", {"table": f"{name}/{writer}"})["dropped"]


def test_owner_grants_on_its_prefix_only(secured, name):
    ana, eve = secured.add_user(("owner", name)), secured.add_user()
    client = secured.client(user=ana)
    put(client, f"{name}/t", TABLE)
    to = {"to": f"user:{eve}"}
    for role in ("reader", "writer", "owner"):
        assert action(client, "grant", {"role": role, "prefix": f"{name}/t", **to})
    secured.settle()
    assert secured.rows(f"{name}/t", user=eve).equals(TABLE)
    granted = action(client, "list_grants", {"prefix": name})
    assert {(grant["to"], grant["role"], grant["granted_by"]) for grant in granted} == {
        (f"user:{ana}", "owner", ADMIN), *((f"user:{eve}", role, ana) for role in ("reader", "writer", "owner"))
    }
    above = name.rpartition("/")[0]
    for role, prefix in (("reader", above), ("reader", f"{name}_old"), ("operator", "/"), ("admin", "/"), ("reader", "/")):
        with pytest.raises(flight.FlightUnauthorizedError):
            action(client, "grant", {"role": role, "prefix": prefix, **to})
    for role in ("reader", "writer", "owner"):
        assert action(client, "revoke", {"role": role, "prefix": f"{name}/t", **to}) == {"revoked": True}
    secured.settle()
    hidden(secured, f"{name}/t", user=eve)


def test_operator_runs_the_cluster_and_sees_no_data(secured, name):
    put(secured.client(), name, TABLE)
    ola = secured.add_user(("operator", "/"))
    for member in secured.members():
        with secured.client(member, user=ola) as client:
            assert action(client, "cluster_status")["nodes"] and action(client, "get_stats") is not None
            assert listed(client) == set()
            assert isinstance(refusal_of(lambda: put_schema(client, name, TABLE.schema)), flight.FlightUnauthorizedError)
    hidden(secured, name, user=ola)


def test_group_has_its_rights_while_one_is_in_it(secured, name):
    put(secured.client(), name, TABLE)
    group = name.replace("/", "-")
    secured.grant(f"group:{group}", "reader", name)
    ana, eve = secured.add_user(groups=[group, "others"]), secured.add_user(groups=[f"{group}x"])
    for member in secured.members():
        assert secured.rows(name, user=ana, member=member).equals(TABLE)
        who = action(secured.client(member, user=ana), "whoami")
        assert who["groups"] == sorted([group, "others"])
        assert [(grant["to"], grant["role"], grant["prefix"]) for grant in who["grants"]] == [(f"group:{group}", "reader", name)]
    hidden(secured, name, user=eve)
    secured.admin("set_groups", {"user": ana, "groups": ["others"]})
    secured.settle()
    hidden(secured, name, user=ana)


def sizes(reply):
    """All values of `bytes` in a reply."""
    items = reply.values() if isinstance(reply, dict) else reply if isinstance(reply, list) else ()
    own = {reply["bytes"]} if isinstance(reply, dict) and "bytes" in reply else set()
    return own.union(*map(sizes, items))


def test_columns_that_are_not_granted_do_not_exist(secured, name):
    put(secured.client(), name, TABLE, **KEYED)
    ana, one = secured.add_user(("reader", name, ["c", "a"])), secured.add_user(("reader", name, ["nowhere", "a"]))
    visible = TABLE.select(["a", "c"])
    for member in secured.members():
        client = secured.client(member, user=ana)
        assert client.get_schema(descriptor(name)).schema.equals(visible.schema)
        info = client.get_flight_info(descriptor(name))
        assert info.schema.equals(visible.schema)
        by_info = [client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints]
        direct = [secured.redeem(endpoint, user=ana) for endpoint in info.endpoints]
        by_name = client.do_get(flight.Ticket(name.encode())).read_all()
        for rows in (pa.concat_tables(by_info), pa.concat_tables(direct), by_name):
            assert rows.sort_by("a").equals(visible), member.name
        chosen = secured.rows(name, user=ana, columns=["c"], member=member)
        assert sorted(chosen["c"].to_pylist()) == TABLE["c"].to_pylist() and chosen.num_columns == 1
        assert client.get_schema(descriptor(name, columns=["c"])).schema.names == ["c"]
        [found] = client.list_flights(name.encode())
        assert found.schema.equals(visible.schema)
        assert (info.total_bytes, found.total_bytes, info.total_records) == (-1, -1, 3), "the size is that of all columns"
        for reply in ("list_tables", "get_stats", "explain", "list_versions"):
            body = None if reply == "list_tables" else {"table": name}
            known, visible_to_all = action(client, reply, body), action(secured.client(member), reply, body)
            assert '"b"' not in json.dumps(known), reply
            assert sizes(known) == {None} and sizes(visible_to_all) - {None, 0}, reply
        assert secured.client(member, user=one).get_schema(descriptor(name)).schema.names == ["a"]


def test_hidden_column_cannot_be_told_from_an_unknown_one(secured, name):
    put(secured.client(), name, TABLE, **KEYED)
    ana = secured.add_user(("reader", name, ["a", "c"]))
    for member in secured.members():
        client = secured.client(member, user=ana)
        for call in (
            lambda column: client.get_flight_info(descriptor(name, columns=["a", column])),
            lambda column: client.get_schema(descriptor(name, columns=[column])),
            lambda column: client.do_get(flight.Ticket(json.dumps({"table": name, "columns": [column]}).encode())).read_all(),
        ):
            texts = []
            for column in ("b", "d"):
                with pytest.raises(pa.ArrowInvalid, match=f'has no column "{column}"; it has a, c') as error:
                    call(column)
                texts.append(re.search("table .*?it has a, c", str(error.value)).group())
            assert texts[0].replace('"b"', '"d"') == texts[1]


def test_columns_are_the_union_of_grants(secured, name):
    put(secured.client(), f"{name}/t", TABLE)
    group = name.replace("/", "-")
    ana = secured.add_user(("reader", name, ["a"]), groups=[group])
    names = lambda: secured.client(user=ana).get_schema(descriptor(f"{name}/t")).schema.names
    assert names() == ["a"]
    secured.grant(f"group:{group}", "reader", f"{name}/t", ["c"])
    secured.settle()
    assert names() == ["a", "c"]
    secured.grant(f"group:{group}", "reader", f"{name}/t")
    secured.settle()
    assert names() == ["a", "b", "c"]


def test_staged_write_belongs_to_those_who_may_write(secured, name):
    ana, bob, reader = (secured.add_user((role, name)) for role in ("writer", "writer", "reader"))
    stranger = secured.add_user(("writer", f"{name}_old"))
    begun = action(secured.client(user=ana), "begin_write", {"table": name, "mode": "create"})["write_id"]
    put(secured.client(secured.nodes[0], user=ana), name, TABLE, write_id=begun)
    for member in secured.members():
        for step in ("commit_write", "abort_write"):
            with pytest.raises(KeyError, match="there is no write"):
                action(secured.client(member, user=stranger), step, {"write_id": begun})
        for user, table in ((stranger, name), (reader, name)):
            refused = refusal_of(lambda: put_schema(secured.client(member, user=user), table, TABLE.schema, write_id=begun))
            assert isinstance(refused, flight.FlightUnauthorizedError)
        # By the id of a write of another table: its name is not said.
        with pytest.raises(pa.ArrowInvalid, match="in use") as error:
            put_schema(secured.client(member, user=stranger), f"{name}_old", TABLE.schema, write_id=begun)
        assert f'"{name}"' not in str(error.value)
    # Two writers of a table share its writes: a job stages, another one commits.
    put(secured.client(secured.nodes[1], user=bob), name, TABLE, write_id=begun)
    assert action(secured.client(user=bob), "commit_write", {"write_id": begun})["rows"] == 6
    assert secured.rows(name, user=reader).num_rows == 6


def test_staged_write_of_a_table_that_others_may_read(secured, name):
    ana, reader = secured.add_user(("writer", name)), secured.add_user(("reader", name))
    begun = action(secured.client(user=ana), "begin_write", {"table": name})["write_id"]
    for step in ("commit_write", "abort_write"):
        with pytest.raises(flight.FlightUnauthorizedError, match="writer"):
            action(secured.client(user=reader), step, {"write_id": begun})
    assert action(secured.client(user=ana), "abort_write", {"write_id": begun})["aborted"]


def test_quota_of_tables_is_refused_with_figures(secured, name):
    ana = secured.add_user(("owner", name))
    client = secured.client(user=ana)
    with pytest.raises(flight.FlightUnauthorizedError):
        action(client, "set_quota", {"prefix": name, "tables": 100})
    secured.admin("set_quota", {"prefix": name, "tables": 2})
    put(client, f"{name}/1", TABLE)
    put(client, f"{name}/2", TABLE)
    for call in (
        lambda member: put_schema(secured.client(member, user=ana), f"{name}/3", TABLE.schema),
        lambda member: action(secured.client(member, user=ana), "create_table", {
            "table": f"{name}/3", "fields": [{"name": "a", "type": "int64"}]}),
    ):
        for member in secured.members():
            with pytest.raises(pa.ArrowInvalid, match="has 2 tables, and its quota is 2"):
                call(member)
    put(client, f"{name}/2", TABLE, mode="append")
    action(client, "drop_table", {"table": f"{name}/1"})
    put(client, f"{name}/3", TABLE)
    [quota] = secured.admin("list_quotas", {"prefix": name})
    assert (quota["prefix"], quota["tables"], quota["tables_used"], quota["bytes"]) == (name, 2, 2, None)
    secured.admin("set_quota", {"prefix": name})
    assert secured.admin("list_quotas", {"prefix": name}) == []
    put(client, f"{name}/4", TABLE)


def test_quota_of_bytes_is_refused_with_figures(secured, name):
    ana = secured.add_user(("owner", name))
    client = secured.client(user=ana)
    big = pa.concat_tables([TABLE] * 40_000).combine_chunks()
    put(client, f"{name}/a", TABLE)
    used = action(client, "get_stats", {"table": f"{name}/a"})["bytes"]
    limit = used + 500_000
    secured.admin("set_quota", {"prefix": name, "bytes": limit})
    for mode, table in (("append", f"{name}/a"), ("replace", f"{name}/a"), ("create", f"{name}/b")):
        with pytest.raises(pa.ArrowInvalid, match=f"have {used} bytes.*quota is {limit}"):
            put(client, table, big, mode=mode)
    assert action(client, "get_stats", {"table": f"{name}/a"})["bytes"] == used
    secured.admin("set_quota", {"prefix": name, "bytes": 10_000_000})
    put(client, f"{name}/b", big)
    secured.admin("set_quota", {"prefix": name, "bytes": 1})
    # Over its quota it can still shrink.
    put(client, f"{name}/b", TABLE, mode="replace")
    [quota] = secured.admin("list_quotas", {"prefix": name})
    assert quota["bytes"] == 1 and 0 < quota["bytes_used"] < 100_000
    secured.admin("set_quota", {"prefix": name})
