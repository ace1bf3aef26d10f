"""Statements that attack: those that never end, that need more than there is, and that are too deep or too long."""

from attack_cluster import READ_TABLE, SPREAD_TABLE


def sql_name(table):
    schema, _, name = table.rpartition("/")
    return f'"{schema}".{name}'


LARGE, SPREAD = sql_name(READ_TABLE), sql_name(SPREAD_TABLE)
# The side of a join that is collected: so few rows that a build without optimization soon compares them with a row of the other side.
SMALL = f"(SELECT * FROM {LARGE} WHERE n < 20000)"
# Answered at once by a node that has nothing else to do.
QUICK = f"SELECT count(*) AS n FROM {LARGE} WHERE n % 7 = 3"
# Rows without end, of which nothing is kept.
ROWS = "SELECT value, 'some text' AS t FROM generate_series(1, 1000000000000)"

# A result of some 10 MB, which is stored when its FlightInfo is requested.
STORED = f"SELECT s, n FROM {LARGE} ORDER BY s"

# Each of them compares or counts some 10^10 rows or more, and gives one row or none.
ENDLESS = {
    "a cross join": f"SELECT sum(a.n * b.n) AS s FROM {LARGE} a CROSS JOIN {LARGE} b",
    "a join that selects nothing": f"SELECT a.n FROM {SMALL} a JOIN (SELECT b.n, c.n AS m FROM {LARGE} b CROSS JOIN {LARGE} c) d "
                                   "ON a.n * d.n < a.n - d.m - 500000",
    "an outer join": f"SELECT count(b.n) AS c FROM {LARGE} a LEFT JOIN {SMALL} b ON a.n < b.n",
    "EXISTS of nothing": f"SELECT count(*) AS c FROM {LARGE} a WHERE EXISTS (SELECT 1 FROM {SMALL} b WHERE a.n + b.n < -1)",
    "a join of few keys": f"SELECT count(*) AS c FROM {SPREAD} a JOIN {SPREAD} b ON a.n % 3 = b.n % 3",
    "numbers": "SELECT count(*) AS c FROM generate_series(1, 1000000000000) WHERE value % 7 <> 3",
    "a recursion": "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT (x + 1) % 1000 FROM r) SELECT max(x) AS m FROM r",
    "a recursion of ever more rows": "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT r.x + v.y FROM r CROSS JOIN (VALUES (1), (2)) AS v (y)) "
                                     "SELECT count(*) AS c FROM r",
}

# Each of them collects more than a node has for all queries.
GROWING = {
    "a list": f"SELECT array_length(array_agg(a.n)) AS c FROM {LARGE} a CROSS JOIN {LARGE} b",
    "a text": f"SELECT length(string_agg(a.s, ',')) AS c FROM {LARGE} a CROSS JOIN {LARGE} b",
    "a median": f"SELECT median(a.n) AS m FROM {LARGE} a CROSS JOIN {LARGE} b",
    "different values": f"SELECT count(DISTINCT a.n * 400000 + b.n) AS c FROM {LARGE} a CROSS JOIN {LARGE} b",
    "groups": f"SELECT count(*) AS c FROM (SELECT a.s, b.s AS t FROM {SPREAD} a CROSS JOIN {SPREAD} b GROUP BY a.s, b.s)",
    "a side of a join": f"SELECT count(*) AS c FROM {LARGE} a JOIN (SELECT DISTINCT a.s || b.s AS s FROM {LARGE} a CROSS JOIN {LARGE} b) b "
                        "ON a.s = b.s",
    "a side that all nodes get": f"SELECT count(a.s) AS c FROM {SPREAD} a JOIN {SPREAD} b ON a.n < b.n AND a.s || b.s < 'a' "
                                 f"JOIN {SPREAD} c ON c.n > a.n",
    "a window": f"SELECT max(r) AS m FROM (SELECT row_number() OVER (PARTITION BY b.n % 10 ORDER BY a.s) AS r FROM {LARGE} a CROSS JOIN {LARGE} b)",
    "different rows of a recursion": "WITH RECURSIVE r AS (SELECT 1 AS x UNION SELECT r.x * 2 + v.y FROM r CROSS JOIN (VALUES (0), (1)) AS v (y)) "
                                     "SELECT count(*) AS c FROM r",
}

# Each of them sorts more than fits into memory and the spill space.
SORTS = {
    "a sort": f"SELECT a.s, b.s AS t FROM {LARGE} a CROSS JOIN {LARGE} b ORDER BY b.s, a.s",
    "a sort on both nodes": f"SELECT a.s, b.s AS t FROM {SPREAD} a JOIN {SPREAD} b ON a.n % 100 = b.n % 100 ORDER BY b.s, a.s",
    "a sort of numbers": "SELECT value, 'some text' AS t FROM generate_series(1, 1000000000000) ORDER BY value % 7919, value",
    "a sort for a window": f"SELECT max(r) AS m FROM (SELECT rank() OVER (ORDER BY a.s, b.s) AS r FROM {LARGE} a CROSS JOIN {LARGE} b)",
}


# Rows without columns, of which joins count no bytes: both sides of a join are joins, of which only the number is needed.
WITHOUT_COLUMNS = (f"WITH a AS (SELECT a.n FROM {SPREAD} a CROSS JOIN {SPREAD} b), b AS (SELECT a.n FROM a CROSS JOIN a AS b) "
                   "SELECT count(*) AS c FROM b CROSS JOIN b AS c")


def growing_lists(rows):
    """A query that gives each of so many rows a list of all numbers before it."""
    return f"SELECT count(x) AS c FROM (SELECT array_agg(n) OVER (ORDER BY n) AS x FROM (SELECT n FROM {LARGE} WHERE n < {rows}))"


def repeated_lists(values, rows):
    """A query that joins each of so many rows with a list of so many numbers."""
    return (f"SELECT sum(array_length(x) + n) AS s FROM (SELECT array_agg(n) AS x FROM {LARGE} WHERE n < {values}) "
            f"CROSS JOIN (SELECT n FROM {LARGE} WHERE n < {rows})")


def wide_rows(row_bytes, rows):
    """A query whose result has so many rows of about so many bytes."""
    return f"SELECT repeat(s, {row_bytes // 16}) AS x FROM (SELECT s FROM {LARGE} ORDER BY n LIMIT {rows})"


def nested(levels):
    """Statements with so many levels, by what is nested. None of them is accepted, unless it has few."""
    def around(before, inner, after):
        return before * levels + inner + after * levels

    return {
        "brackets": "SELECT " + around("(", "1", ")"),
        "signs": "SELECT " + around("- ", "1", ""),
        "NOT": f"SELECT count(*) FROM {LARGE} WHERE " + around("NOT ", "n > 1", ""),
        "queries": around("SELECT * FROM (", f"SELECT n FROM {LARGE}", ") AS t"),
        "scalar subqueries": "SELECT " + around("(SELECT ", "1", ")"),
        "EXISTS": f"SELECT n FROM {LARGE} WHERE " + around(f"EXISTS (SELECT 1 FROM {LARGE} WHERE ", "true", ")"),
        "functions": "SELECT " + around("abs(", "n", ")") + f" FROM {LARGE}",
        "CASE": "SELECT " + around("CASE WHEN n > 1 THEN ", "n", " ELSE 0 END") + f" FROM {LARGE}",
        "casts": "SELECT " + around("CAST(", "n", " AS BIGINT)") + f" FROM {LARGE}",
        "coalesce": "SELECT " + around("coalesce(n, ", "n", ")") + f" FROM {LARGE}",
        "lists": "SELECT " + around("[", "1", "]"),
        "types": "SELECT CAST(NULL AS " + around("STRUCT<a ", "INT", ">") + ")",
        "types of lists": "SELECT CAST(NULL AS INT" + "[]" * levels + ")",
        "text that doubles": around("SELECT x || x AS x FROM (", f"SELECT s AS x FROM {LARGE}", ")"),
        "joins that double": "WITH a0 AS (SELECT n FROM " + LARGE + "), "
                             + ", ".join(f"a{at + 1} AS (SELECT a.n FROM a{at} a CROSS JOIN a{at} b)" for at in range(min(levels, 2000)))
                             + " SELECT count(*) FROM a1",
        "comments": "/*" * levels,
        "quotes": "SELECT " + "( ' \" " * levels,
    }


def long(entries):
    """Statements with so many entries in a list, by what the list is of: accepted, or refused with a reason. What takes long to plan
    has fewer."""
    some, few = max(entries // 20, 1), max(entries // 400, 1)

    def joined(separator, entry, count=entries):
        return separator.join(entry(at) for at in range(count))

    return {
        "IN of numbers": f"SELECT count(*) AS c FROM {LARGE} WHERE n IN (" + joined(", ", str) + ")",
        "IN of texts": f"SELECT count(*) AS c FROM {LARGE} WHERE s IN (" + joined(", ", lambda at: f"'row {at:012}'", entries // 2) + ")",
        "NOT IN": f"SELECT count(*) AS c FROM {SPREAD} WHERE n + 1 NOT IN (" + joined(", ", str) + ")",
        "IN of expressions": f"SELECT count(*) AS c FROM {LARGE} WHERE n IN (" + joined(", ", lambda at: f"n + {at}", entries // 4) + ")",
        "OR": f"SELECT count(*) AS c FROM {LARGE} WHERE " + joined(" OR ", lambda at: f"n = {at}"),
        "VALUES": "SELECT count(*) AS c FROM (VALUES " + joined(", ", lambda at: f"({at})") + ") AS v (x)",
        "columns": "SELECT " + joined(", ", lambda at: f"n + {at} AS c{at}", entries // 10) + f" FROM {LARGE} LIMIT 1",
        "aggregates": "SELECT " + joined(", ", lambda at: f"sum(n + {at}) AS c{at}", some) + f" FROM {LARGE}",
        "windows": "SELECT " + joined(", ", lambda at: f"sum(n) OVER (ORDER BY n + {at}) AS c{at}", few) + f" FROM {LARGE} LIMIT 1",
        "sort keys": f"SELECT n FROM {LARGE} ORDER BY " + joined(", ", lambda at: f"n + {at}", some) + " LIMIT 1",
        "joins": f"SELECT count(*) AS c FROM {LARGE} t " + joined(" ", lambda at: f"JOIN {LARGE} t{at} ON t.n = t{at}.n", few),
        "cross joins": "SELECT count(*) AS c FROM " + joined(", ", lambda at: f"{SPREAD} t{at}", few) + " WHERE t0.n >= 0",
        "many joins": f"SELECT count(*) AS c FROM {LARGE} t " + joined(" ", lambda at: f"JOIN {LARGE} t{at} ON t.n = t{at}.n"),
        "UNION ALL": joined(" UNION ALL ", lambda at: f"SELECT n FROM {LARGE} WHERE n = {at}"),
        "INTERSECT": joined(" INTERSECT ", lambda at: f"SELECT n FROM {LARGE} WHERE n > {at}", few),
        "EXISTS": f"SELECT count(*) AS c FROM {LARGE} t WHERE "
                  + joined(" AND ", lambda at: f"EXISTS (SELECT 1 FROM {LARGE} u WHERE u.n = t.n + {at})", few),
        "*": "SELECT " + joined(", ", lambda _: "t.*") + f" FROM {LARGE} t",
        "CUBE": f"SELECT count(*) FROM {LARGE} GROUP BY CUBE (" + joined(", ", lambda at: f"n + {at}") + ")",
        "GROUPING SETS": f"SELECT count(*) FROM {LARGE} GROUP BY GROUPING SETS (" + joined(", ", lambda at: f"(n + {at})") + ")",
        "digits": "SELECT " + joined("", lambda _: "9"),
        "a name": 'SELECT "' + joined("", lambda _: "x") + f'" FROM {LARGE}',
        "a text": "SELECT '" + "x" * 10 * entries + "' AS t",
        "a pattern": f"SELECT count(*) AS c FROM {LARGE} WHERE s LIKE '" + joined("", lambda _: "%r") + "'",
        "a regular expression": f"SELECT count(*) AS c FROM {LARGE} WHERE regexp_like(s, '(x{{1,1000}}){{1,1000}}')",
        "statements": joined(" ", lambda _: "SELECT 1;"),
    }
