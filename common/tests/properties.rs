//! Property tests: invariants for generated inputs. A failing input is shrunk and printed.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow_flight::FlightData;
use arrow_flight::utils::batches_to_flight_data;
use bytes::{Buf, Bytes};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::flight_encoder::encode_flight_data;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;
use volley_common::partition::Partitioner;
use volley_common::placement::{Candidate, ReplicaCounts, place};
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{NodeId, PartId, TableName};

fn nodes() -> impl Strategy<Value = Vec<Candidate>> {
    let node = (any::<u64>(), 0..5u8, prop_oneof![Just(0), 1..1u64 << 44]);
    vec(node, 1..30).prop_map(|nodes| {
        let distinct: BTreeMap<_, _> = nodes.into_iter().map(|(id, zone, capacity)| (id, (zone, capacity))).collect();
        let candidate = |(id, (zone, capacity))| Candidate { id: NodeId(id), zone: format!("z{zone}"), capacity };
        distinct.into_iter().map(candidate).collect()
    })
}

/// Rows with repeated keys, nulls and texts of different lengths.
fn rows(max: usize) -> impl Strategy<Value = RecordBatch> {
    let row = (proptest::option::of(-5..5i64), proptest::option::of("[a-zé]{0,40}"));
    vec(row, 0..max).prop_map(|rows| {
        let (keys, texts): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let columns: [(&str, ArrayRef, bool); 2] =
            [("k", Arc::new(Int64Array::from(keys)), true), ("t", Arc::new(StringArray::from(texts)), true)];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    })
}

fn ticket() -> impl Strategy<Value = Ticket> {
    let part = (any::<u128>(), vec(any::<u64>(), 0..4), any::<u64>()).prop_map(|(id, holders, rows)| TicketPart {
        id: Some(PartId(id).into()),
        holders,
        rows,
        skip_batches: 0,
    });
    let fields = (vec("[a-z]{1,8}", 1..4), any::<u64>(), any::<u64>(), vec(part, 0..5), vec(any::<u8>(), 0..50));
    fields.prop_map(|(table, flight, version, parts, schema)| Ticket {
        flight,
        expires_ms: u64::MAX,
        table,
        version,
        parts,
        schema: schema.into(),
        ..Ticket::default()
    })
}

proptest! {
    #[test]
    fn placement_uses_distinct_nodes_and_zones(
        nodes in nodes(), key in any::<u64>(), shards in 1..40u32, replicas in 1..6u32
    ) {
        let zone = |id: &NodeId| nodes.iter().find(|n| n.id == *id).map(|n| n.zone.clone()).unwrap();
        let zones = nodes.iter().map(|n| &n.zone).collect::<BTreeSet<_>>().len();
        let placed = place(&nodes, key, shards, replicas, &ReplicaCounts::new());
        prop_assert_eq!(placed.len(), shards as usize);
        for shard in placed {
            let distinct: BTreeSet<_> = shard.iter().collect();
            prop_assert_eq!(distinct.len(), nodes.len().min(replicas as usize));
            prop_assert_eq!(distinct.len(), shard.len());
            let used = shard.iter().map(zone).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(used, zones.min(replicas as usize));
        }
    }

    #[test]
    fn ticket_round_trips_and_any_changed_bit_is_rejected(
        ticket in ticket(), key in vec(any::<u8>(), 32), at in any::<prop::sample::Index>(), bit in 0..8u8
    ) {
        let key = TicketKey::new(&key);
        let mut signed = key.sign(&ticket);
        prop_assert_eq!(key.verify(&signed, 0).unwrap(), ticket);
        let at = at.index(signed.len());
        signed[at] ^= 1 << bit;
        prop_assert!(key.verify(&signed, 0).is_err());
        prop_assert!(key.verify(&signed[..at], 0).is_err());
    }

    #[test]
    fn valid_name_round_trips_through_text(components in vec(".{0,20}|[a-z/]{1,4}", 0..20)) {
        if let Ok(name) = TableName::from_components(&components) {
            prop_assert_eq!(name.components().join("/"), components.join("/"));
            prop_assert_eq!(name.to_string().parse::<TableName>().unwrap(), name);
        }
    }

    #[test]
    fn encoded_flight_data_is_readable_by_prost(
        header in vec(any::<u8>(), 0..300), metadata in vec(any::<u8>(), 0..200),
        body in vec(vec(any::<u8>(), 0..200), 0..6), steps in vec(1..97usize, 1..50)
    ) {
        let slices = body.iter().map(|slice| Bytes::from(slice.clone()));
        let mut framed = encode_flight_data(&header, Some(&metadata), slices);
        let mut bytes = Vec::new();
        // Consumed in steps of any size, as by a socket.
        for step in steps.iter().cycle() {
            let count = (*step).min(framed.chunk().len());
            bytes.extend_from_slice(&framed.chunk()[..count]);
            framed.advance(count);
            if !framed.has_remaining() {
                break;
            }
        }
        prop_assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
        let data = FlightData::decode(&bytes[5..]).unwrap();
        prop_assert_eq!((data.data_header.to_vec(), data.app_metadata.to_vec()), (header, metadata));
        prop_assert_eq!(data.data_body.to_vec(), body.concat());
    }

    #[test]
    fn split_batches_keep_the_rows_in_order(batch in rows(300), target in 64..4096usize) {
        let batches: Vec<_> = split(&shrink_to_fit(&batch), target).map(|batch| batch.unwrap()).collect();
        prop_assert!(batches.iter().all(|batch| batch.num_rows() <= 1 || data_bytes(batch) <= 2 * target));
        prop_assert_eq!(concat_batches(&batch.schema(), &batches).unwrap(), batch);
    }

    #[test]
    fn shard_of_a_row_does_not_depend_on_its_batch(
        batch in rows(200), shards in 1..50u32, at in any::<prop::sample::Index>()
    ) {
        let partitioner = Partitioner::new(&batch.schema(), &["k".into(), "t".into()], shards).unwrap();
        let whole = partitioner.shards_of(&batch).unwrap();
        prop_assert!(whole.iter().all(|shard| *shard < shards));
        let at = at.index(batch.num_rows() + 1);
        let mut halves = partitioner.shards_of(&batch.slice(0, at)).unwrap();
        halves.extend(partitioner.shards_of(&batch.slice(at, batch.num_rows() - at)).unwrap());
        prop_assert_eq!(halves, whole);
    }

    #[test]
    fn schema_message_round_trips_and_damage_does_not_panic(
        batch in rows(1), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut message = schema_message(&batch.schema()).unwrap().to_vec();
        prop_assert_eq!(parse_schema(&message).unwrap(), batch.schema());
        let at = at.index(message.len());
        message[at] = byte;
        let _ = parse_schema(&message);
        let _ = parse_schema(&message[..at]);
    }

    /// The result is an error or valid rows: reading all values does not panic.
    #[test]
    fn damaged_messages_are_errors_or_valid_rows(
        batch in rows(50), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        in_body in any::<bool>()
    ) {
        let mut messages = batches_to_flight_data(&batch.schema(), vec![batch]).unwrap();
        let message = which.index(messages.len());
        let field = if in_body { &mut messages[message].data_body } else { &mut messages[message].data_header };
        let mut bytes = field.to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        *field = bytes.into();
        let mut decoder = BatchDecoder::new(1 << 20);
        for message in messages {
            match decoder.push(message) {
                Ok(DecodedMessage::Batch(read)) => drop(format!("{read:?}")),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}
