//! Encodes options for the wire: as a JSON command, or as a path with `x-volley-*` headers.

use arrow_flight::FlightDescriptor;
use serde_json::{Map, Value, json};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use volley_common::TableName;
use volley_common::options::{Codec, HEADER_PREFIX, Mode, Options};

/// The JSON command for a table with options.
pub fn command(name: &TableName, options: &Options) -> Value {
    let mut map = fields(options);
    map.insert("table".into(), name.to_string().into());
    Value::Object(map)
}

/// A command descriptor that contains the options.
pub fn read_descriptor(name: &TableName, options: &Options) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command(name, options).to_string())
}

/// The descriptor and headers of a put: a path, so that the table is listed by its path; a command if an option does not
/// fit into a header.
pub fn write_request(name: &TableName, options: &Options) -> (FlightDescriptor, MetadataMap) {
    match headers(options) {
        Some(headers) => (FlightDescriptor::new_path(name.components().to_vec()), headers),
        None => (read_descriptor(name, options), MetadataMap::new()),
    }
}

fn headers(options: &Options) -> Option<MetadataMap> {
    let mut headers = MetadataMap::new();
    for (key, value) in fields(options) {
        let key = format!("{HEADER_PREFIX}{}", key.replace('_', "-"));
        let key = MetadataKey::from_bytes(key.as_bytes()).ok()?;
        headers.insert(key, header_value(&value)?);
    }
    Some(headers)
}

/// A value as header text; none if the server would read the text back as another value.
fn header_value(value: &Value) -> Option<MetadataValue<tonic::metadata::Ascii>> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            let items = items?;
            if items.is_empty() || items.iter().any(|s| s.is_empty() || s.contains(',') || s.trim() != *s) {
                return None;
            }
            items.join(",")
        }
        other => other.to_string(),
    };
    // A write id of digits only would be read back as a number.
    let number = value.is_string() && text.parse::<u64>().is_ok();
    if number || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return None;
    }
    text.parse().ok()
}

/// The options that are set, by name, without the table's name.
fn fields(options: &Options) -> Map<String, Value> {
    let Options {
        table: _,
        columns,
        version,
        filter,
        limit,
        max_endpoints,
        decompress,
        mode,
        shards,
        shard_by,
        replicas,
        compression,
        write_id,
        transaction,
        retention_s,
        ttl_s,
        stats_columns,
        preserve_batches,
        shareable_tickets,
    } = options;
    let all = json!({
        "columns": columns,
        "version": version,
        "where": filter,
        "limit": limit,
        "max_endpoints": max_endpoints,
        "decompress": decompress,
        "mode": mode.map(mode_name),
        "shards": shards,
        "shard_by": shard_by,
        "replicas": replicas,
        "compression": compression.map(codec_name),
        "write_id": write_id,
        "transaction": transaction,
        "retention_s": retention_s,
        "ttl_s": ttl_s,
        "stats_columns": stats_columns,
        "preserve_batches": preserve_batches,
        "shareable_tickets": shareable_tickets,
    });
    let Value::Object(all) = all else { return Map::new() };
    all.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Replace => "replace",
        Mode::Create => "create",
        Mode::Append => "append",
        Mode::CreateAppend => "create_append",
    }
}

fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "none",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
        Codec::Auto => "auto",
    }
}

#[cfg(test)]
mod tests {
    use volley_common::TransactionId;
    use volley_common::options::TableRequest;
    use volley_common::wire::catalog::DescriptorKind;

    use super::*;

    fn name() -> TableName {
        "a/b".parse().unwrap()
    }

    fn every_option() -> Options {
        Options {
            table: Some("a/b".into()),
            columns: Some(vec!["x".into(), "y z".into()]),
            version: Some(3),
            filter: Some("x > 3 AND \"y z\" = 'a,b'".into()),
            limit: Some(0),
            max_endpoints: Some(1),
            decompress: Some(true),
            mode: Some(Mode::Append),
            shards: Some(4),
            shard_by: Some(vec!["k".into()]),
            replicas: Some(2),
            compression: Some(Codec::Zstd),
            write_id: Some("w-1".into()),
            transaction: None,
            retention_s: Some(19),
            ttl_s: Some(60),
            stats_columns: Some(vec!["x".into(), "k".into()]),
            preserve_batches: Some(true),
            shareable_tickets: Some(true),
        }
    }

    #[test]
    fn encoded_options_are_read_back_by_a_member() {
        let transaction = Some(TransactionId::new(7).to_string());
        check(every_option());
        check(Options { write_id: None, transaction, mode: Some(Mode::CreateAppend), ..every_option() });
    }

    fn check(options: Options) {
        let read = TableRequest::from_descriptor(&read_descriptor(&name(), &options), &MetadataMap::new()).unwrap();
        assert_eq!((read.name, read.options), (name(), options.clone()));

        let (descriptor, headers) = write_request(&name(), &options);
        let write = TableRequest::from_descriptor(&descriptor, &headers).unwrap();
        assert_eq!(write.kind, DescriptorKind::Path);
        assert_eq!(write.options, Options { table: None, ..options });
    }

    #[test]
    fn options_unfit_for_headers_are_sent_as_a_command() {
        let keyed = |column: &str| Options { shard_by: Some(vec![column.into()]), ..Options::default() };
        let numbered = Options { write_id: Some("42".into()), ..Options::default() };
        for options in [keyed("a,b"), keyed("größe"), keyed(" a"), numbered] {
            let (descriptor, headers) = write_request(&name(), &options);
            let back = TableRequest::from_descriptor(&descriptor, &headers).unwrap();
            assert_eq!(back.kind, DescriptorKind::Command);
            assert_eq!(back.options, Options { table: Some("a/b".into()), ..options });
        }
    }
}
