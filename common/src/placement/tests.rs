use super::*;

fn nodes(count: u64, zones: u64) -> Vec<Candidate> {
    (1..=count).map(|at| candidate(at, &format!("z{}", at % zones), 0)).collect()
}

/// Ids as they are in life: all over the 64 bits.
fn candidate(at: u64, zone: &str, capacity: u64) -> Candidate {
    Candidate { id: NodeId(xxh3_64(&at.to_le_bytes())), zone: zone.into(), capacity }
}

fn loads(placement: &[Vec<NodeId>]) -> Load {
    let mut load = Load::new();
    for id in placement.iter().flatten() {
        *load.entry(*id).or_default() += 1;
    }
    load
}

fn moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
    before.iter().zip(after).map(|(old, new)| new.iter().filter(|id| !old.contains(id)).count()).sum()
}

#[test]
fn a_hundred_nodes_get_even_shares_and_another_moves_little_more_than_its_own() {
    const SHARDS: u32 = 10_000;
    for table in [1, 2, 77, u64::MAX] {
        for zones in [5, 3, 100] {
            let all = nodes(101, zones);
            let before = place(&all[..100], table, SHARDS, 2, &Load::new());
            let most = *loads(&before).values().max().unwrap() as f64 / 200.0;
            assert!(most <= 1.25, "table {table}, {zones} zones: a node has {most} times its share");

            let after = place(&all, table, SHARDS, 2, &Load::new());
            let share = moved(&before, &after) as f64 / 20_000.0;
            assert!(share <= 0.013, "table {table}, {zones} zones: {share} of the replicas moved");
            assert!(share >= 0.005, "the new node got next to nothing: {share}");
        }
    }
}

#[test]
fn a_node_that_leaves_moves_little_more_than_what_it_had() {
    let all = nodes(100, 5);
    let before = place(&all, 9, 10_000, 2, &Load::new());
    let had = loads(&before)[&all[40].id] as usize;
    let rest: Vec<_> = all.iter().filter(|node| node.id != all[40].id).cloned().collect();
    let after = place(&rest, 9, 10_000, 2, &Load::new());
    assert!(moved(&before, &after) <= had + 60, "{} moved, {had} had to", moved(&before, &after));
}

#[test]
fn no_two_replicas_share_a_zone_where_there_are_enough() {
    let all = nodes(100, 5);
    let zone: BTreeMap<NodeId, &str> = all.iter().map(|node| (node.id, node.zone.as_str())).collect();
    for replicas in 1..=5 {
        for shard in place(&all, 4, 2_000, replicas, &Load::new()) {
            let zones: BTreeSet<&str> = shard.iter().map(|id| zone[id]).collect();
            assert_eq!((shard.len(), zones.len()), (replicas as usize, replicas as usize));
        }
    }
}

#[test]
fn more_replicas_than_zones_are_on_distinct_nodes_in_every_zone() {
    let all = nodes(12, 3);
    let zone: BTreeMap<NodeId, &str> = all.iter().map(|node| (node.id, node.zone.as_str())).collect();
    for shard in place(&all, 4, 500, 5, &Load::new()) {
        assert_eq!(shard.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(shard.iter().map(|id| zone[id]).collect::<BTreeSet<_>>().len(), 3);
    }
}

#[test]
fn zones_come_before_the_load_bound() {
    let mut all: Vec<_> = (2..=10).map(|at| candidate(at, "big", 0)).collect();
    all.push(candidate(1, "small", 0));
    let lone = all[9].id;
    assert!(place(&all, 1, 300, 2, &Load::new()).iter().all(|shard| shard.contains(&lone)));
    // A third zone relieves it: then the bound holds.
    all.extend((11..=20).map(|at| candidate(at, "other", 0)));
    let load = loads(&place(&all, 1, 300, 2, &Load::new()));
    let bound = (600.0 * BOUND / 20.0).ceil() as u64;
    assert!(load.values().all(|replicas| *replicas <= bound), "{load:?}");
}

#[test]
fn fewer_nodes_than_replicas_and_none_at_all() {
    assert_eq!(place(&[], 1, 3, 2, &Load::new()), vec![Vec::new(); 3]);
    assert_eq!(order(&[], 1, 0), []);
    let one = nodes(1, 1);
    assert_eq!(place(&one, 1, 2, 3, &Load::new()), vec![vec![one[0].id]; 2]);
    assert_eq!(place(&nodes(3, 1), 1, 1, 0, &Load::new()), vec![Vec::new()]);
    assert!(place(&one, 1, 0, 2, &Load::new()).is_empty());
}

#[test]
fn capacity_weighs() {
    let mut all = nodes(10, 10);
    all.iter_mut().for_each(|node| node.capacity = 1 << 40);
    all[3].capacity = 3 << 40;
    all[4].capacity = 0;
    let load = loads(&place(&all, 1, 6_000, 1, &Load::new()));
    let share = |at: usize| load[&all[at].id] as f64 / 500.0;
    assert!((2.6..=3.6).contains(&share(3)), "three times the capacity has {} shares", share(3));
    assert!((0.7..=1.2).contains(&share(4)), "no known capacity has {} shares", share(4));
    assert_eq!(quantity(u64::MAX, 1), VNODES * 16);
    assert_eq!(quantity(1, u64::MAX), VNODES / 16);
}

#[test]
fn what_nodes_have_already_counts() {
    let all = nodes(4, 4);
    let load: Load = [(all[0].id, 400)].into();
    let placement = place(&all, 1, 100, 2, &load);
    assert!(placement.iter().all(|shard| !shard.contains(&all[0].id)));
    // Many small tables one after the other end up even, too.
    let mut load = Load::new();
    let all = nodes(10, 5);
    for table in 0..500 {
        for (id, replicas) in loads(&place(&all, table, 1, 2, &load)) {
            *load.entry(id).or_default() += replicas;
        }
    }
    assert!(load.values().all(|replicas| (60..=121).contains(replicas)), "{load:?}");
}

#[test]
fn order_and_duplicates_of_the_nodes_do_not_matter() {
    let all = nodes(9, 3);
    let expected = place(&all, 5, 64, 2, &Load::new());
    let mut shuffled: Vec<_> = all.iter().rev().cloned().collect();
    shuffled.extend(all.iter().cloned());
    assert_eq!(place(&shuffled, 5, 64, 2, &Load::new()), expected);
    let ring = Ring::new(&all);
    for (shard, chosen) in expected.iter().enumerate().take(5) {
        let order = ring.order(5, shard as u32);
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 9);
        assert!(chosen.iter().all(|id| order.contains(id)));
    }
}

/// Computed by another implementation (Python's `xxhash` and `bisect`): see docs/partitioning.md.
#[test]
fn the_ring_is_the_same_everywhere() {
    assert_eq!(ALGORITHM, 1);
    assert_eq!(PortableHash.hash_vnode(&1u64, 0), 0x26f2_a114_8cf5_2011);
    assert_eq!(PortableHash.hash_vnode(&1u64, 1), 0x6ca7_f978_e158_28a6);
    assert_eq!(PortableHash.hash_vnode(&0xfedc_ba98_7654_3210u64, 511), 0xa17f_1d59_ec95_5269);
    assert_eq!(PortableHash.hash_item(&(7u64, 3u32)), 0x6e88_25a8_8043_2387);
    assert_eq!(PortableHash.hash_item(&(u64::MAX, 0u32)), 0x58d6_871a_6d40_ee28);

    let four: Vec<_> = (1..=4).map(|id| Candidate { id: NodeId(id), zone: String::new(), capacity: 0 }).collect();
    let orders: Vec<Vec<u64>> = (0..4).map(|shard| order(&four, 42, shard).iter().map(|id| id.0).collect()).collect();
    assert_eq!(orders, [[4, 1, 3, 2], [1, 4, 2, 3], [3, 4, 2, 1], [1, 4, 3, 2]]);
}
