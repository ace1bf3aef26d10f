"""Large results of queries, which are stored: whose they are, and until when they can be read."""

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import descriptor, put
from identity_cluster import ADMIN
from sql_calls import command, plan, sql_name
from test_protocol import field

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
# The smallest result is large for this cluster.
OPTIONS = {"coordinators": 1, "nodes": 2, "node_options": ("--sql-result-bytes", "1")}


def stored(cluster, name, user):
    """The FlightInfo of a query whose result is stored, for a user that may read the table."""
    statement = f"SELECT a, a + 1 AS more FROM {sql_name(name)} ORDER BY a DESC"
    info = plan(cluster.client(user=user), statement)
    assert info.endpoints and all(endpoint.locations for endpoint in info.endpoints), "the result is stored"
    return info


def read(cluster, info, user, member):
    client = cluster.client(member, user=user)
    return pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints])


def test_reader_gets_a_stored_result_that_nobody_else_gets(own_secured, name):
    cluster = own_secured(**OPTIONS)
    put(cluster.client(), name, TABLE, shareable_tickets=True)
    ana, eve = cluster.add_user(("reader", name)), cluster.add_user(("reader", name))
    with pytest.raises(flight.FlightUnauthorizedError):
        put(cluster.client(user=ana), name, TABLE)
    info = stored(cluster, name, ana)
    assert (info.total_records, info.ordered) == (3, True)
    expected = pa.table({"a": [3, 2, 1], "more": [4, 3, 2]}).to_pydict()
    for member in cluster.members():
        assert read(cluster, info, ana, member).to_pydict() == expected
        for user in (eve, ADMIN):
            with pytest.raises(flight.FlightUnauthorizedError):
                read(cluster, info, user, member)
        # The ticket as a descriptor plans it again, for its own principal.
        again = flight.FlightDescriptor.for_command(info.endpoints[0].ticket.ticket)
        assert cluster.client(member, user=ana).get_flight_info(again).total_records == 3
        with pytest.raises(flight.FlightUnauthorizedError):
            cluster.client(member, user=eve).get_flight_info(again)
        with pytest.raises(pa.ArrowInvalid, match="cannot be renewed"):
            renew = flight.Action("RenewFlightEndpoint", field(1, info.endpoints[0].serialize()))
            list(cluster.client(member, user=ana).do_action(renew))
        with pytest.raises(flight.FlightUnauthorizedError):
            cancel = flight.Action("CancelFlightInfo", field(1, info.serialize()))
            list(cluster.client(member, user=eve).do_action(cancel))


def test_stored_result_ends_with_the_rights_to_what_it_was_made_of(own_secured, name):
    cluster = own_secured(**OPTIONS)
    put(cluster.client(), name, TABLE)
    put(cluster.client(), f"{name}_other", TABLE)
    ana = cluster.add_user(("reader", name), ("reader", f"{name}_other"))
    info = stored(cluster, name, ana)
    # A right to another table changes nothing.
    cluster.revoke(f"user:{ana}", "reader", f"{name}_other")
    for member in cluster.members():
        assert read(cluster, info, ana, member)["a"].to_pylist() == [3, 2, 1]
    cluster.revoke(f"user:{ana}", "reader", name)
    for member in cluster.members():
        with pytest.raises((KeyError, flight.FlightUnauthorizedError)):
            read(cluster, info, ana, member)


def test_reader_of_some_columns_gets_a_stored_result_of_these(own_secured, name):
    cluster = own_secured(**OPTIONS)
    put(cluster.client(), name, TABLE)
    ana = cluster.add_user(("reader", name, ["a"]))
    info = stored(cluster, name, ana)
    assert read(cluster, info, ana, cluster.nodes[0])["more"].to_pylist() == [4, 3, 2]
    with pytest.raises(pa.ArrowInvalid):
        plan(cluster.client(user=ana), f"SELECT b FROM {sql_name(name)} ORDER BY b")
    # The root's own read of the table is as before.
    assert cluster.client().get_flight_info(descriptor(name)).total_records == 3


def test_ticket_as_a_command_takes_no_options_of_reads(own_secured, name):
    cluster = own_secured(**OPTIONS)
    put(cluster.client(), name, TABLE)
    info = stored(cluster, name, ADMIN)
    again = flight.FlightDescriptor.for_command(info.endpoints[0].ticket.ticket)
    options = flight.FlightCallOptions(headers=[(b"x-volley-limit", b"1")])
    with pytest.raises(pa.ArrowInvalid, match="max_endpoints"):
        cluster.client().get_flight_info(again, options)
    with pytest.raises(pa.ArrowInvalid, match="x-volley-max-endpoints"):
        options = flight.FlightCallOptions(headers=[(b"x-volley-max-endpoints", b"0")])
        cluster.client().get_flight_info(flight.FlightDescriptor.for_command(command("SELECT 1 AS one")), options)
