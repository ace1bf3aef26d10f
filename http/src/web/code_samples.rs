//! Programs that read a table, with the addresses of the cluster that the visitor uses. Names are written as literals of each
//! language, whatever is in them.

use serde_json::json;
use volley_common::TableName;

/// A program.
pub(crate) struct CodeSample {
    pub id: &'static str,
    pub label: &'static str,
    pub code: String,
    /// Whether it is shown at first.
    pub open: bool,
}

/// Where programs find the cluster.
pub(crate) struct SampleAddresses {
    /// A coordinator's Flight address.
    pub flight: String,
    /// This member's HTTP port.
    pub http: String,
    /// Whether callers need credentials.
    pub has_users: bool,
}

/// The programs for a table. `path`: its name as a path.
pub(crate) fn samples(table: &TableName, at: &SampleAddresses, path: &str) -> Vec<CodeSample> {
    let name = table.to_string();
    vec![
        CodeSample { id: "code-python", label: "Python", code: python(&name, at), open: true },
        CodeSample { id: "code-pyarrow", label: "Python, with pyarrow alone", code: pyarrow(&name, at), open: false },
        CodeSample { id: "code-sql", label: "SQL", code: sql(table, at), open: false },
        CodeSample { id: "code-go", label: "Go", code: go(&name, at), open: false },
        CodeSample { id: "code-curl", label: "curl", code: curl(path, at), open: false },
        CodeSample { id: "code-volley", label: "Command line", code: command_line(&name, at), open: false },
    ]
}

/// A literal of Python, Go and JSON: what is not ASCII, or invisible, is escaped.
fn literal(text: &str) -> String {
    let mut literal = String::from("\"");
    for unit in text.chars() {
        match unit {
            '"' | '\\' => {
                literal.push('\\');
                literal.push(unit);
            }
            ' '..='~' => literal.push(unit),
            other if u32::from(other) <= 0xffff => literal.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => literal.push_str(&format!("\\U{:08x}", u32::from(other))),
        }
    }
    literal.push('"');
    literal
}

/// A word of a shell.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A table's name in a statement.
pub(crate) fn sql_name(table: &TableName) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let components = table.components();
    match components.split_last() {
        Some((last, schema)) if !schema.is_empty() => format!("{}.{}", quoted(&schema.join("/")), quoted(last)),
        _ => quoted(&table.to_string()),
    }
}

fn python(name: &str, at: &SampleAddresses) -> String {
    let token = if at.has_users { ", token=os.environ[\"VOLLEY_TOKEN\"]" } else { "" };
    let import = if at.has_users { "import os\n\n" } else { "" };
    format!(
        "{import}import volley\n\ndb = volley.connect({}{token})\ntable = db.get({}).to_arrow()   # or .to_pandas(), .to_polars()\nprint(table.num_rows, \"rows\")\n",
        literal(&at.flight),
        literal(name)
    )
}

fn pyarrow(name: &str, at: &SampleAddresses) -> String {
    let (import, headers) = match at.has_users {
        true => ("import os\n", "headers=[(b\"authorization\", f\"Bearer {os.environ['VOLLEY_TOKEN']}\".encode())]"),
        false => ("", ""),
    };
    format!(
        "import json\n{import}\nimport pyarrow as pa\nimport pyarrow.flight as flight\n\ncall = flight.FlightCallOptions({headers})\nclient = flight.connect({})\ncommand = json.dumps({{\"table\": {}}}).encode()\ninfo = client.get_flight_info(flight.FlightDescriptor.for_command(command), call)\n# Any member serves any ticket; docs/clients.md fetches from all nodes in parallel.\ntable = pa.concat_tables([client.do_get(endpoint.ticket, call).read_all() for endpoint in info.endpoints])\nprint(table.num_rows, \"rows\")\n",
        literal(&at.flight),
        literal(name)
    )
}

fn sql(table: &TableName, at: &SampleAddresses) -> String {
    let statement = format!("SELECT * FROM {} LIMIT 100", sql_name(table));
    format!(
        "{statement};\n\n# from a shell:\nvolley --cluster {} sql {}\n",
        shell_word(&at.flight),
        shell_word(&statement)
    )
}

fn go(name: &str, at: &SampleAddresses) -> String {
    let host = at.flight.split_once("://").map_or(at.flight.as_str(), |(_, host)| host);
    let is_plain = !at.flight.starts_with("grpc+tls");
    let (import, transport) = match is_plain {
        true => ("google.golang.org/grpc/credentials/insecure", "insecure.NewCredentials()"),
        false => ("google.golang.org/grpc/credentials", "credentials.NewClientTLSFromCert(nil, \"\")"),
    };
    let (further, context) = match at.has_users {
        true => (
            "\t\"os\"\n",
            "\tctx := metadata.AppendToOutgoingContext(context.Background(), \"authorization\", \"Bearer \"+os.Getenv(\"VOLLEY_TOKEN\"))\n",
        ),
        false => ("", "\tctx := context.Background()\n"),
    };
    let metadata = if at.has_users { "\t\"google.golang.org/grpc/metadata\"\n" } else { "" };
    format!(
        "package main\n\nimport (\n\t\"context\"\n\t\"fmt\"\n\t\"log\"\n{further}\n\t\"github.com/apache/arrow-go/v18/arrow/flight\"\n\t\"google.golang.org/grpc\"\n\t\"{import}\"\n{metadata})\n\nfunc main() {{\n{context}\tclient, err := flight.NewClientWithMiddleware({}, nil, nil, grpc.WithTransportCredentials({transport}))\n\tif err != nil {{\n\t\tlog.Fatal(err)\n\t}}\n\tdefer client.Close()\n\tcommand := []byte({})\n\tinfo, err := client.GetFlightInfo(ctx, &flight.FlightDescriptor{{Type: flight.DescriptorCMD, Cmd: command}})\n\tif err != nil {{\n\t\tlog.Fatal(err)\n\t}}\n\trows := int64(0)\n\tfor _, endpoint := range info.Endpoint {{\n\t\tstream, err := client.DoGet(ctx, endpoint.Ticket)\n\t\tif err != nil {{\n\t\t\tlog.Fatal(err)\n\t\t}}\n\t\treader, err := flight.NewRecordReader(stream)\n\t\tif err != nil {{\n\t\t\tlog.Fatal(err)\n\t\t}}\n\t\tfor reader.Next() {{\n\t\t\trows += reader.RecordBatch().NumRows()\n\t\t}}\n\t\tif err := reader.Err(); err != nil {{\n\t\t\tlog.Fatal(err)\n\t\t}}\n\t\treader.Release()\n\t}}\n\tfmt.Println(rows, \"rows\")\n}}\n",
        literal(host),
        literal(&json!({ "table": name }).to_string()),
    )
}

fn curl(path: &str, at: &SampleAddresses) -> String {
    let token = if at.has_users { " -H \"authorization: Bearer $VOLLEY_TOKEN\"" } else { "" };
    format!("curl -f{token} {} > table.csv\n", shell_word(&format!("{}/api/v1/data/{path}?format=csv", at.http)))
}

fn command_line(name: &str, at: &SampleAddresses) -> String {
    format!("volley --cluster {} get {} -o table.parquet\n", shell_word(&at.flight), shell_word(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a/\"x'); DROP\\\u{e9}\u{1f9c0}";

    fn all(has_users: bool) -> Vec<CodeSample> {
        let at =
            SampleAddresses { flight: "grpc+tcp://127.0.0.1:8815".into(), http: "http://h:8835".into(), has_users };
        let table: TableName = HOSTILE.parse().unwrap();
        samples(&table, &at, "a/x")
    }

    #[test]
    fn names_are_literals_of_each_language() {
        let of = |id: &str| all(false).into_iter().find(|sample| sample.id == id).unwrap().code;
        let literal = r#""a/\"x'); DROP\\\u00e9\U0001f9c0""#;
        assert!(of("code-python").contains(&format!("db.get({literal})")), "{}", of("code-python"));
        assert!(of("code-pyarrow").contains(literal));
        assert!(
            of("code-sql").starts_with("SELECT * FROM \"a\".\"\"\"x'); DROP\\é🧀\" LIMIT 100;\n"),
            "{}",
            of("code-sql")
        );
        assert!(of("code-volley").contains(r#"get 'a/"x'\''); DROP\é🧀' -o"#), "{}", of("code-volley"));
        assert_eq!(of("code-curl"), "curl -f 'http://h:8835/api/v1/data/a/x?format=csv' > table.csv\n");
    }

    #[test]
    fn cluster_with_users_gets_a_token() {
        for (sample, open) in all(true).iter().zip(all(false)) {
            let has_own_way = matches!(sample.id, "code-sql" | "code-volley");
            assert_eq!(sample.code.contains("VOLLEY_TOKEN"), !has_own_way, "{}", sample.id);
            assert!(!open.code.contains("VOLLEY_TOKEN"));
        }
    }
}
