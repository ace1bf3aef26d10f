//! `volley sample`: rows that are chosen at random, each with the same probability.
//!
//! Positions of rows are chosen first, from the numbers of rows that the endpoints of the table's plan tell. So only endpoints with
//! chosen rows are read, each to its last one.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow_flight::FlightInfo;
use futures::{StreamExt, TryStreamExt};
use volley_client::{Client, FetchOptions};
use volley_common::ipc::schema::parse_schema;
use volley_common::ipc::take::take_values;
use volley_common::options::Options;
use volley_common::{Error, Result};

use super::get;
use super::head::{endpoint_rows, one_endpoint};
use crate::args::table_commands::SampleArgs;
use crate::column_list::column_names;
use crate::output::{self, plural};

/// Endpoints that are read at the same time.
const STREAMS: usize = 8;

/// Shows the rows.
pub async fn run(args: &SampleArgs, client: &Client, json: bool) -> Result<()> {
    let options = Options { columns: column_names(&args.columns), version: args.version, ..Options::default() };
    let info = client.info(&args.name, &options).await?;
    let counts: Option<Vec<u64>> = info.endpoint.iter().map(endpoint_rows).collect();
    let counts = counts.ok_or_else(|| Error::unimplemented("the members do not tell how many rows an endpoint has"))?;
    let total: u64 = counts.iter().sum();
    let seed = args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let chosen = by_endpoint(&chosen_positions(total, args.rows.into(), seed), &counts);
    let base = FlightInfo { endpoint: Vec::new(), ..info.clone() };
    let reads: Vec<_> = chosen
        .into_iter()
        .map(|(endpoint, positions)| rows_at(client, one_endpoint(&base, &info.endpoint[endpoint]), positions))
        .collect();
    let batches: Vec<Vec<RecordBatch>> = futures::stream::iter(reads).buffered(STREAMS).try_collect().await?;
    let batches: Vec<RecordBatch> = batches.into_iter().flatten().collect();
    get::print(&parse_schema(&info.schema)?, &batches, json)?;
    if json {
        return Ok(());
    }
    let shown: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let of = output::count(i64::try_from(total).unwrap_or(-1));
    output::line(format!("{} of {of}; --seed {seed} shows the same again", plural(shown as i64, "row")))
}

/// Different positions below `total`, each with the same probability, in their order: at most `most`.
fn chosen_positions(total: u64, most: u64, seed: u64) -> BTreeSet<u64> {
    let mut random = SplitMix64(seed);
    let mut chosen = BTreeSet::new();
    // Floyd's algorithm.
    for last in total - most.min(total)..total {
        let position = random.up_to(last);
        if !chosen.insert(position) {
            chosen.insert(last);
        }
    }
    chosen
}

/// The endpoints that have these positions, each with the positions of rows within it.
fn by_endpoint(chosen: &BTreeSet<u64>, counts: &[u64]) -> Vec<(usize, Vec<u64>)> {
    let (mut found, mut first) = (Vec::new(), 0);
    for (endpoint, count) in counts.iter().enumerate() {
        let within: Vec<u64> = chosen.range(first..first + count).map(|position| position - first).collect();
        if !within.is_empty() {
            found.push((endpoint, within));
        }
        first += count;
    }
    found
}

/// The rows at these positions of a read, which are sorted. The read ends behind the last one.
async fn rows_at(client: &Client, info: FlightInfo, positions: Vec<u64>) -> Result<Vec<RecordBatch>> {
    let mut fetch = client.fetch(info, FetchOptions { streams: 1, ..FetchOptions::default() })?;
    let (mut left, mut first, mut found) = (&positions[..], 0, Vec::new());
    while !left.is_empty() {
        let Some(fetched) = fetch.next().await else {
            return Err(Error::data_loss("an endpoint has fewer rows than its metadata says: report it"));
        };
        let batch = fetched?.batch;
        let end = first + batch.num_rows() as u64;
        let (here, later) = left.split_at(left.partition_point(|position| *position < end));
        if !here.is_empty() {
            let within = UInt64Array::from_iter_values(here.iter().map(|position| position - first));
            found.push(taken(&batch, &within)?);
        }
        (left, first) = (later, end);
    }
    Ok(found)
}

fn taken(batch: &RecordBatch, positions: &UInt64Array) -> Result<RecordBatch> {
    let columns: Result<Vec<ArrayRef>, _> =
        batch.columns().iter().map(|column| take_values(column, positions)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(positions.values().len()));
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options))
        .map_err(|e| Error::internal(format!("rows of a batch cannot be picked: {e}")))
}

/// Steele, Lea and Flood's SplitMix64: a generator whose numbers never change with a library.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `most`.
    fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.next_number()) * (u128::from(most) + 1)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, StringArray};

    use super::*;

    #[test]
    fn positions_are_different_and_the_same_for_a_seed() {
        let chosen = chosen_positions(1_000_000, 100, 7);
        assert_eq!((chosen.len(), chosen.last().is_some_and(|last| *last < 1_000_000)), (100, true));
        assert_eq!(chosen, chosen_positions(1_000_000, 100, 7));
        assert_ne!(chosen, chosen_positions(1_000_000, 100, 8));
        assert!(chosen_positions(5, 100, 7).into_iter().eq(0..5), "all of a small table");
        assert!(chosen_positions(0, 100, 7).is_empty());
    }

    #[test]
    fn each_position_is_chosen_as_often_as_the_others() {
        let mut times = [0; 10];
        for seed in 0..10_000 {
            chosen_positions(10, 3, seed).iter().for_each(|position| times[*position as usize] += 1);
        }
        // 3,000 are expected, with a standard deviation of 46.
        assert!(times.iter().all(|times| (2_700..3_300).contains(times)), "{times:?}");
    }

    #[test]
    fn positions_are_found_in_their_endpoints() {
        let chosen = BTreeSet::from([0, 4, 5, 9]);
        assert_eq!(by_endpoint(&chosen, &[5, 0, 4, 3]), [(0, vec![0, 4]), (2, vec![0]), (3, vec![0])]);
        assert!(by_endpoint(&BTreeSet::new(), &[5]).is_empty());
    }

    #[test]
    fn rows_are_taken_by_position() {
        let words: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let batch = RecordBatch::try_from_iter([("w", words)]).unwrap();
        let taken = taken(&batch, &UInt64Array::from(vec![0, 2])).unwrap();
        assert_eq!(taken.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "c"]);
    }
}
