"""The time limit of a session's statements, by ADBC, which keeps the session's cookie if it is told to."""

import time

import adbc_driver_flightsql.dbapi as dbapi
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions

from sql_calls import ENDLESS, sql_name

COOKIES = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
LIMIT = f"{ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value}statement_timeout"
NO_LIMIT = f"{ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value}statement_timeout"


def connect(shared, member):
    return dbapi.connect(shared.address(member), autocommit=True, db_kwargs=COOKIES)


def kept_limit(connection, form):
    """The limit in the cookie that the driver has; None without one of this type."""
    session = connection.adbc_connection
    get = {str: session.get_option, int: session.get_option_int, float: session.get_option_float}[form]
    try:
        return get(LIMIT)
    except dbapi.Error:
        return None


def limit(connection, value, shown=None):
    """Sets the limit, which is shown as this, and waits until the driver has kept the cookie.

    arrow-go now and then drops the headers of a response, and the cookie with them: when the end of a stream cancels its context,
    a goroutine that waits for that may call `finishFunc` before `RecvMsg` does (arrow/flight/client.go).
    """
    shown = value if shown is None else shown
    forms = [type(shown)] if shown else [str, int, float]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        connection.adbc_connection.set_options(**{LIMIT if value != "" else NO_LIMIT: value})
        kept = [kept_limit(connection, form) for form in forms]
        if kept == [shown or None] * len(forms):
            return
    raise AssertionError(f"{value!r} is kept as {kept!r}")


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
            limit(connection, "1h", "3600s")
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
            for _ in range(4):
                limit(connection, "1.5 min", "90s")
                limit(connection, 30)
                limit(connection, 0.25)
            assert connection.adbc_connection.get_option("adbc.connection.catalog") == "volley"
            limit(connection, "")


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
        limit(one, "1h", "3600s")
        with pytest.raises(dbapi.Error):
            other.adbc_connection.get_option(LIMIT)
        assert one.adbc_connection.get_option(LIMIT) == "3600s"
