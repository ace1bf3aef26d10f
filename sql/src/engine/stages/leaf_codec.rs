//! The engine's own operators as bytes, and back: leaves, and the probe sides of joins.

use std::sync::Arc;

use datafusion::common::{internal_datafusion_err, internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;
use volley_common::wire::cluster::PartScanLeaf;

use crate::engine::cooperative_joins::CooperativeProbeExec;
use crate::engine::part_scan::PartScanExec;
use crate::fault::into_datafusion;
use crate::query_network::QueryNetwork;

/// Encodes scans with signed tickets, and decodes them as scans of this node. Of the probe side of a join there is only the input.
#[derive(Debug)]
pub(super) struct LeafCodec {
    network: Arc<dyn QueryNetwork>,
}

impl LeafCodec {
    pub(super) fn new(network: Arc<dyn QueryNetwork>) -> Self {
        LeafCodec { network }
    }
}

impl PhysicalExtensionCodec for LeafCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match inputs {
            [] => {}
            [input] if buf.is_empty() => return Ok(Arc::new(CooperativeProbeExec::new(input.clone()))),
            _ => return internal_err!("a leaf of a task has no inputs, and {} were sent", inputs.len()),
        }
        let leaf =
            PartScanLeaf::decode(buf).map_err(|e| internal_datafusion_err!("a leaf of a task cannot be read: {e}"))?;
        let ticket = self.network.verify(&leaf.ticket).map_err(into_datafusion)?;
        let scan = PartScanExec::of_leaf(&leaf, ticket, self.network.parts()).map_err(into_datafusion)?;
        Ok(Arc::new(scan))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if node.is::<CooperativeProbeExec>() {
            // It is nothing but its input.
            return Ok(());
        }
        let Some(scan) = node.downcast_ref::<PartScanExec>() else {
            return not_impl_err!("{} cannot be sent to another node", node.name());
        };
        let leaf = scan.to_leaf(|ticket| self.network.sign(ticket)).map_err(into_datafusion)?;
        buf.extend(leaf.encode_to_vec());
        Ok(())
    }
}
