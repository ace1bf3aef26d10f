use std::collections::{BTreeMap, BTreeSet};

use volley_common::NodeId;
use volley_common::placement::{Candidate, ReplicaCounts, place};
use volley_common::wire::catalog::{NodeState, ShardPlacement, Table, row};
use xxhash_rust::xxh3::xxh3_64;

use super::helpers::*;
use crate::catalog::Catalog;
use crate::scheduler::rebalance::rebalance;

fn id(at: u64) -> u64 {
    xxh3_64(&at.to_le_bytes())
}

fn zone(at: u64, zones: u64) -> String {
    format!("z{}", at % zones)
}

fn add(catalog: &mut Catalog, at: u64, zones: u64) {
    let mut new = node(id(at));
    new.zone = zone(at, zones);
    put(catalog, row::Row::Node(new));
}

/// Tables with the given numbers of shards and two replicas each, placed on `count` nodes in turn, as puts would.
fn cluster(count: u64, zones: u64, tables: &[u32]) -> Catalog {
    let mut catalog = Catalog::default();
    (0..count).for_each(|at| add(&mut catalog, at, zones));
    let candidate = |at| Candidate { id: NodeId(id(at)), zone: zone(at, zones), capacity: 0 };
    let candidates: Vec<Candidate> = (0..count).map(candidate).collect();
    let mut load = ReplicaCounts::new();
    for (at, shards) in (1..).zip(tables) {
        let placed = place(&candidates, at, *shards, 2, &load);
        placed.iter().flatten().for_each(|node| *load.entry(*node).or_default() += 1);
        let placement = placed.iter().map(|nodes| ShardPlacement { nodes: nodes.iter().map(|node| node.0).collect() });
        put(&mut catalog, row::Row::Table(Table { placement: placement.collect(), ..table(at, 2, &[]) }));
    }
    catalog
}

/// Every shard's nodes.
fn shards(catalog: &Catalog) -> Vec<Vec<u64>> {
    catalog.tables().flat_map(|table| table.placement.iter().map(|holders| holders.nodes.clone())).collect()
}

fn loads(catalog: &Catalog) -> BTreeMap<u64, usize> {
    let mut loads: BTreeMap<u64, usize> = catalog.nodes().map(|node| (node.id, 0)).collect();
    shards(catalog).concat().into_iter().for_each(|node| *loads.entry(node).or_default() += 1);
    loads
}

/// Applies the new placement and returns how many replicas moved. A second run moves none.
fn apply_rebalance(catalog: &mut Catalog) -> usize {
    let before = shards(catalog);
    apply_placements(catalog);
    let after = shards(catalog);
    assert!(rebalance(catalog, &nodes(catalog)).is_empty(), "a second run moves nothing");
    before.iter().zip(after).map(|(old, new)| new.iter().filter(|node| !old.contains(node)).count()).sum()
}

fn apply_placements(catalog: &mut Catalog) {
    for placed in rebalance(catalog, &nodes(catalog)) {
        let table = Table { placement: placed.placement, ..catalog.table(placed.table).unwrap().clone() };
        put(catalog, row::Row::Table(table));
    }
}

/// Checks that no two replicas of a shard share a node, or a zone if there are enough zones.
fn check_zones(catalog: &Catalog, zones: u64) {
    let zone = |node: &u64| catalog.node(NodeId(*node)).map(|node| node.zone.clone());
    for shard in shards(catalog) {
        assert_eq!(shard.iter().collect::<BTreeSet<_>>().len(), 2);
        assert_eq!(shard.iter().map(zone).collect::<BTreeSet<_>>().len() as u64, zones.min(2));
    }
}

/// Clusters of several sizes: nodes, zones, shards of each table.
fn shapes() -> Vec<(u64, u64, Vec<u32>)> {
    let small: Vec<u32> = (0..300).map(|at| 1 + at % 4).collect();
    vec![
        (3, 1, vec![16]),
        (3, 3, vec![64, 1, 1, 1]),
        (5, 5, vec![16; 20]),
        (10, 3, vec![1000]),
        (10, 5, small),
        (100, 5, vec![2000, 4, 4, 512]),
    ]
}

#[test]
fn joining_node_gets_its_share_and_nothing_else_moves() {
    for (count, zones, tables) in shapes() {
        let mut catalog = cluster(count, zones, &tables);
        let uneven = apply_rebalance(&mut catalog);
        assert!(uneven * 50 <= shards(&catalog).len(), "{count} nodes, {zones} zones: {uneven} moved without need");
        add(&mut catalog, count, zones);
        let moved = apply_rebalance(&mut catalog);
        let (loads, all) = (loads(&catalog), 2 * tables.iter().sum::<u32>() as usize);
        let (fair, got) = (all as f64 / (count + 1) as f64, loads[&id(count)]);
        let text = format!("{count} nodes, {zones} zones: {moved} moved, {fair} is fair, {loads:?}");
        assert_eq!(moved, got, "only to the new node: {text}");
        assert!(got as f64 >= (0.8 * fair).floor() && moved as f64 <= 1.3 * fair, "{text}");
        assert!(loads.values().all(|load| *load as f64 <= (1.25 * fair).ceil()), "{text}");
        check_zones(&catalog, zones);
    }
}

#[test]
fn leaving_node_loses_its_shards_and_nothing_else_moves() {
    for (count, zones, tables) in shapes().into_iter().filter(|(count, zones, _)| count > zones || *count > 3) {
        for how in 0..2 {
            let mut catalog = cluster(count, zones, &tables);
            let had = loads(&catalog)[&id(1)];
            match how {
                0 => with(&mut catalog, id(1), |node| node.draining = true),
                _ => unreachable_for(&mut catalog, id(1), REPAIR_DELAY),
            }
            let moved = apply_rebalance(&mut catalog);
            let (loads, all) = (loads(&catalog), 2 * tables.iter().sum::<u32>() as usize);
            let fair = all as f64 / (count - 1) as f64;
            let text = format!("{count} nodes, {zones} zones: {moved} moved, it had {had}, {fair} is fair, {loads:?}");
            assert_eq!(loads[&id(1)], 0, "{text}");
            assert!(moved as f64 <= 1.3 * had as f64, "{text}");
            if count > 2 * zones {
                assert!(loads.values().all(|load| *load as f64 <= (1.25 * fair).ceil()), "{text}");
            }
            check_zones(&catalog, zones);
        }
    }
}

#[test]
fn node_in_grace_or_read_only_keeps_shards_and_gets_none() {
    let mut catalog = cluster(4, 1, &[40]);
    let had = loads(&catalog)[&id(1)];
    unreachable_for(&mut catalog, id(1), REPAIR_DELAY - 1);
    assert_eq!(apply_rebalance(&mut catalog), 0);
    with(&mut catalog, id(1), |node| {
        (node.state, node.unreachable_since_ms, node.read_only_reason) =
            (NodeState::Alive as i32, 0, "disk full".into());
    });
    with(&mut catalog, id(2), |node| node.draining = true);
    apply_rebalance(&mut catalog);
    assert_eq!(loads(&catalog)[&id(1)], had);
    add(&mut catalog, 4, 1);
    with(&mut catalog, id(4), |node| node.read_only_reason = "disk full".into());
    assert_eq!((apply_rebalance(&mut catalog), loads(&catalog)[&id(4)]), (0, 0));
}

#[test]
fn shards_wait_for_their_node_if_no_other_can_take_them() {
    let mut catalog = cluster(2, 1, &[8]);
    let before = shards(&catalog);
    unreachable_for(&mut catalog, id(1), REPAIR_DELAY);
    assert_eq!(apply_rebalance(&mut catalog), 0);
    with(&mut catalog, id(0), |node| node.draining = true);
    assert_eq!((apply_rebalance(&mut catalog), shards(&catalog)), (0, before));
    add(&mut catalog, 2, 1);
    add(&mut catalog, 3, 1);
    apply_rebalance(&mut catalog);
    assert!(shards(&catalog).concat().iter().all(|node| [id(2), id(3)].contains(node)));
}

#[test]
fn returning_node_gets_the_shards_it_has_on_disk() {
    let mut catalog = cluster(4, 1, &[64]);
    let before = shards(&catalog);
    for (seq, nodes) in before.iter().enumerate() {
        let mut part = part(seq as u128 + 1, seq as u64, nodes);
        part.shard = seq as u32;
        put(&mut catalog, row::Row::Part(part));
    }
    unreachable_for(&mut catalog, id(1), REPAIR_DELAY);
    apply_rebalance(&mut catalog);
    with(&mut catalog, id(1), |node| (node.state, node.unreachable_since_ms) = (NodeState::Alive as i32, 0));
    apply_rebalance(&mut catalog);
    let back = shards(&catalog);
    let new = (0..64).filter(|at| back[*at].contains(&id(1)) && !before[*at].contains(&id(1)));
    assert!(new.count() <= 4, "little besides what it had");
    assert!(loads(&catalog)[&id(1)] >= 24, "{:?}", loads(&catalog));
}

#[test]
fn parts_of_shards_that_an_old_version_had_move_nothing() {
    let mut catalog = cluster(4, 1, &[8]);
    add(&mut catalog, 4, 1);
    let mut old = part(1, 1, &[id(4)]);
    old.shard = 40;
    put(&mut catalog, row::Row::Part(old));
    assert_eq!(apply_rebalance(&mut catalog), loads(&catalog)[&id(4)]);
    assert!((2..=4).contains(&loads(&catalog)[&id(4)]), "{:?}", loads(&catalog));
}

/// Table 1 is busy: the new node has taken one of three parts of each of its shards.
#[test]
fn new_node_with_some_parts_of_a_table_gets_shards_of_all() {
    let mut catalog = cluster(4, 1, &[64, 64]);
    add(&mut catalog, 4, 1);
    for seq in 0..3 * 64_u64 {
        let holder = if seq % 3 == 0 { id(4) } else { id(0) };
        let mut part = part(u128::from(seq) + 1, seq, &[holder]);
        part.shard = (seq / 3) as u32;
        put(&mut catalog, row::Row::Part(part));
    }
    apply_rebalance(&mut catalog);
    for table in catalog.tables() {
        let count = table.placement.iter().filter(|shard| shard.nodes.contains(&id(4))).count();
        assert!((20..=30).contains(&count), "table {} has {count} of 128 replicas there", table.id);
    }
}

#[test]
fn second_zone_gets_a_replica_of_every_shard() {
    let mut catalog = cluster(3, 1, &[10]);
    let mut other = node(7);
    other.zone = "other".into();
    put(&mut catalog, row::Row::Node(other));
    assert_eq!(apply_rebalance(&mut catalog), 10);
    assert!(shards(&catalog).iter().all(|shard| shard.contains(&7)));
}

#[test]
fn table_with_missing_replicas_gets_them_from_a_new_node() {
    let mut catalog = cluster(1, 1, &[4]);
    assert!(shards(&catalog).iter().all(|shard| shard.len() == 1));
    add(&mut catalog, 1, 1);
    assert_eq!(apply_rebalance(&mut catalog), 4);
    check_zones(&catalog, 1);
}
