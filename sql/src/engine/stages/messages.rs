//! What the library passes between nodes, as messages of the peer port and back.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion_distributed::{MaybeEncoded, ProducerHead, TaskKey};
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;
use volley_common::wire::cluster::read_query_task_request::Output;
use volley_common::wire::cluster::{QuerySetting, QueryTaskKey};
use volley_common::{Error, NodeId, Result};

use crate::fault::{checked, into_datafusion};

/// The scheme of the addresses by which the library knows nodes.
const SCHEME: &str = "volley";

/// The address of a node for the library.
pub(super) fn url_of(node: NodeId) -> datafusion::error::Result<Url> {
    let internal = |e| into_datafusion(Error::internal(format!("the address of node {node} in a plan: {e}")));
    Url::parse(&format!("{SCHEME}://{node}")).map_err(internal)
}

/// The node of an address.
pub(super) fn node_of(url: &Url) -> datafusion::error::Result<NodeId> {
    let id = url.host_str().and_then(|host| host.parse().ok());
    id.ok_or_else(|| into_datafusion(Error::internal(format!("a plan has the address {url}, which is no node's"))))
}

/// An error that happened on a node, or with it. The first node that names itself stays the only one.
pub(super) fn of_node(node: NodeId, error: Error) -> Error {
    match error.message.starts_with("node ") {
        true => error,
        false => error.at(format_args!("node {node}")),
    }
}

pub(super) fn encode_key(key: &TaskKey) -> QueryTaskKey {
    QueryTaskKey { query: key.query_id.to_string(), stage: key.stage_id as u64, task: key.task_number as u64 }
}

/// # Errors
/// INVALID_ARGUMENT: the key is missing, or none of a task.
pub(super) fn decode_key(key: Option<&QueryTaskKey>) -> Result<TaskKey> {
    let key = key.ok_or_else(|| Error::invalid("no task is named"))?;
    let query_id =
        key.query.parse().map_err(|_| Error::invalid(format!("{:?} is not the id of a query", key.query)))?;
    Ok(TaskKey { query_id, stage_id: decode_number(key.stage)?, task_number: decode_number(key.task)? })
}

/// # Errors
/// INVALID_ARGUMENT: it is too large.
pub(super) fn decode_number(number: u64) -> Result<usize> {
    usize::try_from(number).map_err(|_| Error::invalid(format!("{number} is too large a number")))
}

/// # Errors
/// INTERNAL: a value that is not text.
pub(super) fn encode_settings(headers: &HeaderMap) -> Result<Vec<QuerySetting>> {
    let setting = |(name, value): (&HeaderName, &HeaderValue)| {
        let value =
            value.to_str().map_err(|_| Error::internal(format!("the setting {name} of a query is not text")))?;
        Ok(QuerySetting { name: name.as_str().into(), value: value.into() })
    };
    headers.iter().map(setting).collect()
}

/// # Errors
/// INVALID_ARGUMENT: a name or a value cannot be one.
pub(super) fn decode_settings(settings: &[QuerySetting]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for QuerySetting { name, value } in settings {
        let invalid = || Error::invalid(format!("{name:?} cannot be a setting of a query, or {value:?} its value"));
        let name = HeaderName::try_from(name.as_str()).map_err(|_| invalid())?;
        headers.append(name, HeaderValue::try_from(value.as_str()).map_err(|_| invalid())?);
    }
    Ok(headers)
}

/// # Errors
/// A partitioning that cannot be encoded.
pub(super) fn encode_output(head: ProducerHead, context: &Arc<TaskContext>) -> Result<Option<Output>> {
    Ok(match head {
        ProducerHead::None => None,
        ProducerHead::BroadcastExec { output_partitions } => {
            Some(Output::BroadcastPartitions(output_partitions as u64))
        }
        ProducerHead::RepartitionExec { partitioning } => {
            Some(Output::Partitioning(checked(partitioning.encode(context))?.into()))
        }
    })
}

/// # Errors
/// INVALID_ARGUMENT: a number is too large.
pub(super) fn decode_output(output: Option<Output>) -> Result<ProducerHead> {
    Ok(match output {
        None => ProducerHead::None,
        Some(Output::BroadcastPartitions(partitions)) => {
            ProducerHead::BroadcastExec { output_partitions: decode_number(partitions)? }
        }
        Some(Output::Partitioning(partitioning)) => {
            ProducerHead::RepartitionExec { partitioning: MaybeEncoded::Encoded(partitioning.to_vec()) }
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn node_is_found_by_its_address() {
        for id in [1, 0x1234_5678_9abc_def0, u64::MAX] {
            assert_eq!(node_of(&url_of(NodeId(id)).unwrap()).unwrap(), NodeId(id));
        }
        node_of(&Url::parse("volley://elsewhere").unwrap()).unwrap_err();
        node_of(&Url::parse("volley:").unwrap()).unwrap_err();
    }

    #[test]
    fn key_survives_and_a_wrong_one_is_refused() {
        let query = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let key = QueryTaskKey { query: query.into(), stage: 3, task: 7 };
        assert_eq!(encode_key(&decode_key(Some(&key)).unwrap()), key);
        for wrong in [None, Some(QueryTaskKey::default()), Some(QueryTaskKey { query: "x".into(), ..key })] {
            assert_eq!(decode_key(wrong.as_ref()).unwrap_err().code, Code::InvalidArgument);
        }
    }

    #[test]
    fn settings_survive_and_wrong_ones_are_refused() {
        let setting = |name: &str, value: &str| QuerySetting { name: name.into(), value: value.into() };
        let settings = vec![setting("x-one", "1"), setting("x-two", "")];
        let mut decoded = encode_settings(&decode_settings(&settings).unwrap()).unwrap();
        decoded.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(decoded, settings);
        for wrong in [setting("", "1"), setting("a b", "1"), setting("a", "1\n")] {
            assert_eq!(decode_settings(&[wrong]).unwrap_err().code, Code::InvalidArgument);
        }
    }
}
