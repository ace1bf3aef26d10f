//! A part's file, mapped into memory; which of its pages are resident (docs/adr/0006-sigbus.md).
#![allow(unsafe_code, reason = "parts are served as slices of their mapped files")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap};
use volley_common::PartId;

use super::sigbus;

/// The smallest memory page of any supported machine.
const SMALLEST_PAGE: usize = 4 << 10;
/// One memory page; a multiple of one on machines whose page size is not fixed.
const PAGE: usize = if cfg!(target_arch = "x86_64") { SMALLEST_PAGE } else { 64 << 10 };
/// Ranges that are closer than this, in bytes, are treated as one: the gap costs less than a system call.
const GAP: u64 = 64 << 10;

/// A mapping that lives as long as any slice of it.
#[derive(Clone)]
pub struct FileMapping(Arc<(Mmap, sigbus::RegisteredMapping)>);

impl AsRef<[u8]> for FileMapping {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl FileMapping {
    /// Maps a part's file.
    pub fn new(file: &File, id: PartId) -> io::Result<FileMapping> {
        // SAFETY: a part's file never changes after its rename (ARCHITECTURE.md, Invariants): it is only unlinked, which
        // leaves mappings as they are. Slices keep the mapping alive. What other programs do to the file is no promise that
        // this can make: docs/adr/0006-sigbus.md says what happens if one truncates it (SIGBUS ends the process before a
        // wrong byte is sent) or overwrites it in place.
        let mapping = unsafe { Mmap::map(file) }?;
        let registered = sigbus::register(&mapping, id);
        Ok(FileMapping(Arc::new((mapping, registered))))
    }

    /// The position of a slice in the file; `None` if it is empty or not part of this mapping.
    pub fn range_of(&self, slice: &[u8]) -> Option<Range<u64>> {
        let whole = self.as_ref();
        let start = (slice.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        let end = start.checked_add(slice.len()).filter(|&end| end <= whole.len())?;
        (!slice.is_empty()).then_some(start as u64..end as u64)
    }

    /// Whether all these bytes are in memory, so that reading them does not wait for the disk. Undefined for a file that was
    /// truncated after it was mapped.
    pub fn is_resident(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> bool {
        let mut pages = Vec::new();
        coalesce(ranges).iter().all(|range| self.is_range_resident(range, &mut pages))
    }

    fn is_range_resident(&self, range: &Range<u64>, pages: &mut Vec<u8>) -> bool {
        let start = range.start as usize / PAGE * PAGE;
        let Some(bytes) = self.as_ref().get(start..range.end as usize) else { return false };
        // mincore(2) fills one byte for each page, whose size is not known here.
        pages.resize(bytes.len().div_ceil(SMALLEST_PAGE), 1);
        pages.fill(1);
        // SAFETY: the bytes are mapped as long as `self` lives, and mincore(2) does not access them. They start at a page
        // boundary, because the mapping does and PAGE is a multiple of every page size, and `pages`, to which it writes, has a
        // byte for each of their pages.
        let result = unsafe { libc::mincore(bytes.as_ptr() as *mut libc::c_void, bytes.len(), pages.as_mut_ptr()) };
        result == 0 && pages.iter().all(|page| page & 1 == 1)
    }

    /// Faults bytes in, so that the next access to them cannot raise SIGBUS. Blocks.
    ///
    /// # Errors
    /// The disk cannot read them, or the file was truncated.
    pub fn prefault(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> io::Result<()> {
        let ranges = coalesce(ranges);
        let advise = |advice, range: &Range<u64>| {
            self.0.0.advise_range(advice, range.start as usize, (range.end - range.start) as usize)
        };
        // Start all reads, then wait for each.
        for range in ranges.iter().filter(|range| range.end - range.start > PAGE as u64) {
            // Only advice: the loop below reads what it leaves out.
            let _ = advise(Advice::WillNeed, range);
        }
        ranges.iter().try_for_each(|range| match advise(Advice::PopulateRead, range) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON)) => Err(e),
            // Unknown before Linux 5.14, or out of memory: the pages are faulted in when they are read.
            _ => Ok(()),
        })
    }
}

/// The ranges in order; ranges closer than [`GAP`] become one.
fn coalesce(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let close = next.start <= last.end.saturating_add(GAP);
        if close {
            last.end = last.end.max(next.end);
        }
        close
    });
    ranges
}

/// Replaces the bytes in the last page of a message's slices by copies, except for that page's first byte.
///
/// A file that is truncated within a page reads as zeros up to the end of that page, without a fault; every later page
/// faults. After this copy a truncation within the last page changes nothing that is still mapped, and an earlier one makes
/// the page's first byte fault. So a message whose file was found unchanged afterwards is either sent correctly or breaks
/// its connection. If the message does not contain the first byte of its last page, that page is copied whole, and the
/// page before it becomes the last.
pub fn copy_last_page(slices: &mut Vec<Bytes>) {
    let mut mapped = vec![true; slices.len()];
    loop {
        let of_file = || slices.iter().zip(&mapped).filter(|(slice, mapped)| **mapped && !slice.is_empty());
        let ends = of_file().map(|(slice, _)| slice.as_ptr() as usize + slice.len());
        let Some(page) = ends.max().map(|end| (end - 1) / PAGE * PAGE) else { return };
        let keeps = of_file()
            .any(|(slice, _)| (slice.as_ptr() as usize..slice.as_ptr() as usize + slice.len()).contains(&page));
        copy_from(slices, &mut mapped, page + usize::from(keeps));
        if keeps {
            return;
        }
    }
}

/// Copies mapped bytes at or after an address.
fn copy_from(slices: &mut Vec<Bytes>, mapped: &mut Vec<bool>, from: usize) {
    let mut at = 0;
    while at < slices.len() {
        let slice = &mut slices[at];
        let start = slice.as_ptr() as usize;
        if mapped[at] && start + slice.len() > from {
            let copy = Bytes::copy_from_slice(&slice.split_off(from.saturating_sub(start)));
            if slice.is_empty() {
                (slices[at], mapped[at]) = (copy, false);
            } else {
                at += 1;
                slices.insert(at, copy);
                mapped.insert(at, false);
            }
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::iter::once;

    use super::*;

    fn mapped(bytes: usize) -> (File, FileMapping) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        let mapping = FileMapping::new(&file, PartId::random()).unwrap();
        (file, mapping)
    }

    #[test]
    fn close_ranges_are_coalesced() {
        let far = 10 * GAP;
        let ranges = [far..far + 1, 5..9, 0..3, 7..7, 9 + GAP..20 + GAP, far + 1..far + 2];
        assert_eq!(coalesce(ranges), [0..20 + GAP, far..far + 2]);
        assert!(coalesce(once(4..4)).is_empty());
    }

    #[test]
    fn range_of_finds_slices_of_the_mapping() {
        let (_file, mapping) = mapped(10_000);
        let all = Bytes::from_owner(mapping.clone());
        assert_eq!(mapping.range_of(&all), Some(0..10_000));
        assert_eq!(mapping.range_of(&all.slice(9_000..)), Some(9_000..10_000));
        assert_eq!(mapping.range_of(&all.slice(5..5)), None);
        assert_eq!(mapping.range_of(&[0; 100]), None);
    }

    #[test]
    fn prefault_fails_for_truncated_pages_only() {
        let (file, mapping) = mapped(1 << 20);
        assert!(mapping.is_resident(once(0..1 << 20)) && mapping.is_resident([]));
        assert!(!mapping.is_resident(once(0..(1 << 20) + 1)), "beyond the mapping");
        mapping.prefault([3..4, 0..1 << 20]).unwrap();
        file.set_len(700_000).unwrap();
        mapping.prefault([3..4, 100_000..700_000]).unwrap();
        assert!(mapping.prefault([0..10, 800_000..800_001]).is_err());
    }

    #[test]
    fn last_page_is_copied_except_its_first_byte() {
        let all = Bytes::from((0..40_000_u32).map(|at| at as u8).collect::<Vec<_>>());
        for (start, end) in [(0, 40_000), (5, 6), (0, 8192), (100, 20_001), (8191, 8193)] {
            for cuts in [vec![], vec![start + 1], vec![(start + end) / 2, end - 1]] {
                let mut edges = [vec![start], cuts, vec![end]].concat();
                edges.dedup();
                let mut slices: Vec<_> = edges.windows(2).map(|edge| all.slice(edge[0]..edge[1])).collect();
                copy_last_page(&mut slices);
                assert_eq!(slices.concat(), all.slice(start..end));
                let last = (all.as_ptr() as usize + end - 1) / 4096 * 4096;
                let mapped = all.as_ptr() as usize..all.as_ptr() as usize + all.len();
                let ends = slices.iter().map(|slice| (slice.as_ptr() as usize, slice.as_ptr() as usize + slice.len()));
                let ends = ends.filter(|(from, _)| mapped.contains(from)).map(|(_, end)| end);
                let first_byte = (mapped.start + start <= last).then_some(last + 1);
                assert_eq!(ends.max(), first_byte, "{start}..{end}: the last page's first byte stays mapped");
            }
        }
        // Without the first byte of the last page the page before it counts as the last.
        let page = (all.as_ptr() as usize).next_multiple_of(4096) - all.as_ptr() as usize;
        let mut slices = vec![all.slice(page..page + 5000), all.slice(page + 9000..page + 9010)];
        copy_last_page(&mut slices);
        let lengths: Vec<usize> = slices.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [4097, 903, 10]);
        assert_ne!(slices[2].as_ptr(), all[page + 9000..].as_ptr());
        copy_last_page(&mut Vec::new());
        copy_last_page(&mut vec![Bytes::new()]);
    }
}
