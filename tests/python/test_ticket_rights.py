"""Tickets and principals: who may redeem, renew and cancel a ticket, also after the grants have changed."""

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import descriptor, finish, put, wait_until
from identity_cluster import ADMIN, put_schema, refusal_of
from protobuf import field

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [1.5, 2.5, 3.5]})


def planned(cluster, name, user, **options):
    """The one endpoint of a table, for a user."""
    [endpoint] = cluster.client(user=user).get_flight_info(descriptor(name, **options)).endpoints
    return endpoint


def redeem_everywhere(cluster, endpoint, user):
    """What each member gives a user for a ticket: a table, or an error."""
    found = []
    for member in cluster.members():
        with cluster.client(member, user=user) as client:
            try:
                found.append(client.do_get(endpoint.ticket).read_all())
            except (flight.FlightError, KeyError) as error:
                found.append(error)
    return found


def test_ticket_of_another_principal_is_refused(secured, name):
    put(secured.client(), name, TABLE)
    ana, eve = secured.add_user(("reader", name)), secured.add_user(("reader", name))
    endpoint = planned(secured, name, ana)
    assert all(rows.equals(TABLE) for rows in redeem_everywhere(secured, endpoint, ana))
    for user in (eve, secured.add_user(), ADMIN):
        for error in redeem_everywhere(secured, endpoint, user):
            assert isinstance(error, flight.FlightUnauthorizedError), error
            assert "get_flight_info again" in str(error) and "shareable_tickets" in str(error)
    for error in redeem_everywhere(secured, endpoint, None):
        assert isinstance(error, flight.FlightUnauthenticatedError), error


def test_ticket_serves_each_way_in_which_its_principal_logs_in(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name))
    endpoint, token = planned(secured, name, ana), secured.token(ana)
    secured.settle()
    for other in (token, secured.login(ana)):
        assert secured.redeem(endpoint, token=other).equals(TABLE)


def test_table_option_shares_tickets(secured, name):
    put(secured.client(), name, TABLE, shareable_tickets=True)
    ana, eve = secured.add_user(("reader", name)), secured.add_user()
    endpoint = planned(secured, name, ana)
    assert all(rows.equals(TABLE) for rows in redeem_everywhere(secured, endpoint, eve))
    # The ticket is shared, not the table, and only with principals.
    with pytest.raises(KeyError):
        planned(secured, name, eve)
    for error in redeem_everywhere(secured, endpoint, None):
        assert isinstance(error, flight.FlightUnauthenticatedError), error
    # Its planner's rights are what it is worth.
    secured.revoke(f"user:{ana}", "reader", name)
    for error in redeem_everywhere(secured, endpoint, eve):
        assert isinstance(error, (KeyError, flight.FlightUnauthorizedError)), error


def test_setting_shares_tickets_of_all_tables(own_secured):
    cluster = own_secured(
        coordinators=1, nodes=1, coordinator_options=("--shareable-tickets",), node_options=("--shareable-tickets",)
    )
    put(cluster.client(), "t", TABLE)
    ana, eve = cluster.add_user(("reader", "t")), cluster.add_user()
    endpoint = planned(cluster, "t", ana)
    assert all(rows.equals(TABLE) for rows in redeem_everywhere(cluster, endpoint, eve))
    with pytest.raises(KeyError):
        planned(cluster, "t", eve)


def test_revoked_right_ends_tickets(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name))
    endpoint = planned(secured, name, ana)
    assert secured.redeem(endpoint, ana).equals(TABLE)
    secured.revoke(f"user:{ana}", "reader", name)
    for error in redeem_everywhere(secured, endpoint, ana):
        assert isinstance(error, KeyError) and f'there is no table "{name}"' in str(error), error


def test_open_streams_outlive_a_revoked_right(secured, name):
    # Some 64 MB: more than windows and socket buffers hold, so that the gets run until they are read.
    table = pa.table({"i": np.arange(8_000_000)})
    put(secured.client(), f"{name}/read", table, chunk=100_000, max_endpoints=1)
    ana = secured.add_user(("reader", f"{name}/read"), ("writer", f"{name}/put"))
    endpoint, gets, puts = planned(secured, f"{name}/read", ana), [], []
    members = (secured.nodes[0], secured.coordinators[0])
    for member in members:
        client, target = secured.client(member, user=ana), f"{name}/put/{member.name}"
        reader = client.do_get(endpoint.ticket)
        gets.append((client, reader, reader.read_chunk().data.num_rows))
        writer, acks = client.do_put(descriptor(target), TABLE.schema)
        writer.write_table(TABLE)
        puts.append((client, target, writer, acks))
    secured.revoke(f"user:{ana}", "reader", f"{name}/read")
    secured.revoke(f"user:{ana}", "writer", f"{name}/put")
    for client, reader, first in gets:
        with pytest.raises(KeyError):
            client.do_get(endpoint.ticket).read_chunk()
        assert first + reader.read_all().num_rows == table.num_rows
    for client, target, writer, acks in puts:
        assert isinstance(refusal_of(lambda: put_schema(client, f"{name}/put/new", TABLE.schema)), flight.FlightUnauthorizedError)
        writer.write_table(TABLE)
        assert finish(writer, acks)["rows"] == 2 * TABLE.num_rows
        assert secured.rows(target).num_rows == 2 * TABLE.num_rows


def test_ticket_outlives_changes_that_do_not_concern_it(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name), ("writer", f"{name}/x"))
    endpoint = planned(secured, name, ana)
    secured.grant(f"user:{ana}", "owner", name)
    secured.revoke(f"user:{ana}", "writer", f"{name}/x")
    secured.revoke(f"user:{ana}", "reader", name)
    assert all(rows.equals(TABLE) for rows in redeem_everywhere(secured, endpoint, ana))


def test_change_of_columns_ends_tickets(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name))
    whole = planned(secured, name, ana)
    secured.grant(f"user:{ana}", "reader", name, ["a"])
    secured.settle()
    for error in redeem_everywhere(secured, whole, ana):
        assert isinstance(error, flight.FlightUnauthorizedError) and "get_flight_info again" in str(error), error
    narrow = planned(secured, name, ana)
    assert all(rows.equals(TABLE.select(["a"])) for rows in redeem_everywhere(secured, narrow, ana))
    secured.grant(f"user:{ana}", "reader", name)
    secured.settle()
    # More than it was planned for: it gives what it was planned for.
    assert all(rows.equals(TABLE.select(["a"])) for rows in redeem_everywhere(secured, narrow, ana))


def cancel(client, info):
    [reply] = client.do_action(flight.Action("CancelFlightInfo", field(1, info.serialize())))
    return reply


def renew(client, endpoint):
    request = field(1, endpoint.serialize())
    [reply] = client.do_action(flight.Action("RenewFlightEndpoint", request))
    return flight.FlightEndpoint.deserialize(reply.body.to_pybytes())


def test_only_its_principal_renews_and_cancels_a_ticket(secured, name):
    put(secured.client(), name, TABLE, shareable_tickets=True)
    ana, eve = secured.add_user(("reader", name)), secured.add_user(("reader", name))
    info = secured.client(user=ana).get_flight_info(descriptor(name))
    for member in secured.members():
        for call in (lambda client: renew(client, info.endpoints[0]), lambda client: cancel(client, info)):
            with pytest.raises(flight.FlightUnauthorizedError):
                call(secured.client(member, user=eve))
            with pytest.raises(flight.FlightUnauthenticatedError):
                call(secured.client(member, user=None))
        renewed = renew(secured.client(member, user=ana), info.endpoints[0])
        assert secured.redeem(renewed, ana).equals(TABLE)
    cancel(secured.client(user=ana), info)

    def cancelled():
        found = redeem_everywhere(secured, info.endpoints[0], ana)
        return all(isinstance(error, flight.FlightCancelledError) for error in found)

    wait_until(cancelled, 10, "every member knows that the ticket is cancelled")


def test_ticket_of_another_cluster_is_refused(own, secured, name):
    other = own(coordinators=1, nodes=1)
    put(other.client(), name, TABLE)
    put(secured.client(), name, TABLE)
    [endpoint] = other.client().get_flight_info(descriptor(name)).endpoints
    for error in redeem_everywhere(secured, endpoint, ADMIN):
        assert isinstance(error, flight.FlightUnauthorizedError), error


def test_first_administrator_closes_an_open_cluster(own, tmp_path):
    """Grants and tickets of before are worth nothing to who has no identity."""
    cluster = own(coordinators=1, nodes=1)
    put(cluster.client(), "t", TABLE)
    [endpoint] = cluster.client().get_flight_info(descriptor("t")).endpoints
    [coordinator], [node] = cluster.coordinators, cluster.nodes
    file = tmp_path / "administrator"
    file.write_text("root:a long password\n")
    coordinator.stop()
    coordinator.command += ["--bootstrap-admin-file", str(file)]
    coordinator.start().wait_ready()

    def refused():
        found = []
        for member in (coordinator, node):
            with flight.connect(cluster.address(member)) as client:
                for call in (lambda: list(client.list_flights()), lambda: client.do_get(endpoint.ticket).read_all()):
                    try:
                        call()
                        return False
                    except flight.FlightUnavailableError:
                        return False
                    except flight.FlightUnauthenticatedError as error:
                        found.append(error)
        return len(found) == 4

    def logged_in():
        try:
            return client.authenticate_basic_token("root", "a long password", flight.FlightCallOptions(timeout=30))
        except flight.FlightUnavailableError as early:
            assert "no user yet" in str(early), early

    wait_until(refused, 30, "both members refuse whoever has no identity")
    with cluster.client() as client:
        pair = wait_until(logged_in, 30, "the first administrator can log in")
        options = flight.FlightCallOptions(headers=[pair])
        [endpoint] = client.get_flight_info(descriptor("t"), options).endpoints
        assert client.do_get(endpoint.ticket, options).read_all().equals(TABLE)
