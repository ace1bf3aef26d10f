//! Tables are planned again as they were; coordinators that do not answer are not waited for twice.

use arrow::datatypes::{DataType, Field, Schema};
use futures::TryStreamExt;
use tokio::runtime::Runtime;
use volley_common::identity::Access;

use super::*;
use crate::context::NodeSecurity;
use crate::get::tests::cluster::TestNode;

/// The tables of a caller of a node, whose coordinators do not answer.
fn source_of(node: &TestNode) -> Arc<NodeSource> {
    let mut request = http::Request::new(());
    request.extensions_mut().insert(Access::open());
    NodeSource::new(SqlCaller::of(node.context.sql.clone(), &request.into_parts().0), HashMap::new())
}

fn planned(name: &str, schema: Schema, parts: usize, ticket: cluster::Ticket) -> PlannedTable {
    PlannedTable {
        name: name.parse().unwrap(),
        version: 3,
        schema: Arc::new(schema),
        parts: (0..parts).map(|_| PlannedPart { rows: 1 }).collect(),
        rows: parts as u64,
        bytes: 0,
        ticket: Arc::new(ticket),
        sharding: None,
    }
}

#[tokio::test]
async fn table_is_planned_again_by_its_id_and_version() {
    let node = TestNode::start().await;
    let source = source_of(&node);
    let table = TableAt { name: "a/b".parse().unwrap(), version: None };
    let newest = TableVersion { table: vec!["a".into(), "b".into()], ..TableVersion::default() };
    assert_eq!(source.versions(std::slice::from_ref(&table)), std::slice::from_ref(&newest));
    let ticket = cluster::Ticket {
        table_id: 7,
        expires_ms: 5,
        permitted_columns: 9,
        grant_epoch: 4,
        ..cluster::Ticket::default()
    };
    let planned = planned("a/b", Schema::empty(), 0, ticket);
    source.note(&table, &planned);
    assert_eq!(source.versions(&[table]), [TableVersion { version: Some(3), table_id: 7, ..newest }]);
    assert_eq!(source.expires_ms(), Some(5));
    let permitted_columns = BTreeMap::from([(vec!["a".into(), "b".into()], 9)]);
    assert_eq!(source.rights(), PlannedRights { permitted_columns, grant_epoch: Some(4) });
}

#[tokio::test]
async fn tables_share_one_deadline_to_leave_out_parts() {
    // It accepts connections and answers nothing.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let coordinator = hung.local_addr().unwrap().to_string();
    let node = TestNode::identifying(NodeSecurity::open(), &coordinator).await;
    let source = source_of(&node);
    let until = Instant::now() + Duration::from_millis(50);
    *source.pruning.0.lock() = Some(until);
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
    let filter = Predicate::parse("n > 7", &Arc::new(schema.clone())).unwrap();
    let ticket = cluster::Ticket { schema: b"message".to_vec().into(), ..cluster::Ticket::default() };
    let tables = ["a", "b"].map(|name| Arc::new(planned(name, schema.clone(), 9, ticket.clone())));
    for table in &tables {
        assert!(Arc::ptr_eq(&source.prune(table, &filter).await, table));
        assert!(Instant::now() >= until, "the hung coordinator was not waited for");
        assert_eq!(source.pruning.of_call(), until);
    }
    source.pruning.answered();
    assert!(source.pruning.of_call() > until);
}

#[test]
fn sharding_that_is_not_told_exactly_is_not_known() {
    let planned = cluster::PlannedTable {
        shards: 4,
        partition_algorithm: partition::ALGORITHM,
        part_shards: vec![3, 0, 3],
        ..cluster::PlannedTable::default()
    };
    let keys = || vec!["k".to_string()];
    let known = sharding(keys(), &planned, 3).unwrap();
    assert_eq!((known.keys, known.shards, known.part_shards), (keys(), 4, vec![3, 0, 3]));
    assert!(sharding(keys(), &planned, 2).is_none(), "of other parts");
    assert!(sharding(Vec::new(), &planned, 3).is_none(), "without keys");
    let changed = |change: fn(&mut cluster::PlannedTable)| {
        let mut planned = planned.clone();
        change(&mut planned);
        sharding(keys(), &planned, planned.part_shards.len())
    };
    assert!(changed(|planned| planned.partition_algorithm = 0).is_none(), "of a coordinator that does not say it");
    assert!(changed(|planned| planned.partition_algorithm += 1).is_none(), "by another function");
    assert!(changed(|planned| planned.shards = 3).is_none(), "with a shard that the table does not have");
}

#[test]
fn rows_are_read_by_the_other_runtime_and_a_panic_is_an_error() {
    let node = Runtime::new().unwrap();
    let engine = Runtime::new().unwrap();
    let thread = || std::thread::current().id();
    let sound = stream::iter(0..100).map(move |_| Ok(thread())).boxed();
    let read =
        engine.block_on(read_on(node.handle().clone(), KeptContext::default(), sound).try_collect::<Vec<_>>()).unwrap();
    assert!(read.len() == 100 && !read.contains(&thread()));
    let broken = stream::iter(0..100).map(|n| if n < 3 { Ok(n) } else { panic!("a fault") }).boxed();
    let mut read = read_on(node.handle().clone(), KeptContext::default(), broken);
    let items = engine.block_on(async {
        let mut items = Vec::new();
        while let Some(item) = read.next().await {
            items.push(item);
        }
        items
    });
    assert!(items.len() == 4 && items[3].is_err(), "{items:?}");
}
