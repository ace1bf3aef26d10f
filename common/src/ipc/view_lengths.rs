//! How long the values of a batch's views are together. Rows may share a value, but whoever checks, compares or hashes it
//! reads it once for each of them.

use arrow::datatypes::{DataType, Field};
use arrow_ipc::{self as ipc, MetadataVersion};

use super::layout::{LayoutElement, child_fields, visit_layout};

/// Bytes of a view, which begins with the length of its value.
const VIEW_BYTES: usize = 16;

/// Whether record batches of this type have views. Those of a dictionary's values are in messages of their own.
pub(super) fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::Dictionary(_, _) => false,
        other => child_fields(other).into_iter().any(|child| has_views(child.data_type())),
    }
}

/// The sum of all views' lengths. `batch` has been validated against `body`, and is not compressed.
pub(super) fn view_lengths<'a>(
    batch: &ipc::RecordBatch<'_>,
    version: MetadataVersion,
    fields: impl Iterator<Item = &'a Field>,
    body: &[u8],
) -> u64 {
    let (Some(nodes), Some(buffers)) = (batch.nodes(), batch.buffers()) else { return 0 };
    let mut nodes = nodes.iter();
    let mut variadic = batch.variadicBufferCounts().into_iter().flatten();
    let (mut rows, mut next, mut sum) = (0, 0usize, 0u64);
    for field in fields {
        // No element fails.
        let _ = visit_layout(field.data_type(), version < MetadataVersion::V5, &mut |element| {
            match element {
                LayoutElement::Node => rows = nodes.next().map_or(0, |node| node.length()),
                LayoutElement::Variadic => {
                    let views = buffers.get(next - 1);
                    sum = sum.saturating_add(lengths(body, views, rows));
                    next += variadic.next().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
                }
                _ => next += 1,
            }
            Ok(())
        });
    }
    sum
}

fn lengths(body: &[u8], views: &ipc::Buffer, rows: i64) -> u64 {
    let bytes = usize::try_from(views.offset()).ok().and_then(|start| body.get(start..)).unwrap_or_default();
    let views = bytes.chunks_exact(VIEW_BYTES).take(usize::try_from(rows).unwrap_or(0));
    views.filter_map(|view| view.first_chunk::<4>()).map(|length| u64::from(u32::from_le_bytes(*length))).sum()
}
