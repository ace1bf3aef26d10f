"""The cases of arrow-adbc's validation suite (c/validation of its release 24), which every driver runs against its database, by the
driver for Flight SQL. Each name of the suite is a case below, or is listed with the reason why it is none."""

import adbc_driver_flightsql
import adbc_driver_manager as adbc
import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcStatusCode, GetObjectsDepth

from adbc_types import INGESTED, READ_AS
from sql_calls import rows

MODES = {mode: f"adbc.ingest.mode.{mode}" for mode in ("create", "append", "replace", "create_append")}

# Cases of the suite that do not apply.
HANDLES = "the handles of the driver itself: no call is made"
KEYS = "there are no keys and constraints"
DELETES = "there is no DELETE; test_what_volley_lacks_is_refused"
NOT_APPLICABLE = {
    "DatabaseTest.NewInit": HANDLES,
    "DatabaseTest.Release": HANDLES,
    "ConnectionTest.NewInit": HANDLES,
    "ConnectionTest.Release": HANDLES,
    "ConnectionTest.MetadataGetObjectsConstraints": KEYS,
    "ConnectionTest.MetadataGetObjectsPrimaryKey": KEYS,
    "ConnectionTest.MetadataGetObjectsForeignKey": KEYS,
    "ConnectionTest.MetadataGetObjectsCancel": "the suite leaves it out for Flight SQL",
    "ConnectionTest.MetadataGetStatisticNames": "Flight SQL has no statistics",
    "StatementTest.NewInit": HANDLES,
    "StatementTest.Release": HANDLES,
    "StatementTest.SqlIngestTemporaryExclusive": "the name of a temporary table may have a schema, as that of any table",
    "StatementTest.SqlIngestPrimaryKey": KEYS,
    "StatementTest.SqlPrepareUpdateNoParams": "it is empty",
    "StatementTest.SqlQueryCancel": "the suite leaves it out for Flight SQL; test_cursor_is_cancelled of test_sql_adbc.py",
    "StatementTest.SqlQueryRowsAffectedDelete": DELETES,
    "StatementTest.SqlQueryRowsAffectedDeleteStream": DELETES,
    "StatementTest.ErrorCompatibility": "the layout of errors in C",
}
# Cases that fail: the test shows with what error.
FAILING = {
    "StatementTest.TestSqlIngestStreamZeroArrays": "the driver sends nothing at all for a stream without batches",
    "StatementTest.Transactions": "a query does not see what its own transaction has written; the rest of the case is a test",
}


@pytest.fixture(scope="module")
def database(shared):
    with adbc_driver_flightsql.connect(shared.address(shared.nodes[1])) as database:
        yield database


@pytest.fixture
def connection(database):
    with adbc.AdbcConnection(database) as connection:
        yield connection


class Suite:
    """What the cases have in common, with a schema of the test's own."""

    def __init__(self, connection, schema):
        self.connection, self.schema = connection, schema

    def table(self, name="bulk_ingest"):
        return f'"{self.schema}"."{name}"'

    def update(self, text, bound=None):
        with adbc.AdbcStatement(self.connection) as statement:
            statement.set_sql_query(text)
            if bound is not None:
                statement.prepare()
                statement.bind_stream(bound)
            return statement.execute_update()

    def query(self, text, bound=None, connection=None):
        with adbc.AdbcStatement(connection or self.connection) as statement:
            statement.set_sql_query(text)
            if bound is not None:
                statement.prepare()
                statement.bind_stream(bound)
            handle, _ = statement.execute_query()
            return pa.RecordBatchReader.from_stream(handle).read_all()

    def ingest(self, data, mode="create", name="bulk_ingest", **options):
        """Without `target_db_schema=None` into the schema of the test."""
        options = {"target_db_schema": self.schema} | options
        with adbc.AdbcStatement(self.connection) as statement:
            statement.set_options(**{
                "adbc.ingest.target_table": name,
                "adbc.ingest.mode": MODES[mode],
                **{f"adbc.ingest.{key}": value for key, value in options.items() if value is not None},
            })
            if data is not None:
                statement.bind_stream(data)
            return statement.execute_update()

    def sample(self, name="bulk_ingest"):
        self.update(f"CREATE TABLE {self.table(name)} (int64s BIGINT, strings TEXT)")
        assert self.update(f"INSERT INTO {self.table(name)} VALUES (42, 'foo'), (-42, NULL), (NULL, '')") == 3

    def objects(self, depth, **filters):
        """The rows of the catalogs."""
        handle = self.connection.get_objects(depth, **filters)
        return pa.RecordBatchReader.from_stream(handle).read_all().to_pylist()


@pytest.fixture
def suite(connection, name):
    return Suite(connection, name)


def ints(*values, column="int64s"):
    return pa.table({column: pa.array(values, pa.int64())})


def refused(call, *arguments, **options):
    """The code of the error with which a call fails."""
    with pytest.raises(adbc.Error) as error:
        call(*arguments, **options)
    return error.value.status_code


def shown(column):
    """The values as text, whatever the order of a dictionary."""
    return str(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)


@pytest.mark.parametrize("case", INGESTED)
def test_ingested_type_is_read_back(suite, case):
    """StatementTest.SqlIngest followed by the type."""
    for at, column in enumerate(INGESTED[case]):
        assert suite.ingest(pa.table({"col": column}), name=f"t{at}") == len(column)
        found = suite.query(f"SELECT * FROM {suite.table(f't{at}')} ORDER BY col ASC NULLS FIRST")
        assert found.schema.field("col").type == READ_AS.get(column.type, column.type)
        assert suite.query(f"SELECT * FROM {suite.table(f't{at}')}").schema.field("col").type == column.type
        # By the text: Python has no nanoseconds, and no months.
        assert shown(found["col"].combine_chunks()) == shown(column)


# StatementTest.SqlIngest...

def test_names_that_are_words_are_ingested(suite):
    """SqlIngestTableEscaping, SqlIngestColumnEscaping."""
    for name in ("create_table_escaping", "create"):
        assert suite.ingest(ints(42, -42, None, column="index"), name=name) == 3
        assert suite.query(f'SELECT "index" FROM {suite.table(name)}').num_rows == 3


def test_modes_of_an_ingest(suite):
    """SqlIngestAppend, SqlIngestReplace, SqlIngestCreateAppend."""
    for first, then, expected in (
        ("create", "append", [-42, 42, None]), ("replace", "replace", [-42, None]), ("create_append", "create_append", [-42, 42, None]),
    ):
        assert suite.ingest(ints(42), first, name=first) == 1
        assert suite.ingest(ints(-42, None), then, name=first) == 2
        found = suite.query(f"SELECT * FROM {suite.table(first)} ORDER BY int64s")
        assert found.schema.equals(ints().schema) and found["int64s"].to_pylist() == expected


def test_temporary_tables_are_ingested(suite):
    """SqlIngestTemporary, SqlIngestTemporaryAppend, SqlIngestTemporaryReplace."""
    assert suite.ingest(ints(42, -42, None), temporary="true") == 3
    suite.update(f"DROP TABLE {suite.table()}")
    assert suite.ingest(ints(42, -42, None), temporary="false") == 3
    assert suite.ingest(ints(42), name="temporary", temporary="true") == 1
    for mode, expected in (("append", 3), ("replace", 2)):
        assert suite.ingest(ints(-42, None), mode, name="temporary", temporary="true") == 2
        assert suite.query(f"SELECT * FROM {suite.table('temporary')}").num_rows == expected


def test_errors_of_an_ingest(suite):
    """SqlIngestErrors."""
    assert refused(suite.ingest, None) == AdbcStatusCode.INVALID_STATE
    assert refused(suite.ingest, ints(-42), "append") == AdbcStatusCode.NOT_FOUND
    assert suite.ingest(ints(-42, None)) == 2
    assert refused(suite.ingest, ints(-42)) == AdbcStatusCode.ALREADY_EXISTS
    wider = pa.table({"int64s": [-42], "coltwo": [-42]})
    refused(suite.ingest, wider, "append")
    assert suite.query(f"SELECT * FROM {suite.table()}").num_rows == 2


def test_another_connection_reads_what_was_ingested(suite, database):
    """SqlIngestMultipleConnections, ConnectionTest.Concurrent."""
    assert suite.ingest(ints(42, -42, None)) == 3
    with adbc.AdbcConnection(database) as other:
        found = suite.query(f"SELECT * FROM {suite.table()} ORDER BY int64s DESC NULLS LAST", connection=other)
    assert found["int64s"].to_pylist() == [42, -42, None]


def test_sample_is_read_in_order(suite):
    """SqlIngestSample."""
    suite.sample()
    found = suite.query(f"SELECT * FROM {suite.table()} ORDER BY int64s ASC NULLS FIRST")
    assert found.to_pydict() == {"int64s": [None, -42, 42], "strings": ["", None, "foo"]}


def test_targets_of_an_ingest(suite, name):
    """SqlIngestTargetCatalog, SqlIngestTargetSchema, SqlIngestTargetCatalogSchema."""
    alone = name.replace("/", "_")
    assert suite.ingest(ints(42), name=alone, target_catalog="volley", target_db_schema=None) == 1
    assert suite.query(f'SELECT * FROM "{alone}"').num_rows == 1
    assert suite.update(f'DROP TABLE "{alone}"') == 0
    assert suite.ingest(ints(42), name="a") == 1
    assert suite.ingest(ints(42), name="b", target_catalog="volley") == 1


def test_partitions_are_read_by_another_connection(suite, database):
    """SqlPartitionedInts."""
    with adbc.AdbcStatement(suite.connection) as statement, adbc.AdbcConnection(database) as other:
        statement.set_sql_query("SELECT 42")
        partitions, _, _ = statement.execute_partitions()
        parts = [pa.RecordBatchReader.from_stream(other.read_partition(partition)).read_all() for partition in partitions]
    assert [value for part in parts for value in part.column(0).to_pylist()] == [42]


# StatementTest.SqlPrepare...

def test_prepared_queries(suite):
    """SqlPrepareGetParameterSchema, SqlPrepareSelectNoParams, SqlPrepareSelectParams, SqlPrepareErrorNoQuery,
    SqlPrepareErrorParamCountMismatch."""
    with adbc.AdbcStatement(suite.connection) as statement:
        assert refused(statement.prepare) == AdbcStatusCode.INVALID_STATE
        statement.set_sql_query("SELECT ?, ?")
        statement.prepare()
        assert len(pa.schema(statement.get_parameter_schema())) == 2
        statement.set_sql_query("SELECT 1")
        statement.prepare()
        handle, _ = statement.execute_query()
        assert pa.RecordBatchReader.from_stream(handle).read_all().column(0).to_pylist() == [1]
    refused(suite.query, "SELECT ?, ?", bound=ints(42))
    one = pa.table({"int64s": pa.array([42]), "strings": ["bar"]})
    assert rows(suite.query("SELECT ? AS a, ? AS b", bound=one)) == [(42, "bar")]
    several = pa.table({"int64s": pa.array([42, -42, None]), "strings": ["", None, "bar"]})
    found = suite.query("SELECT ? AS int64s, ? AS strings", bound=several)
    assert found.equals(several), "one result after the other"


def test_prepared_inserts(suite):
    """SqlPrepareUpdate, SqlPrepareUpdateStream, SqlBind."""
    assert suite.ingest(ints(42, -42, None)) == 3
    insert, select = f"INSERT INTO {suite.table()} VALUES (?)", f"SELECT * FROM {suite.table()} ORDER BY int64s NULLS FIRST"
    assert suite.update(insert, bound=ints(42, -42, None)) == 3
    assert suite.query(select)["int64s"].to_pylist() == [None, None, -42, -42, 42, 42]
    batches = [batch for part in (ints(1, 2, None, 3), ints(None, 3)) for batch in part.to_batches()]
    assert suite.update(insert, bound=pa.RecordBatchReader.from_batches(batches[0].schema, batches)) == 6
    assert suite.query(select).num_rows == 12
    suite.update(f"CREATE TABLE {suite.table('bindtest')} (col1 INTEGER, col2 TEXT)")
    values = pa.Table.from_arrays([pa.array([None, -123, 123], pa.int32()), pa.array(["abc", None, "defg"])], names=["", ""])
    assert suite.update(f"INSERT INTO {suite.table('bindtest')} VALUES (?, ?)", bound=values) == 3
    found = suite.query(f"SELECT * FROM {suite.table('bindtest')} ORDER BY col1 NULLS FIRST")
    assert found.to_pydict() == {"col1": [None, -123, 123], "col2": ["abc", None, "defg"]}


# StatementTest.SqlQuery..., SqlSchema... and the rest.

def test_queries_of_literals(suite):
    """SqlQueryInts, SqlQueryFloats, SqlQueryStrings, SqlQueryTrailingSemicolons, SqlSchemaInts, SqlSchemaFloats, SqlSchemaStrings."""
    for text, types, value in (
        ("SELECT 42", (pa.int32(), pa.int64()), 42),
        ("SELECT CAST(1.5 AS FLOAT)", (pa.float32(), pa.float64()), 1.5),
        ("SELECT 'SaShiSuSeSo'", (pa.string(), pa.large_string()), "SaShiSuSeSo"),
    ):
        found = suite.query(text)
        assert found.column(0).type in types and found.column(0).to_pylist() == [value]
        with adbc.AdbcStatement(suite.connection) as statement:
            statement.set_sql_query(text)
            assert pa.schema(statement.execute_schema()).types == found.schema.types
    assert suite.query("SELECT current_date;;;").num_rows == 1


def test_empty_and_wrong_queries(suite):
    """SqlQueryEmpty, SqlQueryErrors, SqlSchemaErrors."""
    suite.update(f"CREATE TABLE {suite.table('queryempty')} (FOO INT)")
    found = suite.query(f"SELECT * FROM {suite.table('queryempty')} WHERE 1=0")
    assert found.num_rows == 0 and found.schema.names == ["foo"]
    assert refused(suite.query, "this is not a query") == AdbcStatusCode.INVALID_ARGUMENT
    with adbc.AdbcStatement(suite.connection) as statement:
        assert refused(statement.execute_schema) == AdbcStatusCode.INVALID_STATE


def test_results_of_several_statements(suite):
    """ConcurrentStatements, ResultIndependence, ResultInvalidation."""
    with adbc.AdbcStatement(suite.connection) as one, adbc.AdbcStatement(suite.connection) as other:
        readers = []
        for statement in (one, other, one):
            statement.set_sql_query("SELECT 'SaShiSuSeSo'")
            readers.append(pa.RecordBatchReader.from_stream(statement.execute_query()[0]))
    assert [reader.schema.types for reader in readers] == 3 * [[pa.string()]]


def test_transactions(suite, database):
    """SqlQueryInsertRollback, Transactions."""
    suite.connection.set_autocommit(False)
    suite.update(f"CREATE TABLE {suite.table('rollbacktest')} (a INT)")
    suite.connection.commit()
    assert suite.update(f"INSERT INTO {suite.table('rollbacktest')} (a) VALUES (1)") == 1
    suite.connection.rollback()
    assert suite.query(f"SELECT * FROM {suite.table('rollbacktest')}").num_rows == 0
    select = f"SELECT * FROM {suite.table()}"
    with adbc.AdbcConnection(database) as other:
        for end in (suite.connection.rollback, suite.connection.commit):
            suite.sample()
            assert refused(suite.query, select, connection=other) == AdbcStatusCode.NOT_FOUND
            end()
        assert suite.query(select, connection=other).num_rows == 3


# ConnectionTest.

def test_autocommit_is_on_and_a_namespace_is_current(connection):
    """AutocommitDefault, AutocommitToggle, MetadataCurrentCatalog, MetadataCurrentDbSchema."""
    assert refused(connection.commit) == refused(connection.rollback) == AdbcStatusCode.INVALID_STATE
    for option, current in (("adbc.connection.catalog", "volley"), ("adbc.connection.db_schema", "default")):
        assert connection.get_option(option) == current
        connection.set_options(**{option: current})
        assert refused(connection.set_options, **{option: "other"}) == AdbcStatusCode.INVALID_ARGUMENT
        assert connection.get_option(option) == current
    for enabled in (True, False, False, True):
        connection.set_autocommit(enabled)


def test_information_about_the_server(connection):
    """MetadataGetInfo, MetadataGetTableTypes."""
    found = pa.RecordBatchReader.from_stream(connection.get_info([0, 1, 100, 103])).read_all()
    info = {row["info_name"]: row["info_value"] for row in found.to_pylist()}
    assert info[0] == "Volley" and info[1] and "Flight SQL" in info[100] and info[103]
    types = pa.RecordBatchReader.from_stream(connection.get_table_types()).read_all()
    assert types.to_pydict() == {"table_type": ["TABLE"]} and not types.schema.field(0).nullable


def test_schema_of_a_table(suite, name):
    """MetadataGetTableSchema, MetadataGetTableSchemaDbSchema, MetadataGetTableSchemaEscaping, MetadataGetTableSchemaNotFound."""
    alone, get = name.replace("/", "_"), suite.connection.get_table_schema
    suite.sample(alone)
    expected = pa.schema([("int64s", pa.int64()), ("strings", pa.string())])
    for schema in (None, suite.schema):
        assert pa.schema(get(None, schema, alone)).equals(expected)
    for missing in ("(SELECT CURRENT_TIME)", "thistabledoesnotexist"):
        assert refused(get, None, None, missing) == AdbcStatusCode.NOT_FOUND


def test_objects_to_each_depth(suite):
    """MetadataGetObjectsCatalogs, -DbSchemas, -Tables, -TablesTypes, -Columns."""
    suite.sample()
    assert suite.objects(GetObjectsDepth.CATALOGS) == [{"catalog_name": "volley", "catalog_db_schemas": None}]
    assert suite.objects(GetObjectsDepth.CATALOGS, catalog="this catalog does not exist") == []
    [catalog] = suite.objects(GetObjectsDepth.DB_SCHEMAS, db_schema=suite.schema)
    assert catalog["catalog_db_schemas"] == [{"db_schema_name": suite.schema, "db_schema_tables": None}]
    [catalog] = suite.objects(GetObjectsDepth.DB_SCHEMAS, db_schema="this schema does not exist")
    assert catalog["catalog_db_schemas"] == []
    for filters, names in (
        ({}, ["bulk_ingest"]), ({"table_name": "bulk_%"}, ["bulk_ingest"]), ({"table_name": "asdf%"}, []),
        ({"table_types": ["this_table_type_does_not_exist"]}, []), ({"table_types": ["TABLE"]}, ["bulk_ingest"]),
    ):
        [catalog] = suite.objects(GetObjectsDepth.TABLES, db_schema=suite.schema, **filters)
        tables = [table for schema in catalog["catalog_db_schemas"] for table in schema["db_schema_tables"]]
        assert [(table["table_name"], table["table_columns"]) for table in tables] == [(name, None) for name in names]
    for pattern, names in ((None, ["int64s", "strings"]), ("in%", ["int64s"])):
        [catalog] = suite.objects(GetObjectsDepth.ALL, db_schema=suite.schema, column_name=pattern)
        columns = catalog["catalog_db_schemas"][0]["db_schema_tables"][0]["table_columns"]
        assert [column["column_name"] for column in columns] == names


def test_what_volley_lacks_is_refused(suite):
    assert suite.ingest(ints(1, 2, 3)) == 3
    assert refused(suite.update, f"DELETE FROM {suite.table()} WHERE int64s > 1") == AdbcStatusCode.NOT_IMPLEMENTED
    assert suite.query(f"SELECT * FROM {suite.table()}").num_rows == 3


def test_failing_cases_fail_with_an_error(suite):
    """Those of FAILING."""
    empty = pa.RecordBatchReader.from_batches(ints().schema, [])
    refused(suite.ingest, empty, name="nothing")
    suite.connection.set_autocommit(False)
    suite.sample()
    refused(suite.query, f"SELECT * FROM {suite.table()}")
