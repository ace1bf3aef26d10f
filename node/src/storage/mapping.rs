//! A mapped file, and which of its bytes are in memory (docs/adr/0006-sigbus.md).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap};
use volley_common::PartId;

use super::fault;

/// The smallest page of memory that this kind of machine may have.
const SMALLEST_PAGE: usize = 4 << 10;
/// A page of memory, or some of them on machines that may have larger ones.
const PAGE: usize = if cfg!(target_arch = "x86_64") { SMALLEST_PAGE } else { 64 << 10 };
/// Ranges that are no further apart are asked for as one: what lies between costs less than a call.
const GAP: u64 = 64 << 10;

/// A mapping that lives as long as any slice of it.
#[derive(Clone)]
pub struct Mapping(Arc<(Mmap, fault::Named)>);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl Mapping {
    /// Maps a part's file.
    pub fn new(file: &File, id: PartId) -> io::Result<Mapping> {
        // SAFETY: a part's file never changes after its rename (ARCHITECTURE.md, Invariants): it is only unlinked, which
        // leaves mappings as they are. What a stranger's hand in it means stands in docs/adr/0006-sigbus.md.
        let mapping = unsafe { Mmap::map(file) }?;
        let named = fault::name(&mapping, id);
        Ok(Mapping(Arc::new((mapping, named))))
    }

    /// Where a slice lies; `None` if it is empty, or not of this mapping.
    pub fn range_of(&self, slice: &[u8]) -> Option<Range<u64>> {
        let whole = self.as_ref();
        let start = (slice.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        let end = start.checked_add(slice.len()).filter(|&end| end <= whole.len())?;
        (!slice.is_empty()).then_some(start as u64..end as u64)
    }

    /// Whether all these bytes are in memory, so that reading them waits for no disk. Of a file that was cut since it was
    /// mapped it says nothing.
    pub fn is_resident(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> bool {
        let mut pages = Vec::new();
        merged(ranges).iter().all(|range| self.is_range_resident(range, &mut pages))
    }

    fn is_range_resident(&self, range: &Range<u64>, pages: &mut Vec<u8>) -> bool {
        let start = range.start as usize / PAGE * PAGE;
        let Some(bytes) = self.as_ref().get(start..range.end as usize) else { return false };
        // mincore(2) fills one byte for each page, of whatever size that is here.
        pages.resize(bytes.len().div_ceil(SMALLEST_PAGE), 1);
        pages.fill(1);
        // SAFETY: the bytes are mapped, from a page's beginning on, and there is a byte for every page of them.
        let result = unsafe { libc::mincore(bytes.as_ptr() as *mut libc::c_void, bytes.len(), pages.as_mut_ptr()) };
        result == 0 && pages.iter().all(|page| page & 1 == 1)
    }

    /// Reads bytes into memory, so that whoever reads them next meets no page that cannot be had.
    ///
    /// # Errors
    /// The disk does not give them, or the file has become shorter.
    pub fn bring_in(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> io::Result<()> {
        let ranges = merged(ranges);
        let advise = |advice, range: &Range<u64>| {
            self.0.0.advise_range(advice, range.start as usize, (range.end - range.start) as usize)
        };
        // First the disk is told of all, then each is waited for.
        for range in ranges.iter().filter(|range| range.end - range.start > PAGE as u64) {
            // It is advice: what it does not do is done below.
            let _ = advise(Advice::WillNeed, range);
        }
        ranges.iter().try_for_each(|range| match advise(Advice::PopulateRead, range) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON)) => Err(e),
            // Not known before Linux 5.14, or no memory for it: the pages come when they are read.
            _ => Ok(()),
        })
    }
}

/// The ranges in order, those that lie close together as one.
fn merged(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
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

/// Copies what lies in the last page of a message's slices, but for that page's first byte. A file that is cut within a page
/// reads as zeros up to that page's end, without a fault; beyond it there is one. So a cut within the last page harms
/// nothing that is still mapped, and any earlier one lets that byte fault: a message that is vouched for afterwards
/// either goes out right or breaks its connection. A last page whose first byte is not in the message is copied whole, and
/// the one before it becomes the last.
pub fn own_last_page(slices: &mut Vec<Bytes>) {
    let mut mapped = vec![true; slices.len()];
    loop {
        let of_file = || slices.iter().zip(&mapped).filter(|(slice, mapped)| **mapped && !slice.is_empty());
        let ends = of_file().map(|(slice, _)| slice.as_ptr() as usize + slice.len());
        let Some(page) = ends.max().map(|end| (end - 1) / PAGE * PAGE) else { return };
        let keeps = of_file()
            .any(|(slice, _)| (slice.as_ptr() as usize..slice.as_ptr() as usize + slice.len()).contains(&page));
        own_from(slices, &mut mapped, page + usize::from(keeps));
        if keeps {
            return;
        }
    }
}

/// Copies what is mapped at this address or behind it.
fn own_from(slices: &mut Vec<Bytes>, mapped: &mut Vec<bool>, from: usize) {
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

    fn mapped(bytes: usize) -> (File, Mapping) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        let mapping = Mapping::new(&file, PartId::random()).unwrap();
        (file, mapping)
    }

    #[test]
    fn ranges_that_lie_close_together_become_one() {
        let far = 10 * GAP;
        let ranges = [far..far + 1, 5..9, 0..3, 7..7, 9 + GAP..20 + GAP, far + 1..far + 2];
        assert_eq!(merged(ranges), [0..20 + GAP, far..far + 2]);
        assert!(merged(once(4..4)).is_empty());
    }

    #[test]
    fn slices_are_found_where_they_lie() {
        let (_file, mapping) = mapped(10_000);
        let all = Bytes::from_owner(mapping.clone());
        assert_eq!(mapping.range_of(&all), Some(0..10_000));
        assert_eq!(mapping.range_of(&all.slice(9_000..)), Some(9_000..10_000));
        assert_eq!(mapping.range_of(&all.slice(5..5)), None);
        assert_eq!(mapping.range_of(&[0; 100]), None);
    }

    #[test]
    fn what_was_just_written_is_resident_and_what_was_cut_cannot_be_brought_in() {
        let (file, mapping) = mapped(1 << 20);
        assert!(mapping.is_resident(once(0..1 << 20)) && mapping.is_resident([]));
        assert!(!mapping.is_resident(once(0..(1 << 20) + 1)), "beyond the mapping");
        mapping.bring_in([3..4, 0..1 << 20]).unwrap();
        file.set_len(700_000).unwrap();
        mapping.bring_in([3..4, 100_000..700_000]).unwrap();
        assert!(mapping.bring_in([0..10, 800_000..800_001]).is_err());
    }
}
