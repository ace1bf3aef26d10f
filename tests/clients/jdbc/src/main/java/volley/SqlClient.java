package volley;

import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;

/**
 * SQL by the JDBC driver of Arrow Flight SQL, as its users write it: by TLS with a token, or with a password, it creates a table,
 * fills it, asks for metadata, and runs queries, also prepared ones and ones that are cancelled.
 *
 * <p>Arguments: HOST:PORT, the file of the CA, the schema; the token is in VOLLEY_TOKEN, or the user in VOLLEY_USER and the
 * password in VOLLEY_PASSWORD. Prints what it found as JSON, and ends with 1 at the first call that fails and should not.
 */
public final class SqlClient {
  /** A query that runs longer than any test, with little memory. */
  private static final String ENDLESS =
      "SELECT count(*) AS n FROM generate_series(1, 1000000000000) WHERE value % 7 <> 3";

  private static final int BATCH_ROWS = 100;
  private static final LocalDateTime MARCH = LocalDateTime.of(2026, 3, 1, 0, 0);

  private final Connection connection;
  private final String schema;
  private final String table;
  private final Map<String, Object> found = new LinkedHashMap<>();

  private SqlClient(Connection connection, String schema) {
    this.connection = connection;
    this.schema = schema;
    this.table = '"' + schema + "\".orders";
  }

  public static void main(String[] args) {
    if (args.length != 3) {
      System.err.println("usage: SqlClient HOST:PORT CA SCHEMA");
      System.exit(2);
    }
    Properties properties = new Properties();
    properties.put("tlsRootCerts", args[1]);
    String user = System.getenv("VOLLEY_USER");
    if (user == null) {
      properties.put("token", System.getenv("VOLLEY_TOKEN"));
    } else {
      properties.put("user", user);
      properties.put("password", System.getenv("VOLLEY_PASSWORD"));
    }
    try {
      Connection connection = DriverManager.getConnection("jdbc:arrow-flight-sql://" + args[0], properties);
      SqlClient client = new SqlClient(connection, args[2]);
      client.run();
      close(connection);
      System.out.println(json(client.found));
      System.out.flush();
      // The driver's threads may not have ended.
      System.exit(0);
    } catch (Exception e) {
      e.printStackTrace();
      System.exit(1);
    }
  }

  /** Closes a connection, which fails if the driver has lost track of its own memory. That says nothing about the server. */
  private static void close(Connection connection) {
    try {
      connection.close();
    } catch (SQLException | RuntimeException e) {
      System.err.println("closing the connection: " + e);
    }
  }

  private void run() throws Exception {
    change();
    metadata();
    query();
    prepared();
    errors();
    end();
    drop();
  }

  private void change() throws SQLException {
    try (Statement statement = connection.createStatement()) {
      String columns = "(id BIGINT NOT NULL, kind VARCHAR, price DECIMAL(10, 2), day DATE, seen TIMESTAMP)";
      found.put("created", statement.executeUpdate("CREATE TABLE " + table + " " + columns));
      String rows = "(1, 'ant', 1.25, DATE '2026-01-01', TIMESTAMP '2026-02-01 00:00:00'), (2, NULL, NULL, NULL, NULL)";
      found.put("inserted", statement.executeUpdate("INSERT INTO " + table + " VALUES " + rows));
    }
    try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + table + " VALUES (?, ?, ?, ?, ?)")) {
      for (int i = 0; i < BATCH_ROWS; i++) {
        insert.setLong(1, 10 + i);
        if (i == BATCH_ROWS - 1) {
          insert.setNull(2, Types.VARCHAR);
        } else {
          insert.setString(2, i % 2 == 0 ? "ant" : "bee");
        }
        insert.setBigDecimal(3, BigDecimal.valueOf(25L * i, 2));
        insert.setDate(4, Date.valueOf(LocalDate.of(2026, 1, 1 + i % 28)));
        insert.setTimestamp(5, Timestamp.valueOf(MARCH.plusSeconds(i).plusNanos(789_000_000)));
        insert.addBatch();
      }
      // The driver sends all rows at once, and tells one count.
      found.put("batch", insert.executeBatch()[0]);
    }
    // A prepared statement without parameters is sent with a batch that has no columns.
    try (PreparedStatement again =
        connection.prepareStatement("CREATE TABLE IF NOT EXISTS " + table + " (id BIGINT)")) {
      again.executeUpdate();
    }
  }

  private void metadata() throws Exception {
    DatabaseMetaData metadata = connection.getMetaData();
    found.put("server", metadata.getDatabaseProductName());
    askEverything(metadata);
    found.put("schemas", texts(metadata.getSchemas(null, schema), "TABLE_SCHEM"));
    found.put("tables", tables());
    List<String> columns = new ArrayList<>();
    try (ResultSet rows = metadata.getColumns(null, schema, "orders", "%")) {
      while (rows.next()) {
        columns.add(rows.getString("COLUMN_NAME") + ("NO".equals(rows.getString("IS_NULLABLE")) ? " NOT NULL" : ""));
      }
    }
    found.put("columns", columns);
    check("the catalogs", texts(metadata.getCatalogs(), "TABLE_CAT"), List.of("volley"));
    check("the types of tables", texts(metadata.getTableTypes(), "TABLE_TYPE"), List.of("TABLE"));
    found.put(
        "keys",
        count(metadata.getPrimaryKeys(null, schema, "orders"))
            + count(metadata.getExportedKeys(null, schema, "orders"))
            + count(metadata.getImportedKeys(null, schema, "orders")));
  }

  /** Calls everything that the driver takes from GetSqlInfo: a value that it lacks, or of another type, is an exception. */
  private static void askEverything(DatabaseMetaData metadata) throws ReflectiveOperationException {
    int asked = 0;
    for (Method method : metadata.getClass().getDeclaredMethods()) {
      boolean isValue = method.getReturnType().isPrimitive() || method.getReturnType() == String.class;
      if (Modifier.isPublic(method.getModifiers()) && method.getParameterCount() == 0 && isValue) {
        method.invoke(metadata);
        asked++;
      }
    }
    check("that the driver asks for much", asked > 50, true);
  }

  private List<String> tables() throws SQLException {
    return texts(connection.getMetaData().getTables("volley", schema, "%", new String[] {"TABLE"}), "TABLE_NAME")
        .stream()
        .sorted()
        .collect(Collectors.toList());
  }

  private void query() throws SQLException {
    try (Statement statement = connection.createStatement()) {
      long rows = 0;
      long sum = 0;
      try (ResultSet ids = statement.executeQuery("SELECT id FROM " + table)) {
        while (ids.next()) {
          rows++;
          sum += ids.getLong(1);
        }
      }
      found.put("rows", rows);
      found.put("sum", sum);
      try (ResultSet total = statement.executeQuery("SELECT count(*), sum(id) FROM " + table)) {
        total.next();
        found.put("total", List.of(total.getLong(1), total.getLong(2)));
      }
      found.put("empty", count(statement.executeQuery("SELECT * FROM " + table + " WHERE id < 0")));
    }
  }

  private void prepared() throws SQLException {
    String text = "SELECT id, price, day, seen FROM " + table + " WHERE id >= ? AND kind = ? ORDER BY id LIMIT 2";
    List<String> shown = new ArrayList<>();
    try (PreparedStatement query = connection.prepareStatement(text)) {
      check("the parameters", query.getParameterMetaData().getParameterCount(), 2);
      check("the columns of the result", query.getMetaData().getColumnCount(), 4);
      long[] ids = {12, 50};
      String[] kinds = {"ant", "bee"};
      for (int run = 0; run < ids.length; run++) {
        query.setLong(1, ids[run]);
        query.setString(2, kinds[run]);
        try (ResultSet rows = query.executeQuery()) {
          while (rows.next()) {
            shown.add(shown(rows));
          }
        }
      }
    }
    found.put("prepared", shown);
    try (PreparedStatement query = connection.prepareStatement("SELECT count(*) FROM " + table + " WHERE seen >= ?")) {
      query.setTimestamp(1, Timestamp.valueOf(MARCH.plusMinutes(1)));
      try (ResultSet rows = query.executeQuery()) {
        rows.next();
        found.put("later", rows.getLong(1));
      }
    }
  }

  /** A row as text, the same in all languages. */
  private static String shown(ResultSet row) throws SQLException {
    return String.join(
        " ",
        String.valueOf(row.getLong("id")),
        row.getBigDecimal("price").toPlainString(),
        row.getDate("day").toString(),
        row.getTimestamp("seen").toLocalDateTime().toString());
  }

  private void errors() {
    found.put("missing", failure("SELECT count(*) FROM \"" + schema + "\".nothing_here"));
    found.put("delete", failure("DELETE FROM " + table));
  }

  private String failure(String text) {
    try (Statement statement = connection.createStatement()) {
      statement.execute(text);
      return "it did not fail";
    } catch (SQLException e) {
      return reasons(e);
    }
  }

  private void end() throws Exception {
    boolean timedOut = false;
    try (Statement statement = connection.createStatement()) {
      statement.setQueryTimeout(1);
      statement.executeQuery(ENDLESS);
    } catch (SQLException e) {
      for (Throwable cause = e; cause != null; cause = cause.getCause()) {
        timedOut |= cause instanceof SQLTimeoutException;
      }
    }
    found.put("timed_out", timedOut);
    try (Statement statement = connection.createStatement()) {
      found.put("cancelled", cancelled(statement));
    }
    try (Statement statement = connection.createStatement();
        ResultSet rows = statement.executeQuery("SELECT 1 AS one")) {
      rows.next();
      found.put("after", rows.getInt("one"));
    }
  }

  /** Whether a query ends with an error once it is cancelled, which the driver does only after the query has begun. */
  private static boolean cancelled(Statement statement) throws Exception {
    CompletableFuture<ResultSet> running =
        CompletableFuture.supplyAsync(
            () -> {
              try {
                return statement.executeQuery(ENDLESS);
              } catch (SQLException e) {
                throw new IllegalStateException(e);
              }
            });
    for (int tries = 0; tries < 150; tries++) {
      statement.cancel();
      try {
        running.get(200, TimeUnit.MILLISECONDS);
        return false;
      } catch (TimeoutException e) {
        continue;
      } catch (ExecutionException e) {
        return true;
      }
    }
    return false;
  }

  private void drop() throws SQLException {
    try (Statement statement = connection.createStatement()) {
      found.put("dropped", statement.executeUpdate("DROP TABLE " + table));
    }
    found.put("remaining", tables());
  }

  private static void check(String what, Object seen, Object wanted) {
    if (!wanted.equals(seen)) {
      throw new IllegalStateException(what + ": " + seen + " instead of " + wanted);
    }
  }

  private static long count(ResultSet rows) throws SQLException {
    try (ResultSet closed = rows) {
      long count = 0;
      while (closed.next()) {
        count++;
      }
      return count;
    }
  }

  private static List<String> texts(ResultSet rows, String column) throws SQLException {
    try (ResultSet closed = rows) {
      List<String> texts = new ArrayList<>();
      while (closed.next()) {
        texts.add(closed.getString(column));
      }
      return texts;
    }
  }

  /** What an exception and its causes say. */
  private static String reasons(Throwable exception) {
    StringBuilder reasons = new StringBuilder();
    for (Throwable cause = exception; cause != null; cause = cause.getCause()) {
      reasons.append(cause.getMessage()).append('\n');
    }
    return reasons.toString();
  }

  private static String json(Object value) {
    if (value instanceof Map<?, ?>) {
      return ((Map<?, ?>) value)
          .entrySet().stream()
              .map(entry -> json(entry.getKey()) + ": " + json(entry.getValue()))
              .collect(Collectors.joining(", ", "{", "}"));
    }
    if (value instanceof List<?>) {
      return ((List<?>) value).stream().map(SqlClient::json).collect(Collectors.joining(", ", "[", "]"));
    }
    if (value instanceof String) {
      return ((String) value)
          .chars()
          .mapToObj(c -> c < ' ' || c == '"' || c == '\\' || c > '~' ? String.format("\\u%04x", c) : String.valueOf((char) c))
          .collect(Collectors.joining("", "\"", "\""));
    }
    return String.valueOf(value);
  }
}
