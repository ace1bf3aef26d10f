use super::*;

fn nodes(count: u64, zones: u64) -> Vec<Candidate> {
    (1..=count).map(|at| candidate(at, &format!("z{}", at % zones), 0)).collect()
}

/// A candidate whose id is spread over the 64 bits, as random ids are.
fn candidate(at: u64, zone: &str, capacity: u64) -> Candidate {
    Candidate { id: NodeId(xxh3_64(&at.to_le_bytes())), zone: zone.into(), capacity }
}

fn loads(placement: &[Vec<NodeId>]) -> ReplicaCounts {
    let mut load = ReplicaCounts::new();
    for id in placement.iter().flatten() {
        *load.entry(*id).or_default() += 1;
    }
    load
}

fn moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
    before.iter().zip(after).map(|(old, new)| new.iter().filter(|id| !old.contains(id)).count()).sum()
}

#[test]
fn hundred_nodes_share_evenly_and_a_joining_one_moves_its_own() {
    const SHARDS: u32 = 10_000;
    for table in [1, 2, 77, u64::MAX] {
        for zones in [5, 3, 100] {
            let all = nodes(101, zones);
            let before = place(&all[..100], table, SHARDS, 2, &ReplicaCounts::new());
            let most = *loads(&before).values().max().unwrap() as f64 / 200.0;
            assert!(most <= 1.25, "table {table}, {zones} zones: a node has {most} times its share");

            let after = place(&all, table, SHARDS, 2, &ReplicaCounts::new());
            let share = moved(&before, &after) as f64 / 20_000.0;
            assert!(share <= 0.013, "table {table}, {zones} zones: {share} of the replicas moved");
            assert!(share >= 0.005, "the new node got too little: {share}");
        }
    }
}

#[test]
fn leaving_node_moves_little_more_than_its_replicas() {
    let all = nodes(100, 5);
    let before = place(&all, 9, 10_000, 2, &ReplicaCounts::new());
    let had = loads(&before)[&all[40].id] as usize;
    let rest: Vec<_> = all.iter().filter(|node| node.id != all[40].id).cloned().collect();
    let after = place(&rest, 9, 10_000, 2, &ReplicaCounts::new());
    assert!(moved(&before, &after) <= had + 60, "{} moved, {had} had to", moved(&before, &after));
}

#[test]
fn replicas_share_no_zone_if_there_are_enough() {
    let all = nodes(100, 5);
    let zone: BTreeMap<NodeId, &str> = all.iter().map(|node| (node.id, node.zone.as_str())).collect();
    for replicas in 1..=5 {
        for shard in place(&all, 4, 2_000, replicas, &ReplicaCounts::new()) {
            let zones: BTreeSet<&str> = shard.iter().map(|id| zone[id]).collect();
            assert_eq!((shard.len(), zones.len()), (replicas as usize, replicas as usize));
        }
    }
}

#[test]
fn more_replicas_than_zones_use_every_zone() {
    let all = nodes(12, 3);
    let zone: BTreeMap<NodeId, &str> = all.iter().map(|node| (node.id, node.zone.as_str())).collect();
    for shard in place(&all, 4, 500, 5, &ReplicaCounts::new()) {
        assert_eq!(shard.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(shard.iter().map(|id| zone[id]).collect::<BTreeSet<_>>().len(), 3);
    }
}

#[test]
fn zones_take_precedence_over_the_load_bound() {
    let mut all: Vec<_> = (2..=10).map(|at| candidate(at, "big", 0)).collect();
    all.push(candidate(1, "small", 0));
    let lone = all[9].id;
    assert!(place(&all, 1, 300, 2, &ReplicaCounts::new()).iter().all(|shard| shard.contains(&lone)));
    // With a third zone the bound holds.
    all.extend((11..=20).map(|at| candidate(at, "other", 0)));
    let load = loads(&place(&all, 1, 300, 2, &ReplicaCounts::new()));
    let bound = (600.0 * LOAD_BOUND / 20.0).ceil() as u64;
    assert!(load.values().all(|replicas| *replicas <= bound), "{load:?}");
}

#[test]
fn fewer_nodes_than_replicas_gives_shorter_lists() {
    assert_eq!(place(&[], 1, 3, 2, &ReplicaCounts::new()), vec![Vec::new(); 3]);
    assert_eq!(order(&[], 1, 0), []);
    let one = nodes(1, 1);
    assert_eq!(place(&one, 1, 2, 3, &ReplicaCounts::new()), vec![vec![one[0].id]; 2]);
    assert_eq!(place(&nodes(3, 1), 1, 1, 0, &ReplicaCounts::new()), vec![Vec::new()]);
    assert!(place(&one, 1, 0, 2, &ReplicaCounts::new()).is_empty());
}

#[test]
fn share_is_proportional_to_capacity() {
    let mut all = nodes(10, 10);
    all.iter_mut().for_each(|node| node.capacity = 1 << 40);
    all[3].capacity = 3 << 40;
    all[4].capacity = 0;
    let load = loads(&place(&all, 1, 6_000, 1, &ReplicaCounts::new()));
    let share = |at: usize| load[&all[at].id] as f64 / 500.0;
    assert!((2.6..=3.6).contains(&share(3)), "three times the capacity has {} shares", share(3));
    assert!((0.7..=1.2).contains(&share(4)), "no known capacity has {} shares", share(4));
    assert_eq!(vnode_count(u64::MAX, 1), VNODES * 16);
    assert_eq!(vnode_count(1, u64::MAX), VNODES / 16);
}

#[test]
fn replicas_held_already_count() {
    let all = nodes(4, 4);
    let load: ReplicaCounts = [(all[0].id, 400)].into();
    let placement = place(&all, 1, 100, 2, &load);
    assert!(placement.iter().all(|shard| !shard.contains(&all[0].id)));
    // Many small tables placed one after the other are even, too.
    let mut load = ReplicaCounts::new();
    let all = nodes(10, 5);
    for table in 0..500 {
        for (id, replicas) in loads(&place(&all, table, 1, 2, &load)) {
            *load.entry(id).or_default() += replicas;
        }
    }
    assert!(load.values().all(|replicas| (60..=121).contains(replicas)), "{load:?}");
}

#[test]
fn order_and_duplicates_of_nodes_have_no_effect() {
    let all = nodes(9, 3);
    let expected = place(&all, 5, 64, 2, &ReplicaCounts::new());
    let mut shuffled: Vec<_> = all.iter().rev().cloned().collect();
    shuffled.extend(all.iter().cloned());
    assert_eq!(place(&shuffled, 5, 64, 2, &ReplicaCounts::new()), expected);
    let ring = Ring::new(&all);
    for (shard, chosen) in expected.iter().enumerate().take(5) {
        let order = ring.order(5, shard as u32);
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 9);
        assert!(chosen.iter().all(|id| order.contains(id)));
    }
}

/// The values come from another implementation (Python's `xxhash` and `bisect`): see docs/partitioning.md.
#[test]
fn ring_matches_golden_values() {
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

#[test]
fn kept_ring_is_that_of_the_same_nodes_only() {
    let (few, many) = (nodes(5, 2), nodes(6, 2));
    let mut other_zone = few.clone();
    other_zone[0].zone = "other".into();
    let mut larger = few.clone();
    larger[1].capacity = 7;
    for nodes in [&few, &few, &many, &other_zone, &larger, &few] {
        let expected = Ring::new(nodes).place(3, 50, 2, &ReplicaCounts::new());
        assert_eq!(place(nodes, 3, 50, 2, &ReplicaCounts::new()), expected);
    }
}
