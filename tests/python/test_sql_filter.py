"""Filters of reads (`where`) against the same filter by pyarrow.compute over the whole table."""

import datetime
import json
import uuid

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, get, put, read_endpoint
from sql_calls import sql_name, update
from tls_cluster import volley

ROWS = 3000
DAY = datetime.date(2026, 1, 1)
NOON = datetime.datetime(2026, 1, 1, 12)
UTC_NOON = NOON.replace(tzinfo=datetime.timezone.utc)


def every(modulus, value, otherwise=None):
    """Values with nulls among them."""
    return [otherwise if i % modulus == 0 else value(i) for i in range(ROWS)]


SAMPLE = pa.table({
    "id": pa.array(range(ROWS), pa.int64()),
    "i8": pa.array(every(7, lambda i: i % 200 - 100), pa.int8()),
    "u32": pa.array(every(11, lambda i: i * 1_000_000), pa.uint32()),
    "f32": pa.array(every(5, lambda i: i / 4 - 300), pa.float32()),
    "f64": pa.array(every(13, lambda i: i / 8 - 150), pa.float64()),
    "flag": pa.array(every(3, lambda i: i % 2 == 0), pa.bool_()),
    "name": pa.array(every(9, lambda i: ("ant", "Bee", "", "größe", "a%b", "it's")[i % 6]), pa.string()),
    "big": pa.array(every(8, lambda i: f"text {i % 50}"), pa.large_string()),
    "kind": pa.array(every(10, lambda i: f"k{i % 4}"), pa.string()).dictionary_encode(),
    "bin": pa.array(every(6, lambda i: bytes([i % 5])), pa.binary()),
    "price": pa.array(every(12, lambda i: i), pa.decimal128(12, 2)),
    "day": pa.array(every(14, lambda i: DAY + datetime.timedelta(days=i % 60)), pa.date32()),
    "at": pa.array(every(15, lambda i: NOON + datetime.timedelta(minutes=i)), pa.timestamp("us")),
    "at_utc": pa.array(every(16, lambda i: UTC_NOON + datetime.timedelta(minutes=i)), pa.timestamp("ms", "UTC")),
    "clock": pa.array(every(17, lambda i: datetime.time(i % 24, i % 60)), pa.time64("us")),
    "items": pa.array(every(18, lambda i: [i % 5, None, i % 3]), pa.list_(pa.int32())),
    "pair": pa.array(every(19, lambda i: {"x": i, "y": str(i % 4)}), pa.struct([("x", pa.int32()), ("y", pa.string())])),
    "nothing": pa.nulls(ROWS, pa.int32()),
    "Upper Case": pa.array([i % 6 for i in range(ROWS)], pa.int16()),
})
S = SAMPLE


def among(column, values):
    """IN: of a null value it is null."""
    return pc.if_else(pc.is_null(S[column]), None, pc.is_in(S[column], pa.array(values, S[column].type)))


def listed(condition):
    """A mask by Python, for what pyarrow.compute does not have."""
    return pa.array([condition(row) for row in S.select(["id", "items", "pair"]).to_pylist()], pa.bool_())


OR, AND, NOT = pc.or_kleene, pc.and_kleene, pc.invert
FILTERS = {
    "id > 2900": lambda: pc.greater(S["id"], 2900),
    "id >= 10 AND id <= 20 OR id IN (1, 3, 2999)": lambda: OR(
        AND(pc.greater_equal(S["id"], 10), pc.less_equal(S["id"], 20)), among("id", [1, 3, 2999])),
    "id BETWEEN 100 AND 200 AND NOT id % 2 = 0": lambda: AND(
        AND(pc.greater_equal(S["id"], 100), pc.less_equal(S["id"], 200)), pc.not_equal(pc.bit_wise_and(S["id"], 1), 0)),
    "id <> 5": lambda: pc.not_equal(S["id"], 5),
    "id > -1": lambda: pc.greater(S["id"], -1),
    "false": lambda: pa.array([False] * ROWS),
    "true": lambda: pa.array([True] * ROWS),
    "null": lambda: pa.nulls(ROWS, pa.bool_()),
    "i8 < 0": lambda: pc.less(S["i8"], 0),
    "i8 * 1000 > 50000": lambda: pc.greater(S["i8"], 50),
    "abs(i8) = 99": lambda: pc.equal(pc.abs(S["i8"]), 99),
    "coalesce(i8, 0) = 0": lambda: pc.equal(pc.coalesce(S["i8"], pa.scalar(0, pa.int8())), 0),
    "i8 NOT IN (1, 2, 3)": lambda: NOT(among("i8", [1, 2, 3])),
    "u32 >= 2500000000": lambda: pc.greater_equal(S["u32"], 2_500_000_000),
    "u32 > i8": lambda: pc.greater(S["u32"].cast(pa.int64()), S["i8"].cast(pa.int64())),
    "f32 < -250.25": lambda: pc.less(S["f32"], -250.25),
    "f64 > 100 AND f64 <= 101.5": lambda: AND(pc.greater(S["f64"], 100), pc.less_equal(S["f64"], 101.5)),
    "f64 * 8 = id - 1200": lambda: pc.equal(pc.multiply(S["f64"], 8), pc.subtract(S["id"], 1200).cast(pa.float64())),
    "f32 + f64 > 200": lambda: pc.greater(pc.add(S["f32"].cast(pa.float64()), S["f64"]), 200),
    "flag": lambda: S["flag"],
    "NOT flag": lambda: NOT(S["flag"]),
    "flag IS NOT TRUE": lambda: NOT(pc.fill_null(S["flag"], False)),
    "flag = true OR id < 10": lambda: OR(S["flag"], pc.less(S["id"], 10)),
    "flag AND nothing IS NULL": lambda: S["flag"],
    "nothing = 1": lambda: pa.nulls(ROWS, pa.bool_()),
    "nothing IS DISTINCT FROM 1": lambda: pa.array([True] * ROWS),
    "name = 'ant'": lambda: pc.equal(S["name"], "ant"),
    "name = ''": lambda: pc.equal(S["name"], ""),
    "name = 'it''s'": lambda: pc.equal(S["name"], "it's"),
    "name > 'b'": lambda: pc.greater(S["name"], "b"),
    "name LIKE 'a%'": lambda: pc.match_like(S["name"], "a%"),
    "name LIKE 'a\\%b'": lambda: pc.equal(S["name"], "a%b"),
    "name ILIKE 'B_e'": lambda: pc.match_like(S["name"], "B_e", ignore_case=True),
    "name NOT LIKE '%e%'": lambda: NOT(pc.match_like(S["name"], "%e%")),
    "name IS NULL": lambda: pc.is_null(S["name"]),
    "name IS NOT NULL AND name <> 'größe'": lambda: pc.not_equal(S["name"], "größe"),
    "lower(name) = 'bee'": lambda: pc.equal(pc.utf8_lower(S["name"]), "bee"),
    "character_length(name) > 3": lambda: pc.greater(pc.utf8_length(S["name"]), 3),
    "starts_with(name, 'gr')": lambda: pc.starts_with(S["name"], "gr"),
    "regexp_like(name, '^(ant|Bee)$')": lambda: among("name", ["ant", "Bee"]),
    "name || '!' = 'ant!'": lambda: pc.equal(S["name"], "ant"),
    "big = 'text 7' OR big LIKE '%49'": lambda: OR(pc.equal(S["big"], "text 7"), pc.match_like(S["big"], "%49")),
    "kind = 'k1'": lambda: pc.equal(S["kind"].cast(pa.string()), "k1"),
    "kind IN ('k0', 'k3') AND id < 50": lambda: AND(
        OR(pc.equal(S["kind"].cast(pa.string()), "k0"), pc.equal(S["kind"].cast(pa.string()), "k3")), pc.less(S["id"], 50)),
    "bin = X'03'": lambda: pc.equal(S["bin"], pa.scalar(b"\x03")),
    "price > 2990.5": lambda: pc.greater(S["price"].cast(pa.float64()), 2990.5),
    "price = CAST('13.00' AS DECIMAL(12, 2))": lambda: pc.equal(S["price"].cast(pa.float64()), 13.0),
    "day >= DATE '2026-02-15'": lambda: pc.greater_equal(S["day"], pa.scalar(datetime.date(2026, 2, 15))),
    "day < '2026-01-03'": lambda: pc.less(S["day"], pa.scalar(datetime.date(2026, 1, 3))),
    "extract(month FROM day) = 2": lambda: pc.equal(pc.month(S["day"]), 2),
    "at < TIMESTAMP '2026-01-01 13:00:00'": lambda: pc.less(
        S["at"], pa.scalar(NOON + datetime.timedelta(hours=1), pa.timestamp("us"))),
    "at_utc >= '2026-01-02T12:00:00Z'": lambda: pc.greater_equal(
        S["at_utc"], pa.scalar(UTC_NOON + datetime.timedelta(days=1), pa.timestamp("ms", "UTC"))),
    "at > CAST(day AS TIMESTAMP)": lambda: pc.greater(S["at"], S["day"].cast(pa.timestamp("us"))),
    "clock >= '22:30:00'": lambda: pc.greater_equal(S["clock"], pa.scalar(datetime.time(22, 30), pa.time64("us"))),
    "CASE WHEN flag THEN id ELSE -id END > 2000": lambda: AND(pc.fill_null(S["flag"], False), pc.greater(S["id"], 2000)),
    "pair['x'] > 2950": lambda: pc.greater(pc.struct_field(S["pair"].combine_chunks(), "x"), 2950),
    "pair['y'] = '2' AND id < 100": lambda: AND(
        pc.equal(pc.struct_field(S["pair"].combine_chunks(), "y"), "2"), pc.less(S["id"], 100)),
    "items[1] = 4": lambda: listed(lambda row: None if row["items"] is None else row["items"][0] == 4),
    "array_length(items) = 3": lambda: listed(lambda row: None if row["items"] is None else True),
    '"Upper Case" = 5': lambda: pc.equal(S["Upper Case"], 5),
    'id = 1200 OR "Upper Case" + i8 = 0': lambda: OR(
        pc.equal(S["id"], 1200), pc.equal(pc.add(S["Upper Case"].cast(pa.int64()), S["i8"].cast(pa.int64())), 0)),
}


@pytest.fixture(scope="module")
def sample(shared):
    """The name of a table with the sample in several parts."""
    name, client = f"t/{uuid.uuid4().hex[:12]}", shared.client()
    put(client, name, S.slice(0, 1000))
    for start in (1000, 2000):
        put(client, name, S.slice(start, 1000), mode="append")
    return name


@pytest.mark.parametrize("text", FILTERS)
def test_filter_selects_what_pyarrow_selects(client, sample, text):
    expected = S.filter(FILTERS[text](), null_selection_behavior="drop")
    found = get(client, sample, where=text)
    assert found.schema.equals(S.schema, check_metadata=True)
    assert found.to_pylist() == expected.to_pylist()


def test_filters_of_the_sample_are_not_trivial():
    counts = [S.filter(mask(), null_selection_behavior="drop").num_rows for mask in FILTERS.values()]
    assert sum(0 < count < ROWS for count in counts) > len(counts) * 3 // 4


def by_id(table):
    return sorted(table.to_pylist(), key=lambda row: row["id"])


@pytest.mark.parametrize("options", [
    {"compression": "zstd"}, {"compression": "lz4"}, {"shards": 3, "shard_by": ["id"]}, {"preserve_batches": True},
], ids=lambda options: next(iter(options)) + str(next(iter(options.values()))))
def test_filter_works_on_every_kind_of_table(client, name, options):
    put(client, name, S, chunk=250, **options)
    expected = S.filter(pc.match_like(S["name"], "a%"), null_selection_behavior="drop")
    found = get(client, name, where="name LIKE 'a%'")
    assert by_id(found) == expected.to_pylist()
    narrow = get(client, name, where="name LIKE 'a%'", columns=["price", "id"])
    assert by_id(narrow) == expected.select(["price", "id"]).to_pylist(), "the filter's column is not selected"


def test_nan_is_larger_than_every_number(client, name):
    values = [1.0, float("nan"), -1.0, float("inf"), None]
    put(client, name, pa.table({"i": range(5), "x": pa.array(values, pa.float64())}))
    assert get(client, name, where="x > 0", columns=["i"])["i"].to_pylist() == [0, 1, 3]
    assert get(client, name, where="isnan(x)", columns=["i"])["i"].to_pylist() == [1]
    assert get(client, name, where="x < 0", columns=["i"])["i"].to_pylist() == [2]


def test_filter_is_the_same_at_every_member_and_in_every_form(shared, sample):
    text = "id % 100 = 7 AND flag"
    expected = S.filter(AND(pc.is_in(S["id"], pa.array(range(7, ROWS, 100))), S["flag"]), null_selection_behavior="drop")
    options = flight.FlightCallOptions(headers=[(b"x-volley-where", text.encode())])
    ticket = flight.Ticket(json.dumps({"table": sample, "where": text}).encode())
    for member in shared.members():
        client = shared.client(member)
        found = [
            get(client, sample, where=text),
            client.do_get(ticket).read_all(),
            client.do_get(flight.Ticket(sample.encode()), options).read_all(),
        ]
        endpoints = client.get_flight_info(flight.FlightDescriptor.for_path(*sample.split("/")), options).endpoints
        found.append(pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in endpoints]))
        assert [table["id"].to_pylist() for table in found] == [expected["id"].to_pylist()] * 4


def test_filtered_info_keeps_the_descriptor_and_knows_no_totals(shared, sample):
    for member in (shared.coordinators[1], shared.nodes[1]):
        described = descriptor(sample, where="id > 5")
        info = shared.client(member).get_flight_info(described)
        assert info.descriptor == described and (info.total_records, info.total_bytes) == (-1, -1)
        assert info.ordered and info.schema.equals(S.schema, check_metadata=True)
        assert all(endpoint.locations for endpoint in info.endpoints)


def test_limit_and_version_apply_beside_a_filter(client, name):
    put(client, name, S.slice(0, 100))
    put(client, name, S.slice(100, 100))
    [_] = client.get_flight_info(descriptor(name, where="id > 110", limit=5)).endpoints
    assert get(client, name, where="id > 110", limit=5)["id"].to_pylist() == [111, 112, 113, 114, 115]
    assert get(client, name, where="id > 95", version=1)["id"].to_pylist() == [96, 97, 98, 99]
    assert get(client, name, where="id < 0").num_rows == 0


def test_filtered_read_has_no_more_endpoints_than_it_asks_for(client, name):
    for start in (0, 1000, 2000):
        put(client, name, S.slice(start, 1000), mode="append" if start else "replace")
    # A compaction makes a later version.
    read = {"where": "id % 2 = 1", "version": 3}
    assert len(client.get_flight_info(descriptor(name, **read)).endpoints) == 3
    [one] = client.get_flight_info(descriptor(name, **read, max_endpoints=1)).endpoints
    assert read_endpoint(client, one)["id"].to_pylist() == list(range(1, ROWS, 2))


WRONG = {
    "column of another name": ("prize > 3", "(?i)did you mean.*price"),
    "column in another case": ("Id > 3 AND upper_case = 1", "upper_case"),
    "name in double quotes is a column": ('name = "ant"', "ant"),
    "no boolean": ("id + 1", "true or false"),
    "empty": ("  ", "empty"),
    "syntax": ("id >", "filter"),
    "two expressions": ("id > 1, id < 2", "filter"),
    "a statement": ("id > 1; DROP TABLE t", "filter"),
    "subquery": ("id IN (SELECT 1)", "subquery"),
    "aggregate": ("sum(id) > 1", "aggregate"),
    "window": ("row_number() OVER () > 1", "window|filter"),
    "parameter": ("id = $1", "parameter"),
    "volatile function": ("random() > 0.5", "random"),
    "unknown function": ("no_such_function(id) = 1", "no_such_function"),
    "value that cannot be cast": ("CAST(name AS INT) = 1", "(?i)cast"),
    "division by zero": ("1 / (id - id) = 1", "(?i)zero"),
    "too long": ("id IN (" + ", ".join(["1"] * 40_000) + ")", "bytes"),
    "too deep": ("NOT " * 2000 + "flag", "nested"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_filter_is_refused_with_its_reason(shared, sample, case):
    text, why = WRONG[case]
    for member in (shared.coordinators[0], shared.nodes[0]):
        with pytest.raises(pa.ArrowInvalid, match=why):
            get(shared.client(member), sample, where=text)


def test_filter_of_a_missing_table_is_not_found(client, name):
    with pytest.raises(KeyError, match=f'there is no table "{name}"'):
        get(client, name, where="id > 1")


def test_filter_is_no_option_of_a_put(client, name):
    with pytest.raises(pa.ArrowInvalid, match="where"):
        put(client, name, pa.table({"id": pa.array([], pa.int64())}), where="id > 1")


def test_columns_of_statistics_are_an_option_of_the_table(client, name):
    def chosen():
        return action(client, "get_stats", {"table": name})["stats_columns"]

    put(client, name, SAMPLE, stats_columns=["price", "at"])
    assert chosen() == ["price", "at"]
    for text, rows in (("price < 0", 0), ("price = 7 OR at IS NULL AND id = 15", 2), ("id = 11", 1)):
        assert get(client, name, where=text).num_rows == rows, text
    put(client, name, SAMPLE, mode="append")
    assert chosen() == ["price", "at"] and get(client, name, where="price = 7").num_rows == 2
    for options, why in (
        ({"stats_columns": ["prize"]}, "stats_columns.*prize"), ({"stats_columns": "kind"}, "no order"),
        ({"stats_columns": ["id", "id"]}, "twice"), ({"stats_columns": [f"c{i}" for i in range(65)]}, "limit of 64"),
        ({"stats_columns": ["id"], "mode": "append"}, "append cannot change it"), ({"stats_columns": 7}, "column"),
    ):
        with pytest.raises(pa.ArrowInvalid, match=why):
            put(client, name, SAMPLE.slice(0, 10), **options)
    put(client, name, SAMPLE, stats_columns=[])
    assert chosen() is None, "the first ones"
    table = sql_name(f"{name}-b")
    update(client, f"CREATE TABLE {table} WITH (stats_columns = 'at, id') AS SELECT id, \"at\" FROM {sql_name(name)} WHERE id < 9")
    assert action(client, "get_stats", {"table": f"{name}-b"})["stats_columns"] == ["at", "id"]


def test_volley_get_filters(shared, sample, tmp_path):
    address = shared.address(shared.nodes[1])
    path = tmp_path / "some.csv"
    done = volley("--cluster", address, "get", sample, "--where", "id < 3 OR id = 2999", "--columns", "id", "-o", path)
    assert done.returncode == 0, done.stderr
    assert path.read_text().splitlines() == ["id", "0", "1", "2", "2999"]
    failed = volley("--cluster", address, "get", sample, "--where", "prize > 1")
    assert failed.returncode == 1 and "price" in failed.stderr
