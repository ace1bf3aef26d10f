//! Parts are removed only when the catalog proves that they are not needed.

use volley_common::PartId;
use volley_common::wire::catalog::{TableSpec, WriteMode};
use volley_common::wire::cluster::DiscardPartsRequest;
use volley_common::wire::cluster::node_client::NodeClient;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn committed_parts_survive_any_error_of_the_commit() {
    for error in [
        Error::internal("a proxy fell over"),
        Error::aborted("as if it were refused"),
        Error::invalid("as if it were refused"),
        Error::cancelled("the call was reset"),
        Error::unimplemented("an older coordinator"),
    ] {
        let cluster = InProcessCluster::start(2, &[&[0, 1]], 2).await;
        cluster.coordinator.state.lock().lose_commit_reply = Some(error.clone());
        let seen = cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap_err();
        assert_eq!(seen.code, error.code, "{seen}");
        assert!(seen.message.contains("it is unknown whether write"), "{seen}");
        let parts = cluster.write().parts.len();
        assert_eq!([cluster.held(0), cluster.held(1)], [parts, parts], "after {error:?}");
        assert_eq!(cluster.write().state(), WriteState::Committed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_append_appends_to_a_table_created_meanwhile() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let put = async |mode: &str, meanwhile: &TableSpec| {
        cluster.coordinator.state.lock().writes.clear();
        cluster.coordinator.state.lock().created_meanwhile = Some(meanwhile.clone());
        let command = format!(r#"{{"table": "t", "mode": "{mode}"}}"#);
        cluster.put(stream::iter(messages(&command, vec![batch(0, 5)]).await)).await
    };
    let own = cluster.coordinator.state.lock().spec.clone();
    let refused = put("create", &own).await.unwrap_err();
    assert_eq!((refused.code, cluster.write().state()), (Code::AlreadyExists, WriteState::Aborted));
    let refused = put("create_append", &TableSpec { shards: 2, ..own.clone() }).await.unwrap_err();
    assert!(refused.code == Code::Aborted && refused.message.contains("put again"), "{refused}");
    assert_eq!(cluster.write().state(), WriteState::Aborted);
    cluster.settles(&[0]).await;
    put("create_append", &TableSpec { retention_ms: 7, ..own }).await.unwrap();
    let write = cluster.write();
    assert_eq!((write.mode(), write.state()), (WriteMode::Append, WriteState::Committed));
    assert_eq!(write.parts.iter().map(|part| part.rows).sum::<u64>(), 5);
    cluster.settles(&[1]).await;
}

/// Asks a node to discard parts of a write, as its writer does after a failure.
async fn discard(cluster: &InProcessCluster, node: usize, write: &str, parts: Vec<PartId>) -> Result<(), Error> {
    let addr = &cluster.nodes[node].context.addresses.peer_addr;
    let mut client = NodeClient::new(ConnectionPool::new().channel(addr).unwrap());
    let parts = parts.into_iter().map(Into::into).collect();
    client.discard_parts(DiscardPartsRequest { write: write.into(), parts }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn discard_of_committed_parts_removes_nothing() {
    let cluster = InProcessCluster::start(2, &[&[0, 1]], 2).await;
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let write = cluster.write();
    let ids: Vec<PartId> = write.parts.iter().map(|part| part.part_id()).collect();
    for node in [0, 1] {
        discard(&cluster, node, &write.id, ids.clone()).await.unwrap();
        assert_eq!(cluster.held(node), ids.len());
    }
    // Of a write that is open nothing is removed, because it may be committed yet; of one that was aborted everything is.
    for (state, kept) in [(WriteState::Open, ids.len()), (WriteState::Aborted, 0)] {
        let changed = |write: &mut volley_common::wire::catalog::Write| {
            write.parts.clear();
            write.set_state(state);
        };
        cluster.coordinator.state.lock().writes.values_mut().for_each(changed);
        discard(&cluster, 1, &write.id, ids.clone()).await.unwrap();
        assert_eq!(cluster.held(1), kept, "{state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discard_of_a_part_does_not_refuse_the_leaders_copy() {
    let cluster = InProcessCluster::start(2, &[&[0]], 1).await;
    cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap();
    let (write, part) = (cluster.write().id, cluster.write().parts[0].clone());
    discard(&cluster, 1, &write, vec![part.part_id()]).await.unwrap();
    let sources = vec![cluster.nodes[0].context.addresses.peer_addr.clone()];
    let order =
        volley_common::wire::cluster::CopyPart { part: Some(part), table: vec!["t".into()], sources, background: true };
    cluster.nodes[1].context.copier.copy(order.clone()).await.unwrap();
    let late = volley_common::wire::cluster::CopyPart { background: false, ..order };
    cluster.nodes[1].context.store.remove(&[late.part.as_ref().unwrap().part_id()]).unwrap();
    assert_eq!(cluster.nodes[1].context.copier.copy(late).await.unwrap_err().code, Code::Cancelled);
}
