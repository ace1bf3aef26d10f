"""The time limit of a session's statements, by ADBC, which keeps the session's cookie if it is told to."""

import adbc_driver_flightsql.dbapi as dbapi
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions

from sql_calls import ENDLESS, sql_name

COOKIES = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
LIMIT = f"{ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value}statement_timeout"
NO_LIMIT = f"{ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value}statement_timeout"


def connect(shared, member):
    return dbapi.connect(shared.address(member), autocommit=True, db_kwargs=COOKIES)


def limit(connection, value):
    connection.adbc_connection.set_options(**{LIMIT: value})


def ended(connection, statement):
    """The error with which a query ends."""
    with connection.cursor() as cursor, pytest.raises(dbapi.Error) as error:
        cursor.execute(statement)
        cursor.fetchall()
    return str(error.value)


def test_session_limits_the_time_of_its_statements(shared):
    for member in (shared.coordinators[0], shared.nodes[1]):
        with connect(shared, member) as connection:
            limit(connection, "500ms")
            assert "0.5 s, which is the limit of its session" in ended(connection, ENDLESS), member.name
            limit(connection, 1)
            assert "longer than 1 s" in ended(connection, ENDLESS)
            limit(connection, "1h")
            with connection.cursor() as cursor:
                cursor.execute("SELECT 7 AS seven")
                assert cursor.fetchall() == [(7,)]


def test_change_that_takes_too_long_changes_nothing(shared, name):
    with connect(shared, shared.coordinators[1]) as connection, connection.cursor() as cursor:
        table = sql_name(name)
        cursor.executemany(f"CREATE TABLE {table} (n BIGINT)", None)
        limit(connection, 0.5)
        with pytest.raises(dbapi.Error, match="option statement_timeout"):
            cursor.executemany(f"INSERT INTO {table} {ENDLESS}", None)
        limit(connection, 0)
        cursor.execute(f"SELECT count(*) AS n FROM {table}")
        assert cursor.fetchall() == [(0,)]


def test_limit_is_told_by_every_member_as_it_was_set(shared):
    # A node asks any coordinator, of which only one has made the session.
    for member in (shared.coordinators[2], shared.nodes[0]):
        with connect(shared, member) as connection:
            session = connection.adbc_connection
            for _ in range(4):
                limit(connection, "1.5 min")
                assert session.get_option(LIMIT) == "90s"
                limit(connection, 30)
                assert session.get_option_int(LIMIT) == 30
                limit(connection, 0.25)
                assert session.get_option_float(LIMIT) == 0.25
            assert session.get_option("adbc.connection.catalog") == "volley"
            session.set_options(**{NO_LIMIT: ""})
            with pytest.raises(dbapi.Error):
                session.get_option(LIMIT)


def test_what_is_no_limit_is_refused(shared):
    with connect(shared, shared.coordinators[0]) as connection:
        for value in ("soon", "5m", -1, float("nan")):
            with pytest.raises(dbapi.Error, match="statement_timeout.*30s"):
                limit(connection, value)
        with pytest.raises(dbapi.Error, match="setting of the nodes"):
            connection.adbc_connection.set_options(**{f"{LIMIT}_s": 30})


def test_sessions_do_not_share_their_limit(shared):
    member = shared.coordinators[0]
    with connect(shared, member) as one, connect(shared, member) as other:
        limit(one, "1h")
        with pytest.raises(dbapi.Error):
            other.adbc_connection.get_option(LIMIT)
        assert one.adbc_connection.get_option(LIMIT) == "3600s"
