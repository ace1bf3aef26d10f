//! Options of new, replaced and appended tables.

use volley_common::Code;

use super::*;

const RETENTION: u64 = 900_000;

fn nodes(known: usize, live: usize) -> NodeCounts {
    NodeCounts { known, live }
}

fn spec(shards: u32, replicas: u32) -> TableSpec {
    TableSpec { shards, replicas, min_copies: replicas / 2 + 1, retention_ms: 1_000, ..TableSpec::default() }
}

#[test]
fn default_shards_and_replicas_follow_the_known_nodes() {
    let of = |known| TableOptions::default().spec(None, nodes(known, 2.min(known)), RETENTION).unwrap();
    assert_eq!((of(1).shards, of(1).replicas, of(1).min_copies), (1, 1, 1));
    assert_eq!((of(4).shards, of(4).replicas, of(4).min_copies), (4, 2, 2));
    assert_eq!((of(40).shards, of(40).retention_ms), (MAX_DEFAULT_SHARDS, RETENTION));
}

#[test]
fn default_replicas_are_not_fewer_while_nodes_restart() {
    let error = TableOptions::default().spec(None, nodes(3, 1), RETENTION).unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(error.message.contains("1 of the cluster's 3 nodes"), "{error}");
    let one = TableOptions { replicas: Some(1), ..TableOptions::default() };
    assert_eq!(one.spec(None, nodes(3, 1), RETENTION).unwrap().min_copies, 1);
}

#[test]
fn missing_options_come_from_the_existing_table() {
    let mut old = spec(7, 3);
    old.shard_by = vec!["k".into()];
    let same = TableOptions::default().spec(Some(&old), nodes(4, 4), RETENTION).unwrap();
    assert_eq!(same, old);
    let options =
        TableOptions { shards: Some(2), shard_by: vec!["j".into()], replicas: Some(1), ..TableOptions::default() };
    let new = options.spec(Some(&old), nodes(4, 4), RETENTION).unwrap();
    assert_eq!((new.shards, new.replicas, new.min_copies, new.shard_by), (2, 1, 1, vec!["j".to_string()]));
    let of_earlier_version = TableSpec { retention_ms: 0, ..old };
    let new = TableOptions::default().spec(Some(&of_earlier_version), nodes(4, 4), RETENTION).unwrap();
    assert_eq!(new.retention_ms, RETENTION);
}

#[test]
fn more_replicas_than_live_nodes_can_acknowledge_fail() {
    let three = TableOptions { replicas: Some(3), ..TableOptions::default() };
    assert_eq!(three.spec(None, nodes(2, 2), RETENTION).unwrap().min_copies, 2);
    let error = three.spec(None, nodes(1, 1), RETENTION).unwrap_err();
    assert!(error.message.contains("3 replicas need 2 live nodes"), "{error}");
    assert_eq!(error.code, Code::FailedPrecondition, "no call to another coordinator can succeed");
    assert_eq!(three.spec(None, nodes(3, 1), RETENTION).unwrap_err().code, Code::Unavailable, "they may return");
}

#[test]
fn append_cannot_change_the_layout() {
    let name: TableName = "a/t".parse().unwrap();
    let has = spec(4, 2);
    TableOptions { shards: Some(4), replicas: Some(2), ..TableOptions::default() }.check_append(&name, &has).unwrap();
    let rejected = |options: TableOptions| options.check_append(&name, &has).unwrap_err().message;
    assert!(rejected(TableOptions { shards: Some(5), ..TableOptions::default() }).contains("shards = 4"));
    assert!(rejected(TableOptions { shard_by: vec!["k".into()], ..TableOptions::default() }).contains("shard_by = []"));
    assert!(rejected(TableOptions { replicas: Some(1), ..TableOptions::default() }).contains("replicas = 2"));
    let other = TableOptions { compression: Some(Compression::Zstd), ..TableOptions::default() };
    assert!(rejected(other).contains("compression = none"));
    assert!(rejected(TableOptions { retention_ms: Some(9000), ..TableOptions::default() }).contains("retention_s"));
    assert!(rejected(TableOptions { ttl_ms: Some(9000), ..TableOptions::default() }).contains("ttl_s = 0"));
    assert!(rejected(TableOptions { max_endpoints: Some(1), ..TableOptions::default() }).contains("no limit"));
    let whole = TableOptions { preserve_batches: Some(true), ..TableOptions::default() };
    assert!(rejected(whole).contains("preserve_batches = false"));
    let shared = TableOptions { shareable_tickets: Some(true), ..TableOptions::default() };
    assert!(rejected(shared).contains("shareable_tickets = false"));
}

#[test]
fn shareable_tickets_are_off_unless_chosen_and_then_kept() {
    let spec_of = |share, old| {
        let options = TableOptions { shareable_tickets: share, ..TableOptions::default() };
        options.spec(old, nodes(2, 2), RETENTION).unwrap()
    };
    assert!(!spec_of(None, None).shareable_tickets);
    let shared = spec_of(Some(true), None);
    assert!(shared.shareable_tickets && spec_of(None, Some(&shared)).shareable_tickets);
    assert!(!spec_of(Some(false), Some(&shared)).shareable_tickets);
}

#[test]
fn time_to_live_is_kept_until_another_one_is_chosen() {
    let ttl_of = |ttl_ms, old| {
        let options = TableOptions { ttl_ms, ..TableOptions::default() };
        options.spec(old, nodes(2, 2), RETENTION).unwrap()
    };
    assert_eq!(ttl_of(None, None).ttl_ms, 0);
    let hour = ttl_of(Some(3_600_000), None);
    assert_eq!(
        (hour.ttl_ms, ttl_of(None, Some(&hour)).ttl_ms, ttl_of(Some(0), Some(&hour)).ttl_ms),
        (3_600_000, 3_600_000, 0)
    );
}

#[test]
fn columns_of_statistics_are_kept_until_others_are_named() {
    let columns_of = |names: Option<&[&str]>, old| {
        let stats_columns = names.map(|names| names.iter().map(ToString::to_string).collect());
        let options = TableOptions { stats_columns, ..TableOptions::default() };
        options.spec(old, nodes(2, 2), RETENTION)
    };
    assert!(columns_of(None, None).unwrap().stats_columns.is_empty());
    let named = columns_of(Some(&["b", "a"]), None).unwrap();
    assert_eq!(named.stats_columns, ["b", "a"]);
    assert_eq!(columns_of(None, Some(&named)).unwrap().stats_columns, ["b", "a"]);
    assert!(columns_of(Some(&[]), Some(&named)).unwrap().stats_columns.is_empty());
    let many: Vec<String> = (0..=MAX_STATISTICS_COLUMNS).map(|at| at.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for wrong in [&["a", "b", "a"][..], &many] {
        let error = columns_of(Some(wrong), None).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("stats_columns"), "{error}");
    }
    let appended = TableOptions { stats_columns: Some(vec!["b".into()]), ..TableOptions::default() };
    let error = appended.check_append(&"t".parse().unwrap(), &named).unwrap_err();
    assert!(error.message.contains(r#"stats_columns = ["b", "a"]"#), "{error}");
}

#[test]
fn columns_of_statistics_exist_and_have_an_order() {
    use arrow::datatypes::{DataType, Field, Schema};
    let list = DataType::new_list(DataType::Int64, true);
    let columns = [("a", DataType::Int64), ("list", list), ("twice", DataType::Int8), ("twice", DataType::Int8)];
    let fields: Vec<Field> = columns.into_iter().map(|(name, of)| Field::new(name, of, true)).collect();
    let schema = volley_common::ipc::schema::schema_message(&Schema::new(fields)).unwrap();
    let check = |schema: &[u8], column: &str| {
        let spec = TableSpec { stats_columns: vec![column.into()], ..TableSpec::default() };
        check_stats_columns(&"s/t".parse().unwrap(), schema, &spec)
    };
    check(&schema, "a").unwrap();
    check(&[], "anything").unwrap();
    for (column, why) in [("b", "there is not"), ("list", "no order"), ("twice", "several columns")] {
        let error = check(&schema, column).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains(why), "{error}");
        assert!(error.message.contains("s/t") && error.message.contains(column), "{error}");
    }
}

#[test]
fn temporary_table_expires_and_replaces_no_other() {
    let name: TableName = "t".parse().unwrap();
    let temporary = |ttl_ms, old: Option<&TableSpec>| {
        let options = TableOptions { ttl_ms, ..TableOptions::default() }.temporary(&name, 5_000, old)?;
        Ok::<_, Error>(options.ttl_ms)
    };
    assert_eq!(temporary(None, None), Ok(Some(5_000)));
    assert_eq!(temporary(Some(9_000), None), Ok(Some(9_000)));
    let expiring = TableSpec { ttl_ms: 7_000, ..spec(1, 1) };
    assert_eq!(temporary(None, Some(&expiring)), Ok(None), "the table keeps its own");
    let error = temporary(None, Some(&spec(1, 1))).unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("not temporary"), "{error}");
    assert_eq!(temporary(Some(0), None).unwrap_err().code, Code::InvalidArgument);
    let lasting = TableOptions::default().temporary(&name, 0, Some(&spec(1, 1))).unwrap();
    assert_eq!(lasting, TableOptions::default(), "nothing temporary was requested");
}

#[test]
fn preserve_batches_is_kept_and_excludes_keys() {
    let spec_of = |options: &TableOptions, old| options.spec(old, nodes(2, 2), RETENTION);
    let keep = |keep, keys: &[&str]| TableOptions {
        preserve_batches: keep,
        shard_by: keys.iter().map(ToString::to_string).collect(),
        ..TableOptions::default()
    };
    let kept = spec_of(&keep(Some(true), &[]), None).unwrap();
    assert!(kept.preserve_batches && spec_of(&keep(None, &[]), Some(&kept)).unwrap().preserve_batches);
    assert!(!spec_of(&keep(Some(false), &["k"]), Some(&kept)).unwrap().preserve_batches);
    let keyed = TableSpec { shard_by: vec!["k".into()], ..spec(2, 1) };
    let both = [spec_of(&keep(Some(true), &["k"]), None), spec_of(&keep(None, &["k"]), Some(&kept))];
    for result in both.into_iter().chain([spec_of(&keep(Some(true), &[]), Some(&keyed))]) {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains("shard_by = [\"k\"]"), "{error}");
    }
}
