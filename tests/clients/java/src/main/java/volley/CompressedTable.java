package volley;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.arrow.flight.CallOption;
import org.apache.arrow.flight.FlightCallHeaders;
import org.apache.arrow.flight.FlightClient;
import org.apache.arrow.flight.FlightDescriptor;
import org.apache.arrow.flight.FlightEndpoint;
import org.apache.arrow.flight.FlightStream;
import org.apache.arrow.flight.HeaderCallOption;
import org.apache.arrow.flight.Location;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.FieldVector;
import org.apache.arrow.vector.ValueVector;
import org.apache.arrow.vector.dictionary.DictionaryEncoder;
import org.apache.arrow.vector.types.pojo.DictionaryEncoding;
import org.apache.arrow.vector.util.Text;

/**
 * A client in Java without the module arrow-compression: it reads a table by the option `decompress`, by the header of that name,
 * and without both.
 *
 * <p>Arguments: HOST:PORT, the table. Prints as JSON the values of each column that the option and the header gave, and the error
 * of the read without them, which is null if there was none.
 */
public final class CompressedTable {
  private final BufferAllocator allocator;
  private final URI member;
  private final String table;

  private CompressedTable(BufferAllocator allocator, URI member, String table) {
    this.allocator = allocator;
    this.member = member;
    this.table = table;
  }

  public static void main(String[] args) throws Exception {
    if (args.length != 2) {
      System.err.println("usage: CompressedTable HOST:PORT TABLE");
      System.exit(2);
    }
    URI member = URI.create("grpc+tcp://" + args[0]);
    FlightCallHeaders decompress = new FlightCallHeaders();
    decompress.insert("x-volley-decompress", "true");
    Map<String, Object> found = new LinkedHashMap<>();
    try (BufferAllocator allocator = new RootAllocator()) {
      CompressedTable table = new CompressedTable(allocator, member, args[1]);
      found.put("option", table.read(", \"decompress\": true"));
      // Of the stream alone: the ticket was given without it.
      found.put("header", table.read("", new HeaderCallOption(decompress)));
    }
    try {
      // This allocator is not closed: flight-core does not release a batch that it failed to load, and a close would throw.
      new CompressedTable(new RootAllocator(), member, args[1]).read("");
      found.put("error", null);
    } catch (IllegalArgumentException e) {
      found.put("error", e.getMessage());
    }
    System.out.println(new ObjectMapper().writeValueAsString(found));
  }

  private FlightClient connect(URI uri) {
    return FlightClient.builder(allocator, Location.forGrpcInsecure(uri.getHost(), uri.getPort())).build();
  }

  /** The values of each column, of all endpoints, each from its first location. */
  private Map<String, List<Object>> read(String options, CallOption... ofStream) throws Exception {
    Map<String, List<Object>> columns = new LinkedHashMap<>();
    try (FlightClient client = connect(member)) {
      for (FlightEndpoint endpoint : client.getInfo(command(options)).getEndpoints()) {
        read(endpoint, columns, ofStream);
      }
    }
    return columns;
  }

  private FlightDescriptor command(String options) {
    String json = "{\"table\": \"" + table + "\"" + options + "}";
    return FlightDescriptor.command(json.getBytes(StandardCharsets.UTF_8));
  }

  private void read(FlightEndpoint endpoint, Map<String, List<Object>> columns, CallOption... options) throws Exception {
    try (FlightClient there = connect(endpoint.getLocations().get(0).getUri());
        FlightStream stream = there.getStream(endpoint.getTicket(), options)) {
      while (stream.next()) {
        for (FieldVector vector : stream.getRoot().getFieldVectors()) {
          append(columns.computeIfAbsent(vector.getName(), name -> new ArrayList<>()), vector, stream);
        }
      }
    }
  }

  private void append(List<Object> values, FieldVector vector, FlightStream stream) {
    DictionaryEncoding encoding = vector.getField().getDictionary();
    if (encoding == null) {
      append(values, vector);
      return;
    }
    try (ValueVector decoded =
        DictionaryEncoder.decode(vector, stream.getDictionaryProvider().lookup(encoding.getId()), allocator)) {
      append(values, decoded);
    }
  }

  private static void append(List<Object> values, ValueVector vector) {
    for (int row = 0; row < vector.getValueCount(); row++) {
      values.add(plain(vector.getObject(row)));
    }
  }

  /** A value of Arrow as one that JSON has. */
  private static Object plain(Object value) {
    if (value instanceof List) {
      return ((List<?>) value).stream().map(CompressedTable::plain).collect(Collectors.toList());
    }
    return value instanceof Text ? value.toString() : value;
  }
}
