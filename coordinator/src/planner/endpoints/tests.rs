#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::ipc::statistics::BoundOperator;
use volley_common::wire::catalog::{Node, Part, Row, row};
use volley_common::wire::statistics::PartBounds;
use volley_common::{Code, PartId};

use super::*;

/// Nodes 1 to `nodes`, and a table with one part per list of holders, of 10 rows and 100 bytes each.
fn catalog(nodes: u64, parts: &[&[u64]]) -> (Catalog, Table) {
    let mut catalog = Catalog::default();
    for id in 1..=nodes {
        let node = Node { id, flight_uri: format!("grpc+tcp://n{id}:1"), ..Node::default() };
        catalog.insert_row(Row { row: Some(row::Row::Node(node)) });
    }
    let table = Table { id: 1, name: vec!["t".into()], version: 1, ..Table::default() };
    catalog.insert_row(Row { row: Some(row::Row::Table(table.clone())) });
    for (seq, holders) in parts.iter().enumerate() {
        let part = Part {
            id: Some(PartId(seq as u128 + 1).into()),
            table: 1,
            added: 1,
            seq: seq as u64,
            shard: seq as u32 + 50,
            rows: 10,
            bytes: 100,
            holders: holders.to_vec(),
            ..Part::default()
        };
        catalog.insert_row(Row { row: Some(row::Row::Part(part)) });
    }
    (catalog, table)
}

fn alive(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

/// An endpoint as a reader decodes it.
struct DecodedEndpoint {
    parts: Vec<TicketPart>,
    locations: Vec<String>,
    rows: u64,
    limit: Option<u64>,
}

fn decode(plan: &VersionPlan, rotation: usize) -> Vec<DecodedEndpoint> {
    let endpoint = |at: usize| {
        let ticket = Ticket::decode(plan.endpoints[at].ticket_suffix.clone()).unwrap();
        assert_eq!(ticket.parts.len(), plan.endpoints[at].parts);
        let locations: Vec<String> = plan.locations(at, rotation).map(|uri| plan.uris[uri].clone()).collect();
        assert_eq!(locations.len(), plan.endpoints[at].location_count());
        DecodedEndpoint { parts: ticket.parts, locations, rows: plan.endpoints[at].rows, limit: ticket.limit }
    };
    let endpoints: Vec<DecodedEndpoint> = (0..plan.endpoints.len()).map(endpoint).collect();
    assert_eq!(plan.part_shards, all_ids(&endpoints).iter().map(|id| *id as u32 + 49).collect::<Vec<_>>());
    endpoints
}

/// The endpoints of version 1.
fn endpoints(
    catalog: &Catalog,
    table: &Table,
    max_endpoints: usize,
    alive: &BTreeSet<NodeId>,
    rotation: usize,
) -> Result<Vec<DecodedEndpoint>> {
    Ok(decode(&plan_endpoints(catalog, table, 1, max_endpoints, None, alive, "")?, rotation))
}

fn ids(endpoint: &DecodedEndpoint) -> Vec<u64> {
    endpoint.parts.iter().map(|part| part.id.as_ref().unwrap().lo).collect()
}

fn all_ids(endpoints: &[DecodedEndpoint]) -> Vec<u64> {
    endpoints.iter().flat_map(ids).collect()
}

fn uris(endpoints: &[DecodedEndpoint]) -> BTreeSet<&str> {
    endpoints.iter().flat_map(|endpoint| endpoint.locations.iter().map(String::as_str)).collect()
}

#[test]
fn endpoint_lists_all_live_holders_of_its_part() {
    let (catalog, table) = catalog(3, &[&[1, 2], &[2, 3], &[3, 1]]);
    let plans = endpoints(&catalog, &table, 1024, &alive([1, 2]), 0).unwrap();
    assert_eq!(all_ids(&plans), [1, 2, 3]);
    assert_eq!(plans[0].locations.len(), 2);
    assert_eq!(plans[1].locations, ["grpc+tcp://n2:1"]);
    assert_eq!(plans[2].locations, ["grpc+tcp://n1:1"]);
    assert_eq!(plans[2].parts[0].holders, [1, 3]);
    assert!(plans.iter().all(|plan| (plan.rows, plan.limit) == (10, None)));
    let totals = plan_endpoints(&catalog, &table, 1, 1024, None, &alive([1, 2]), "").unwrap();
    assert_eq!((totals.rows, totals.bytes, totals.has_parts()), (30, 300, true));
}

#[test]
fn first_location_rotates_over_endpoints_and_calls() {
    let (catalog, table) = catalog(2, &[&[1, 2], &[1, 2]]);
    let first = |rotation| -> Vec<String> {
        let plans = endpoints(&catalog, &table, 9, &alive([1, 2]), rotation).unwrap();
        plans.iter().map(|plan| plan.locations[0].clone()).collect()
    };
    assert_eq!(first(0), ["grpc+tcp://n1:1", "grpc+tcp://n2:1"]);
    assert_eq!(first(1), ["grpc+tcp://n2:1", "grpc+tcp://n1:1"]);
    assert_eq!(first(usize::MAX).len(), 2);
}

#[test]
fn doubted_node_is_the_last_location_of_every_endpoint() {
    let (catalog, table) = catalog(3, &[&[1, 2, 3], &[1, 2], &[2], &[2, 3]]);
    let plan = plan_endpoints(&catalog, &table, 1, 9, None, &alive([1, 2, 3]), "").unwrap();
    let doubted = plan.uris_of(&alive([2]));
    let second = plan.uris.iter().position(|uri| uri == "grpc+tcp://n2:1").unwrap();
    for (endpoint, rotation) in (0..plan.endpoints.len()).flat_map(|at| [(at, 0), (at, 1), (at, 2)]) {
        let locations: Vec<usize> = plan.locations_by_health(endpoint, rotation, &doubted).collect();
        assert_eq!(locations.last(), Some(&second), "endpoint {endpoint}, rotation {rotation}");
        assert_eq!(locations.len(), plan.endpoints[endpoint].location_count());
    }
    assert!(plan.uris_of(&alive([])).is_empty());
    let (empty, table) = self::catalog(2, &[]);
    let plan = plan_endpoints(&empty, &table, 1, 9, None, &alive([1, 2]), "").unwrap();
    assert_eq!(plan.locations_by_health(0, 0, &plan.uris_of(&alive([1]))).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn more_parts_than_endpoints_form_consecutive_runs() {
    let holders: Vec<&[u64]> = vec![&[1]; 10];
    let (catalog, table) = catalog(1, &holders);
    for max_endpoints in 1..12 {
        let plans = endpoints(&catalog, &table, max_endpoints, &alive([1]), 0).unwrap();
        assert_eq!(plans.len(), max_endpoints.min(10));
        assert_eq!(all_ids(&plans), (1..=10).collect::<Vec<_>>());
        let sizes: Vec<usize> = plans.iter().map(|plan| plan.parts.len()).collect();
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
    }
}

#[test]
fn run_lists_the_node_with_most_parts_first() {
    let (catalog, table) = catalog(3, &[&[1], &[2, 3], &[2], &[3, 2]]);
    for rotation in 0..4 {
        let plans = endpoints(&catalog, &table, 1, &alive([1, 2, 3]), rotation).unwrap();
        assert_eq!(plans[0].locations[..2], ["grpc+tcp://n2:1", "grpc+tcp://n3:1"]);
        assert_eq!(plans[0].locations.len(), 3);
    }
}

#[test]
fn empty_table_is_one_endpoint_that_any_node_serves() {
    let (catalog, table) = catalog(5, &[]);
    let plans = endpoints(&catalog, &table, 9, &alive([2, 5]), 1).unwrap();
    assert_eq!((plans.len(), plans[0].parts.len(), plans[0].rows), (1, 0, 0));
    assert_eq!(plans[0].locations, ["grpc+tcp://n5:1", "grpc+tcp://n2:1"]);
    assert!(!plan_endpoints(&catalog, &table, 1, 9, None, &alive([2, 5]), "").unwrap().has_parts());
    let plans = endpoints(&catalog, &table, 9, &alive([]), 1).unwrap();
    assert!(plans[0].locations.is_empty());
    let plans = endpoints(&catalog, &table, 9, &alive(1..=5), 4).unwrap();
    assert_eq!(plans[0].locations, ["grpc+tcp://n5:1", "grpc+tcp://n1:1", "grpc+tcp://n2:1"]);
}

#[test]
fn part_without_a_live_holder_is_named_in_the_error() {
    let (catalog, table) = catalog(2, &[&[1], &[2], &[]]);
    let error = endpoints(&catalog, &table, 9, &alive([1]), 0).err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("shard 51") && error.message.contains("\"t\""), "{error}");
    assert!(error.message.contains(&NodeId(2).to_string()), "{error}");
    let error = plan_endpoints(&catalog, &table, 1, 1, None, &alive([1, 2]), "").unwrap_err();
    assert!(error.message.contains("no node has a copy"), "{error}");
}

#[test]
fn at_most_twenty_uris_cover_all_endpoints_if_possible() {
    // 100 parts on two adjacent nodes each of a ring of 30, so that 15 nodes cover all parts.
    let holders: Vec<Vec<u64>> = (0..100).map(|at| vec![at % 30 + 1, (at + 1) % 30 + 1]).collect();
    let slices: Vec<&[u64]> = holders.iter().map(Vec::as_slice).collect();
    let (catalog, table) = catalog(30, &slices);
    let plans = endpoints(&catalog, &table, 1024, &alive(1..=30), 3).unwrap();
    assert!(uris(&plans).len() < MAX_URIS, "{}", uris(&plans).len());
    assert!(plans.iter().all(|plan| !plan.locations.is_empty()));
}

#[test]
fn endpoint_beyond_twenty_uris_has_no_node_location() {
    let holders: Vec<[u64; 1]> = (1..=25).map(|node| [node]).collect();
    let slices: Vec<&[u64]> = holders.iter().map(|h| h.as_slice()).collect();
    let (catalog, table) = catalog(25, &slices);
    let plans = endpoints(&catalog, &table, 1024, &alive(1..=25), 0).unwrap();
    assert_eq!(uris(&plans).len(), MAX_URIS - 1);
    assert_eq!(plans.iter().filter(|plan| plan.locations.is_empty()).count(), 6);
    assert_eq!(all_ids(&plans).len(), 25);
}

#[test]
fn limit_leaves_out_the_parts_beyond_it() {
    let (catalog, table) = catalog(1, &[&[1], &[1], &[1], &[]]);
    let limited = |max_endpoints, limit| {
        plan_endpoints(&catalog, &table, 1, max_endpoints, Some(limit), &alive([1]), "").map(|plan| decode(&plan, 0))
    };
    let plans = limited(9, 25).unwrap();
    assert_eq!(
        plans.iter().map(|plan| (plan.rows, plan.limit)).collect::<Vec<_>>(),
        [(10, None), (10, None), (5, Some(5))]
    );
    let plans = limited(9, 20).unwrap();
    assert_eq!(plans.iter().map(|plan| (plan.rows, plan.limit)).collect::<Vec<_>>(), [(10, None), (10, None)]);
    let plans = limited(1, 15).unwrap();
    assert_eq!((all_ids(&plans), plans[0].rows, plans[0].limit), (vec![1, 2], 15, Some(15)));
    let plans = limited(9, 0).unwrap();
    assert_eq!((plans.len(), plans[0].parts.len(), plans[0].limit), (1, 0, Some(0)));
    assert_eq!(limited(9, 31).err().unwrap().code, Code::Unavailable);
}

/// Gives the part of this id values of its first column, all of which are this one.
fn set_value(catalog: &mut Catalog, id: u128, value: u8) {
    let bounds = PartBounds {
        columns: vec![0],
        nulls: vec![0],
        minimum_lengths: vec![1].into(),
        minimums: vec![value].into(),
        maximum_lengths: vec![1].into(),
        maximums: vec![value].into(),
    };
    let part = catalog.part(PartId(id)).unwrap().to_part();
    let part = Part { statistics: bounds.encode_to_vec().into(), ..part };
    catalog.insert_row(Row { row: Some(row::Row::Part(part)) });
}

#[test]
fn filtered_plan_has_only_parts_that_can_match() {
    // Part 4 is of an earlier version. No live node has part 2.
    let (mut catalog, table) = catalog(2, &[&[1], &[9], &[2], &[1]]);
    (1..=3).for_each(|id| set_value(&mut catalog, id.into(), id));
    let at_least =
        |value: u8| BoundFilter::Compare { column: 0, operator: BoundOperator::GreaterOrEqual, value: [value].into() };
    let plan = |filter: &BoundFilter, most| plan_filtered(&catalog, &table, 1, most, filter, &alive([1, 2]), "");
    let of_three = plan(&at_least(3), 9).unwrap();
    assert_eq!((of_three.rows, of_three.bytes, of_three.pruned), (20, 200, 2));
    assert_eq!(decode(&of_three, 0).iter().map(ids).collect::<Vec<_>>(), [vec![3], vec![4]]);
    assert_eq!(decode(&plan(&at_least(3), 1).unwrap(), 0).iter().map(ids).collect::<Vec<_>>(), [vec![3, 4]]);
    assert_eq!(plan(&at_least(2), 9).unwrap_err().code, Code::Unavailable, "part 2 may have a row");
    let other_column = BoundFilter::Compare { column: 1, operator: BoundOperator::Less, value: [].into() };
    assert_eq!(plan(&other_column, 9).unwrap_err().code, Code::Unavailable, "nothing is known of the column");
}

#[test]
fn filter_that_no_part_matches_gives_one_empty_stream() {
    let (mut catalog, table) = catalog(2, &[&[1], &[2]]);
    (1..=2).for_each(|id| set_value(&mut catalog, id.into(), id));
    let plan = plan_filtered(&catalog, &table, 1, 9, &BoundFilter::never(), &alive([1, 2]), "").unwrap();
    assert!(!plan.has_parts());
    assert_eq!((plan.rows, plan.pruned), (0, 2));
    let endpoints = decode(&plan, 0);
    assert_eq!((endpoints.len(), endpoints[0].parts.len(), endpoints[0].locations.len()), (1, 0, 2));
}

#[test]
fn degraded_node_is_listed_last() {
    let (mut catalog, table) = catalog(3, &[&[1, 2, 3], &[1, 2]]);
    let node = Node { degraded_reason: "slow".into(), ..catalog.node(NodeId(1)).unwrap().clone() };
    catalog.insert_row(Row { row: Some(row::Row::Node(node)) });
    for rotation in 0..6 {
        let plans = endpoints(&catalog, &table, 9, &alive(1..=3), rotation).unwrap();
        for plan in &plans {
            assert_eq!(plan.locations.last().unwrap(), "grpc+tcp://n1:1");
            assert_eq!(plan.parts[0].holders.last(), Some(&1));
        }
    }
}

/// The nodes that a greedy cover selects, with all endpoints counted anew for each.
fn greedy_cover(holders: &[Vec<RunHolder>]) -> BTreeSet<NodeId> {
    let mut selected = BTreeSet::new();
    while selected.len() < MAX_URIS - 1 {
        let mut gains: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for endpoint in holders {
            let is_served = endpoint.iter().any(|holder| selected.contains(&holder.node));
            for node in endpoint.iter().map(|holder| holder.node).filter(|node| !selected.contains(node)) {
                let gain = gains.entry(node).or_default();
                *gain = (gain.0 + usize::from(!is_served), gain.1 + 1);
            }
        }
        let best = gains.into_iter().max_by_key(|(node, gain)| (*gain, std::cmp::Reverse(*node)));
        let Some((best, _)) = best else { break };
        selected.insert(best);
    }
    selected
}

#[test]
fn nodes_of_many_endpoints_are_a_greedy_cover() {
    let mut random = StdRng::seed_from_u64(3);
    for (nodes, endpoints) in [(19, 50), (20, 50), (40, 5), (60, 200), (300, 100)] {
        let endpoint = |_| {
            let holders: BTreeSet<u64> =
                (0..random.random_range(1..5)).map(|_| random.random_range(0..nodes)).collect();
            let holder = |node| RunHolder { node: NodeId(node), degraded: false, parts: 1, rank: 0 };
            holders.into_iter().map(holder).collect()
        };
        let holders: Vec<Vec<RunHolder>> = (0..endpoints).map(endpoint).collect();
        let selected = select_nodes(&holders);
        if nodes < MAX_URIS as u64 {
            assert_eq!(
                selected.len(),
                holders.iter().flatten().map(|holder| holder.node).collect::<BTreeSet<_>>().len()
            );
        } else {
            assert_eq!(selected, greedy_cover(&holders), "{nodes} nodes, {endpoints} endpoints");
        }
    }
}

/// As the ticket of a whole table has it in a large cluster.
#[test]
fn holders_of_a_long_run_are_ranked_by_their_parts() {
    // Node 1 has all parts, node 2 half of them, and each part a node of its own.
    let holders: Vec<Vec<u64>> =
        (0..100).map(|at| if at % 2 == 0 { vec![1, 2, 100 + at] } else { vec![1, 100 + at] }).collect();
    let (catalog, table) = catalog(200, &holders.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let plan = plan_endpoints(&catalog, &table, 1, 1, None, &alive(1..=200), "").unwrap();
    assert_eq!((plan.endpoints.len(), plan.endpoints[0].parts), (1, 100));
    assert_eq!(plan.nodes.len(), MAX_URIS - 1);
    let first: Vec<&str> = plan.locations(0, 0).take(2).map(|uri| plan.uris[uri].as_str()).collect();
    assert_eq!(first, ["grpc+tcp://n1:1", "grpc+tcp://n2:1"]);
}
