//! Tests of what is copied, and with which options.

use clap::Parser;

use super::*;
use crate::args::table_commands::TableCommand;
use crate::args::{Args, CliCommand};

fn parsed(line: &str) -> CpArgs {
    match Args::parse_from(line.split(' ')).command {
        CliCommand::Tables(TableCommand::Cp(args)) => args,
        other => panic!("{other:?}"),
    }
}

fn source(words: &str) -> Result<(Option<String>, String), String> {
    let source = CopySource::of(&parsed(&format!("volley cp {words} t"))).map_err(|e| e.message)?;
    Ok((source.cluster, source.table.to_string()))
}

#[test]
fn source_may_have_an_address() {
    let other = |cluster: &str, table: &str| Ok((Some(cluster.to_string()), table.to_string()));
    assert_eq!(source("a/b"), Ok((None, "a/b".into())));
    assert_eq!(source("grpc://h:8815/a/b"), other("grpc://h:8815", "a/b"));
    assert_eq!(source("grpc+tls://h:1,grpc+tls://[::1]:2/t"), other("grpc+tls://h:1,grpc+tls://[::1]:2", "t"));
    assert_eq!(source("grpc://h:1,i:2/t"), other("grpc://h:1,i:2", "t"));
    assert_eq!(source("--from-cluster h:8815 a/b"), other("h:8815", "a/b"));
    assert!(source("grpc://h:8815").is_err_and(|e| e.contains("grpc://HOST:PORT/TABLE")));
    assert!(source("grpc://h:8815/").is_err_and(|e| e.contains("empty")));
    assert!(source("--from-cluster h:1 grpc://h:2/t").is_err_and(|e| e.contains("--from-cluster")));
    assert!(source("--from-user ana s").is_err_and(|e| e.contains("name it with --from-cluster")));
    for secret in ["grpc://ana:s3cret@h:1/t", "grpc://ana:s3cret@h:1", "grpc://ana:s3/cret@h:1/t"] {
        assert!(source(secret).is_err_and(|e| e.contains("no user and password") && !e.contains("s3")), "{secret}");
    }
}

#[test]
fn options_are_those_of_the_table_or_the_command_line() {
    let stats = json!({
        "shards": 6, "shard_by": ["a", "b"], "replicas": 2, "compression": "lz4", "retention_s": 900, "ttl_s": null,
        "stats_columns": null, "max_endpoints": null, "preserve_batches": false, "shareable_tickets": false,
    });
    let kept = options(&parsed("volley cp s t"), &stats);
    let expected = Options {
        mode: Some(volley_client::Mode::Create),
        shards: Some(6),
        shard_by: Some(vec!["a".into(), "b".into()]),
        replicas: Some(2),
        compression: Some(Codec::Lz4),
        retention_s: Some(900),
        ttl_s: Some(0),
        shareable_tickets: Some(false),
        ..Options::default()
    };
    assert_eq!(kept, expected);
    let chosen = options(&parsed("volley cp s t --replicas 1 --compression zstd --shard-by c --shards 2"), &stats);
    assert_eq!((chosen.replicas, chosen.compression, chosen.shards), (Some(1), Some(Codec::Zstd), Some(2)));
    assert_eq!((chosen.shard_by, chosen.retention_s), (Some(vec!["c".into()]), Some(900)));
    let appended = options(&parsed("volley cp s t --mode append"), &stats);
    assert_eq!(appended, Options { mode: Some(volley_client::Mode::Append), ..Options::default() });
}

#[test]
fn table_is_not_copied_into_itself() {
    let check = |line: &str| {
        let args = parsed(line);
        check_differs(&args, &CopySource::of(&args).unwrap()).map_err(|e| e.message)
    };
    assert!(check("volley cp t t --mode replace").is_err_and(|e| e.contains("into itself")));
    for line in ["volley cp t u", "volley cp t t --version 3 --mode replace", "volley cp grpc://h:1/t t"] {
        assert_eq!(check(line), Ok(()), "{line}");
    }
}

#[test]
fn preserved_batches_are_not_lost_silently() {
    let (stats, table) = (json!({ "preserve_batches": true }), "t".parse().unwrap());
    let check = |line: &str| check_batches(&parsed(line), &table, &stats).map_err(|e| e.message);
    assert!(check("volley cp t u").is_err_and(|e| e.contains("--rows-only")));
    assert_eq!(check("volley cp t u --rows-only"), Ok(()));
}

#[test]
fn report_names_the_source_and_its_version() {
    let from = CopySource { cluster: Some("grpc://h:1".into()), table: "a/b".parse().unwrap() };
    let json = json!({ "table": "t", "version": 1, "rows": 3, "bytes": 9, "parts": 1, "write_id": "w" });
    let outcome: PutOutcome = serde_json::from_value(json).unwrap();
    let report = CopyReport { from: &from, version: Some(7), outcome: &outcome, replaced: None };
    assert_eq!(report.text(1.0), "t: version 1, 3 rows in 9 B, copied from a/b version 7 at grpc://h:1, 1.0 s");
    let json = report.json(1.0).unwrap();
    assert_eq!(
        (&json["rows"], &json["from"]["cluster"], &json["from"]["version"]),
        (&json!(3), &json!("grpc://h:1"), &json!(7))
    );
    assert!(
        check_rows(&from.table, "rows were written", 2, 3).is_err_and(|e| e.message.contains("2 rows were written"))
    );
}
