//! Which rows of a parallel put go to which stream. Pure: no I/O.
//!
//! The nodes compute the shard of every row again, so a mistake here costs copies between nodes, and no row.

use std::cmp::Reverse;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;
use volley_common::ipc::take::take_values;
use volley_common::partition::Partitioner;
use volley_common::{Error, Result};

/// Rows are sorted into streams in batches of about this many bytes, so that each stream gets messages of a good size.
const SCATTER_BYTES: usize = 4 << 20;

/// The streams of a parallel put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LanePlan {
    /// The node of each stream: its index in the reply of `begin_write`.
    pub nodes: Vec<usize>,
    /// The stream of each shard: an index of `nodes`.
    pub lane_of_shard: Vec<usize>,
}

impl LanePlan {
    /// At most `max_lanes` streams, to the nodes that hold most shards. `placement` has the holders of each shard, as indices of
    /// `nodes`, which says for each node whether it can get a stream. Each shard goes to a holder, and the shards are spread evenly;
    /// one without a stream to any of its holders goes to the stream that has the fewest.
    pub(crate) fn new(placement: &[Vec<usize>], nodes: &[bool], max_lanes: usize) -> Self {
        let mut held = vec![0_usize; nodes.len()];
        for holder in placement.iter().flatten() {
            // A node that the reply does not name gets no stream.
            if let Some(shards) = held.get_mut(*holder) {
                *shards += 1;
            }
        }
        let mut nodes: Vec<usize> = (0..nodes.len()).filter(|node| held[*node] > 0 && nodes[*node]).collect();
        nodes.sort_by_key(|node| Reverse(held[*node]));
        nodes.truncate(max_lanes);
        let mut load = vec![0_usize; nodes.len()];
        let mut lane_of_shard = Vec::with_capacity(placement.len());
        for holders in placement {
            let by_load = |lane: &usize| load[*lane];
            let of_holders = (0..nodes.len()).filter(|lane| holders.contains(&nodes[*lane])).min_by_key(by_load);
            let Some(lane) = of_holders.or_else(|| (0..nodes.len()).min_by_key(by_load)) else { break };
            load[lane] += 1;
            lane_of_shard.push(lane);
        }
        LanePlan { nodes, lane_of_shard }
    }
}

/// Splits batches into the rows of each stream.
pub(crate) struct RowScatter {
    /// None: there is one stream, which gets all rows.
    keys: Option<(Partitioner, Vec<usize>)>,
    lanes: usize,
    joiner: BatchJoiner,
}

impl RowScatter {
    /// For batches of this schema, in a table with these keys.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key column that does not exist or cannot be hashed.
    pub(crate) fn by_key(schema: &SchemaRef, shard_by: &[String], plan: &LanePlan) -> Result<Self> {
        let shards = u32::try_from(plan.lane_of_shard.len()).unwrap_or(u32::MAX);
        let partitioner = Partitioner::new(schema, shard_by, shards)?;
        let keys = Some((partitioner, plan.lane_of_shard.clone()));
        Ok(RowScatter { keys, lanes: plan.nodes.len(), joiner: BatchJoiner::new(schema) })
    }

    /// All rows go to one stream.
    pub(crate) fn to_one(schema: &SchemaRef) -> Self {
        RowScatter { keys: None, lanes: 1, joiner: BatchJoiner::new(schema) }
    }

    /// Adds a batch. Returns what can be sent: batches, each with its stream. Small batches are kept for later ones.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the batch has another schema. RESOURCE_EXHAUSTED: its rows share values, and would become far larger.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<Vec<(usize, RecordBatch)>> {
        if self.keys.is_none() {
            return Ok(vec![(0, batch)]);
        }
        match self.joiner.push(batch)? {
            Some(joined) => self.scattered(&joined),
            None => Ok(Vec::new()),
        }
    }

    /// What is left to be sent after the last batch.
    ///
    /// # Errors
    /// As [`RowScatter::push`].
    pub(crate) fn finish(&mut self) -> Result<Vec<(usize, RecordBatch)>> {
        match self.joiner.finish()? {
            Some(joined) => self.scattered(&joined),
            None => Ok(Vec::new()),
        }
    }

    fn scattered(&self, batch: &RecordBatch) -> Result<Vec<(usize, RecordBatch)>> {
        let Some((partitioner, lane_of_shard)) = &self.keys else { return Ok(vec![(0, batch.clone())]) };
        let mut sent = Vec::new();
        for piece in split(&shrink_to_fit(batch), SCATTER_BYTES) {
            let piece = piece?;
            let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.lanes];
            for (row, shard) in (0_u32..).zip(partitioner.shards_of(&piece)?) {
                rows[lane_of_shard[shard as usize]].push(row);
            }
            for (lane, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
                let of_lane = match rows.len() == piece.num_rows() {
                    true => piece.clone(),
                    false => take_rows(&piece, &UInt32Array::from(rows))?,
                };
                sent.push((lane, of_lane));
            }
        }
        Ok(sent)
    }
}

fn take_rows(batch: &RecordBatch, rows: &UInt32Array) -> Result<RecordBatch> {
    let taken = |column: &ArrayRef| take_values(column, rows);
    let columns: Result<Vec<ArrayRef>, _> = batch.columns().iter().map(taken).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.values().len()));
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options))
        .map_err(|e| Error::invalid(format!("the rows of a batch cannot be sorted by shard: {e}")))
}

/// Joins small batches, which would become a small message for each stream.
struct BatchJoiner {
    schema: SchemaRef,
    /// Batches whose dictionaries differ are not joined: their keys might not suffice.
    joins: bool,
    waiting: Vec<RecordBatch>,
    bytes: usize,
}

impl BatchJoiner {
    fn new(schema: &SchemaRef) -> Self {
        BatchJoiner { schema: schema.clone(), joins: !has_dictionary(schema), waiting: Vec::new(), bytes: 0 }
    }

    /// Adds a batch. Returns all that wait once they have [`SCATTER_BYTES`].
    fn push(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        // Any number of them has no bytes.
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        self.bytes += data_bytes(&batch);
        self.waiting.push(batch);
        if self.joins && self.bytes < SCATTER_BYTES { Ok(None) } else { self.finish() }
    }

    fn finish(&mut self) -> Result<Option<RecordBatch>> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        match &waiting[..] {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            several => concat_batches(&self.schema, several)
                .map(Some)
                .map_err(|e| Error::invalid(format!("the batches of the put cannot be joined: {e}"))),
        }
    }
}

fn has_dictionary(schema: &Schema) -> bool {
    schema.flattened_fields().iter().any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, DictionaryArray};
    use arrow::datatypes::{Int32Type, Int64Type};

    use super::*;
    use crate::fake::{numbers, schema};

    const KEY: &str = "n";

    fn plan(placement: &[&[usize]], usable: &[usize], max_lanes: usize) -> LanePlan {
        let placement: Vec<Vec<usize>> = placement.iter().map(|holders| holders.to_vec()).collect();
        let nodes: Vec<bool> = (0..3).map(|node| usable.contains(&node)).collect();
        LanePlan::new(&placement, &nodes, max_lanes)
    }

    #[test]
    fn shards_are_spread_over_their_holders() {
        let all = plan(&[&[0, 1], &[0, 1], &[2, 0], &[1, 2]], &[0, 1, 2], 8);
        assert_eq!(all.nodes, [0, 1, 2]);
        let holders: Vec<usize> = all.lane_of_shard.iter().map(|lane| all.nodes[*lane]).collect();
        assert_eq!(holders, [0, 1, 2, 1], "the first two differ, and the last goes to the first with fewest");
    }

    #[test]
    fn shard_without_a_usable_holder_goes_to_another_node() {
        let one_down = plan(&[&[0], &[1], &[1]], &[1], 8);
        assert_eq!(one_down, LanePlan { nodes: vec![1], lane_of_shard: vec![0, 0, 0] });
        assert_eq!(plan(&[&[0], &[1]], &[], 8), LanePlan::default());
        assert_eq!(plan(&[], &[0], 8), LanePlan::default());
        assert_eq!(plan(&[&[usize::MAX]], &[0], 8), LanePlan::default(), "no such node");
        let few = plan(&[&[0], &[1], &[2], &[2]], &[0, 1, 2], 2);
        assert_eq!(few.nodes, [2, 0], "the nodes with most shards");
        assert_eq!(few.lane_of_shard.len(), 4);
    }

    fn values(batches: &[(usize, RecordBatch)]) -> Vec<(usize, i64)> {
        let column = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        batches.iter().flat_map(|(lane, batch)| column(batch).into_iter().map(|value| (*lane, value))).collect()
    }

    #[test]
    fn every_row_goes_to_the_stream_of_its_shard_once() {
        let lanes = LanePlan { nodes: vec![0, 1], lane_of_shard: vec![0, 1, 1] };
        let mut scatter = RowScatter::by_key(&schema(), &[KEY.into()], &lanes).unwrap();
        let mut sent = Vec::new();
        for start in (0..900_000).step_by(300_000) {
            sent.extend(scatter.push(numbers(start..start + 300_000)).unwrap());
        }
        sent.extend(scatter.push(numbers(0..0)).unwrap());
        sent.extend(scatter.finish().unwrap());
        let partitioner = Partitioner::new(&schema(), &[KEY.into()], 3).unwrap();
        let shards = partitioner.shards_of(&numbers(0..900_000)).unwrap();
        let mut found = values(&sent);
        assert!(found.iter().all(|(lane, value)| *lane == lanes.lane_of_shard[shards[*value as usize] as usize]));
        found.sort_unstable_by_key(|(_, value)| *value);
        assert!(found.into_iter().map(|(_, value)| value).eq(0..900_000));
    }

    #[test]
    fn small_batches_are_joined_and_stay_in_their_order() {
        let lanes = LanePlan { nodes: vec![0], lane_of_shard: vec![0, 0] };
        let mut scatter = RowScatter::by_key(&schema(), &[KEY.into()], &lanes).unwrap();
        for start in 0..10 {
            assert!(scatter.push(numbers(start * 10..start * 10 + 10)).unwrap().is_empty());
            assert!(scatter.push(numbers(0..0)).unwrap().is_empty());
        }
        assert_eq!(scatter.joiner.waiting.len(), 10, "without those that have no rows");
        let left = scatter.finish().unwrap();
        assert_eq!(left, [(0, numbers(0..100))]);
        assert!(scatter.finish().unwrap().is_empty());
    }

    #[test]
    fn batches_with_dictionaries_are_not_joined() {
        let words: DictionaryArray<Int32Type> = ["a", "b"].into_iter().collect();
        let batch = RecordBatch::try_from_iter([("w", Arc::new(words) as ArrayRef)]).unwrap();
        let lanes = LanePlan { nodes: vec![0], lane_of_shard: vec![0] };
        let mut scatter = RowScatter::by_key(&batch.schema(), &["w".into()], &lanes).unwrap();
        assert_eq!(scatter.push(batch.clone()).unwrap().len(), 1);
        let mut to_one = RowScatter::to_one(&batch.schema());
        assert_eq!(to_one.push(batch.clone()).unwrap(), [(0, batch)]);
    }

    #[test]
    fn key_that_cannot_be_hashed_is_refused() {
        let lanes = LanePlan { nodes: vec![0], lane_of_shard: vec![0] };
        assert!(RowScatter::by_key(&schema(), &["x".into()], &lanes).err().unwrap().message.contains("\"x\""));
    }
}
