//! The engine's own operators as bytes, and back: leaves, and what stands below joins and `unnest`.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{internal_datafusion_err, internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;
use volley_common::wire::cluster::plan_leaf::Leaf;
use volley_common::wire::cluster::{ColocatedJoinLeaf, PartScanLeaf, PlanLeaf};

use super::colocated_join::ColocatedJoinExec;
use super::portability::check_received;
use crate::engine::cooperative_joins::CooperativeProbeExec;
use crate::engine::part_scan::PartScanExec;
use crate::engine::row_width::RowWidthExec;
use crate::fault::into_datafusion;
use crate::query_network::QueryNetwork;

/// Encodes scans with signed tickets, and joins of them, and decodes them as scans of this node. Of the probe side of a join there is
/// only the input.
#[derive(Debug)]
pub(super) struct LeafCodec {
    scans: ScanCodec,
}

/// Encodes scans alone: what is within a join cannot have another join within, however deep.
#[derive(Debug)]
struct ScanCodec {
    network: Arc<dyn QueryNetwork>,
}

impl LeafCodec {
    pub(super) fn new(network: Arc<dyn QueryNetwork>) -> Self {
        LeafCodec { scans: ScanCodec { network } }
    }
}

impl ScanCodec {
    fn encode(&self, node: &Arc<dyn ExecutionPlan>) -> Result<PartScanLeaf> {
        let Some(scan) = node.downcast_ref::<PartScanExec>() else {
            return not_impl_err!("{} cannot be sent to another node", node.name());
        };
        scan.to_leaf(|ticket| self.network.sign(ticket)).map_err(into_datafusion)
    }

    fn decode(&self, leaf: &PartScanLeaf) -> Result<Arc<dyn ExecutionPlan>> {
        let ticket = self.network.verify(&leaf.ticket).map_err(into_datafusion)?;
        let scan = PartScanExec::of_leaf(leaf, ticket, self.network.parts()).map_err(into_datafusion)?;
        Ok(Arc::new(scan))
    }
}

/// The first byte of a check of rows.
const ROW_WIDTH: u8 = 1;
/// What is sent of the probe side of a cross join, whose pieces are not timed.
const UNTIMED: u8 = 2;

/// An operator with one input: the probe side of a join, which is sent as hardly more than its input, or a check of rows, with the
/// numbers of the lists that it measures.
fn of_input(bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Option<Arc<dyn ExecutionPlan>> {
    let [input] = inputs else { return None };
    match bytes {
        [] => Some(Arc::new(CooperativeProbeExec::new(input.clone(), true))),
        [UNTIMED] => Some(Arc::new(CooperativeProbeExec::new(input.clone(), false))),
        [ROW_WIDTH, lists @ ..] => {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number: usize, byte| (number << 8) | usize::from(*byte));
            let lists = lists.chunks(4).map(number).collect();
            Some(Arc::new(RowWidthExec::new(input.clone(), lists)))
        }
        _ => None,
    }
}

/// What is sent of an operator with one input beside this; `None`: it is another operator.
fn with_input(node: &Arc<dyn ExecutionPlan>) -> Option<Vec<u8>> {
    if let Some(probe) = node.downcast_ref::<CooperativeProbeExec>() {
        return Some(if probe.is_timed() { Vec::new() } else { vec![UNTIMED] });
    }
    let lists = node.downcast_ref::<RowWidthExec>()?.lists();
    let numbers = lists.iter().flat_map(|list| u32::try_from(*list).unwrap_or(u32::MAX).to_be_bytes());
    Some(std::iter::once(ROW_WIDTH).chain(numbers).collect())
}

/// The message, if it is sent for an operator without inputs.
fn decoded<M: Message + Default>(bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<M> {
    if !inputs.is_empty() {
        return internal_err!("a leaf of a task has no inputs, and {} were sent", inputs.len());
    }
    M::decode(bytes).map_err(|e| internal_datafusion_err!("a leaf of a task cannot be read: {e}"))
}

impl PhysicalExtensionCodec for ScanCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(known) = of_input(buf, inputs) {
            return Ok(known);
        }
        self.decode(&decoded::<PartScanLeaf>(buf, inputs)?)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match with_input(&node) {
            Some(bytes) => buf.extend(bytes),
            None => buf.extend(self.encode(&node)?.encode_to_vec()),
        }
        Ok(())
    }
}

impl PhysicalExtensionCodec for LeafCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(known) = of_input(buf, inputs) {
            return Ok(known);
        }
        match decoded::<PlanLeaf>(buf, inputs)?.leaf {
            Some(Leaf::Scan(scan)) => self.scans.decode(&scan),
            Some(Leaf::Join(leaf)) => {
                let join =
                    physical_plan_from_bytes_with_proto_converter(&leaf.plan, ctx, &self.scans, proto_converter)?;
                check_received(&join)?;
                let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
                Ok(Arc::new(ColocatedJoinExec::new(join, number(leaf.shards), number(leaf.all_shards))))
            }
            None => internal_err!("a leaf of a task is of no kind that this node knows"),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(bytes) = with_input(&node) {
            buf.extend(bytes);
            return Ok(());
        }
        let leaf = match node.downcast_ref::<ColocatedJoinExec>() {
            Some(colocated) => {
                let join = colocated.join().clone();
                let plan: Bytes = physical_plan_to_bytes_with_proto_converter(join, &self.scans, proto_converter)?;
                let (shards, all_shards) = (colocated.shards() as u64, colocated.all_shards() as u64);
                Leaf::Join(ColocatedJoinLeaf { plan, shards, all_shards })
            }
            None => Leaf::Scan(self.scans.encode(&node)?),
        };
        buf.extend(PlanLeaf { leaf: Some(leaf) }.encode_to_vec());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    #[test]
    fn probe_side_is_received_as_it_was_sent() {
        let input: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        for is_timed in [true, false] {
            let probe: Arc<dyn ExecutionPlan> = Arc::new(CooperativeProbeExec::new(input.clone(), is_timed));
            let received = of_input(&with_input(&probe).unwrap(), std::slice::from_ref(&input)).unwrap();
            assert_eq!(received.downcast_ref::<CooperativeProbeExec>().unwrap().is_timed(), is_timed);
        }
    }
}
