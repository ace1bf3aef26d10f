package volley;

import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.arrow.flight.AsyncPutListener;
import org.apache.arrow.flight.CallOption;
import org.apache.arrow.flight.Criteria;
import org.apache.arrow.flight.FlightClient;
import org.apache.arrow.flight.FlightDescriptor;
import org.apache.arrow.flight.FlightEndpoint;
import org.apache.arrow.flight.FlightInfo;
import org.apache.arrow.flight.FlightRuntimeException;
import org.apache.arrow.flight.FlightStream;
import org.apache.arrow.flight.Location;
import org.apache.arrow.flight.grpc.CredentialCallOption;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.BigIntVector;
import org.apache.arrow.vector.VarCharVector;
import org.apache.arrow.vector.VectorSchemaRoot;
import org.apache.arrow.vector.types.pojo.ArrowType;
import org.apache.arrow.vector.types.pojo.Field;
import org.apache.arrow.vector.types.pojo.FieldType;
import org.apache.arrow.vector.types.pojo.Schema;

/**
 * A client in Java, as its users write one: it logs in with a password by TLS, puts a table, and reads every endpoint from each
 * of its locations with the bearer of that one login.
 *
 * <p>Arguments: HOST:PORT, the file of the CA, the user, the table; the password is in VOLLEY_PASSWORD. Prints what it found as
 * JSON, and ends with an exception at the first thing that is not as it must be.
 */
public final class Client {
  private static final int BATCHES = 4;
  private static final int ROWS_PER_BATCH = 1000;

  private final BufferAllocator allocator;
  private final String ca;
  private long rows;
  private long sum;
  private final Set<String> locations = new TreeSet<>();

  private Client(BufferAllocator allocator, String ca) {
    this.allocator = allocator;
    this.ca = ca;
  }

  public static void main(String[] args) throws Exception {
    if (args.length != 4) {
      System.err.println("usage: Client HOST:PORT CA USER TABLE");
      System.exit(2);
    }
    try (BufferAllocator allocator = new RootAllocator()) {
      new Client(allocator, args[1]).run(args[0], args[2], System.getenv("VOLLEY_PASSWORD"), args[3]);
    }
  }

  private void run(String address, String user, String password, String table) throws Exception {
    try (FlightClient client = connect(URI.create("grpc+tls://" + address))) {
      String withoutToken = outcome(client);
      CallOption login = logIn(client, user, password);
      put(client, login, command(table, ", \"shards\": 4, \"shard_by\": [\"i\"]"));
      FlightInfo info = client.getInfo(command(table, ""), login);
      for (FlightEndpoint endpoint : info.getEndpoints()) {
        readEverywhere(endpoint, login);
      }
      String wrong;
      try {
        logIn(client, user, password + " and more");
        wrong = "OK";
      } catch (FlightRuntimeException e) {
        wrong = e.status().code().name();
      }
      String uris = locations.stream().map(uri -> "\"" + uri + "\"").collect(Collectors.joining(", "));
      System.out.printf(
          "{\"rows\": %d, \"sum\": %d, \"endpoints\": %d, \"locations\": [%s], \"without_token\": \"%s\", \"wrong_password\": \"%s\"}%n",
          rows, sum, info.getEndpoints().size(), uris, withoutToken, wrong);
    }
  }

  private FlightClient connect(URI uri) throws Exception {
    if (!"grpc+tls".equals(uri.getScheme())) {
      throw new IllegalStateException("a location without TLS: " + uri);
    }
    try (InputStream trusted = new FileInputStream(ca)) {
      Location location = Location.forGrpcTls(uri.getHost(), uri.getPort());
      return FlightClient.builder(allocator, location).useTls().trustedCertificates(trusted).build();
    }
  }

  private static CallOption logIn(FlightClient client, String user, String password) {
    CredentialCallOption login =
        client
            .authenticateBasicToken(user, password)
            .orElseThrow(() -> new IllegalStateException("the login returned no token"));
    client.listFlights(Criteria.ALL, login).forEach(info -> {});
    return login;
  }

  private static String outcome(FlightClient client) {
    try {
      client.listFlights(Criteria.ALL).forEach(info -> {});
      return "OK";
    } catch (FlightRuntimeException e) {
      return e.status().code().name();
    }
  }

  private static FlightDescriptor command(String table, String options) {
    String json = "{\"table\": \"" + table + "\"" + options + "}";
    return FlightDescriptor.command(json.getBytes(StandardCharsets.UTF_8));
  }

  private void put(FlightClient client, CallOption login, FlightDescriptor descriptor) {
    Field i = new Field("i", FieldType.notNullable(new ArrowType.Int(64, true)), null);
    Field s = new Field("s", FieldType.nullable(new ArrowType.Utf8()), null);
    try (VectorSchemaRoot root = VectorSchemaRoot.create(new Schema(List.of(i, s)), allocator)) {
      FlightClient.ClientStreamListener writer = client.startPut(descriptor, root, new AsyncPutListener(), login);
      BigIntVector numbers = (BigIntVector) root.getVector("i");
      VarCharVector texts = (VarCharVector) root.getVector("s");
      for (int batch = 0; batch < BATCHES; batch++) {
        root.allocateNew();
        for (int row = 0; row < ROWS_PER_BATCH; row++) {
          long value = (long) batch * ROWS_PER_BATCH + row;
          numbers.setSafe(row, value);
          texts.setSafe(row, ("row " + value).getBytes(StandardCharsets.UTF_8));
        }
        root.setRowCount(ROWS_PER_BATCH);
        writer.putNext();
      }
      writer.completed();
      writer.getResult();
    }
  }

  /** Reads an endpoint from each of its locations; their rows must be the same. */
  private void readEverywhere(FlightEndpoint endpoint, CallOption login) throws Exception {
    long[] first = null;
    for (Location location : endpoint.getLocations()) {
      locations.add(location.getUri().toString());
      long[] found = read(endpoint, location, login);
      if (first != null && (first[0] != found[0] || first[1] != found[1])) {
        throw new IllegalStateException(location.getUri() + " has other rows than the location before");
      }
      first = found;
    }
    if (first == null) {
      throw new IllegalStateException("an endpoint without a location");
    }
    rows += first[0];
    sum += first[1];
  }

  private long[] read(FlightEndpoint endpoint, Location location, CallOption login) throws Exception {
    long[] found = {0, 0};
    try (FlightClient there = connect(location.getUri());
        FlightStream stream = there.getStream(endpoint.getTicket(), login)) {
      while (stream.next()) {
        BigIntVector numbers = (BigIntVector) stream.getRoot().getVector("i");
        for (int row = 0; row < stream.getRoot().getRowCount(); row++) {
          found[1] += numbers.get(row);
        }
        found[0] += stream.getRoot().getRowCount();
      }
    }
    return found;
  }
}
