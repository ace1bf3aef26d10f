//! How a part of a table with the option `compression: auto` is compressed: as its first rows suggest. Pure.

use arrow::array::RecordBatch;
use volley_common::ipc::compressibility::lz4_share;
use volley_common::ipc::size::data_bytes;
use volley_common::wire::catalog::Compression;

/// A part that begins with fewer bytes is not compressed: it is sent in a packet or two in either case.
const MIN_BYTES: usize = 64 << 10;
/// Nor is one of which LZ4 leaves a larger share: its readers would decompress it for little, and could not map it.
const MAX_LZ4_SHARE: f64 = 2.0 / 3.0;

/// The compression of a part that begins with these rows. ZSTD is never chosen for a table: it is slower to read than most links.
pub fn part_compression(of_table: Compression, first: &RecordBatch) -> Compression {
    match of_table {
        Compression::Auto if data_bytes(first) < MIN_BYTES => Compression::None,
        Compression::Auto if lz4_share(first) <= MAX_LZ4_SHARE => Compression::Lz4,
        Compression::Auto => Compression::None,
        chosen => chosen,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use rand::Rng;

    use super::*;

    fn numbers(numbers: impl Iterator<Item = i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn auto_compresses_what_becomes_smaller() {
        let mut rng = rand::rng();
        let (small, repeated) = (numbers((0..100).map(|n| n % 3)), numbers((0..100_000).map(|n| n % 3)));
        let random = numbers((0..100_000).map(|_| rng.random()));
        for (batch, expected) in
            [(&small, Compression::None), (&repeated, Compression::Lz4), (&random, Compression::None)]
        {
            assert_eq!(part_compression(Compression::Auto, batch), expected);
            for chosen in [Compression::None, Compression::Lz4, Compression::Zstd] {
                assert_eq!(part_compression(chosen, batch), chosen);
            }
        }
    }
}
