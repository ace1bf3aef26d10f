//! Copies of filters, and when tickets expire.
#![allow(clippy::unwrap_used)]

use volley_common::options::MAX_RETENTION_S;
use volley_common::wire::catalog::{NodeState, Pin, Replaced, TableSpec};

use super::*;

#[test]
fn long_filter_is_copied_into_few_tickets() {
    assert_eq!(filter_copies(None), u32::MAX);
    assert_eq!(filter_copies(Some("a > 1")), 1_677_721);
    assert_eq!(filter_copies(Some(&"x".repeat(64 << 10))), 128);
}

#[test]
fn serving_nodes_are_holders_then_others_and_not_too_many() {
    let node = |id: u64| Node {
        id,
        state: NodeState::Alive as i32,
        degraded_reason: if id % 10 == 3 { "slow".into() } else { String::new() },
        read_only_reason: if id == 150 { "full".into() } else { String::new() },
        ..Node::default()
    };
    let nodes: Vec<Node> = (1..=200).map(node).collect();
    let mut live: Vec<&Node> = nodes.iter().collect();
    live.rotate_left(148);
    let ids = |holders: &[u64]| rank_serving(&live, holders).iter().map(|node| node.id).collect::<Vec<_>>();
    assert_eq!((ids(&[7, 150, 3])[..5].to_vec(), ids(&[7, 150, 3]).len()), (vec![150, 7, 3, 149, 151], 100));
    // Without holders, as for a put, to those that are writable.
    assert_eq!(ids(&[])[..5], [149, 151, 152, 154, 155]);
    live.truncate(3);
    let few: Vec<u64> = rank_serving(&live, &[]).iter().map(|node| node.id).collect();
    assert_eq!(few, [149, 151, 150]);
}

fn table() -> Table {
    Table {
        version: 5,
        spec: Some(TableSpec { retention_ms: 1000, ..TableSpec::default() }),
        replaced: [(3, 700), (5, 900)]
            .map(|(version, until_ms)| Replaced { version, until_ms, ..Replaced::default() })
            .into(),
        ..Table::default()
    }
}

#[test]
fn ticket_of_the_newest_version_lasts_for_the_retention() {
    assert_eq!(expires_ms(&table(), 5, 100, 7), 1100);
}

#[test]
fn ticket_of_a_table_of_an_earlier_version_lasts() {
    let expires = |retention_ms| {
        let spec = Some(TableSpec { retention_ms, ..TableSpec::default() });
        expires_ms(&Table { spec, ..table() }, 5, 100, 7_000)
    };
    assert_eq!((expires(0), expires(u64::MAX)), (7_100, MAX_RETENTION_S * 1000 + 100));
}

#[test]
fn ticket_of_a_replaced_version_ends_with_its_parts() {
    assert_eq!(expires_ms(&table(), 4, 100, 7), 900);
    assert_eq!(expires_ms(&table(), 2, 100, 7), 700);
    let pinned = Table { pins: vec![Pin { version: 2, until_ms: 800 }], ..table() };
    assert_eq!(expires_ms(&pinned, 2, 100, 7), 800);
    assert_eq!(expires_ms(&pinned, 4, 100, 7), 900);
}
