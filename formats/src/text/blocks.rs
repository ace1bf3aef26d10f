//! Blocks of a text, which end where a record ends: one thread cuts them, others read them.

use std::io::{BufRead, Read};
use std::sync::mpsc::sync_channel;

/// Blocks that each thread has, with the one that waits for it and those that it has read.
const BLOCKS_PER_THREAD: usize = 2;
/// Bytes by which the last record of a block may exceed the block's size.
const MAX_EXCESS_BYTES: usize = 8 << 20;

/// Reads a block: whole lines of so many bytes in all, and those up to the end of its last record; `false` at the end of the
/// text. `ends_record` tells of each line, in order, whether a record ends with it.
///
/// Returns `None` if reading fails, or if the last record is so long that several blocks would take too much memory.
pub fn read_block(
    input: &mut impl BufRead,
    bytes: usize,
    block: &mut Vec<u8>,
    mut ends_record: impl FnMut(&[u8]) -> bool,
) -> Option<bool> {
    block.clear();
    let most = bytes + MAX_EXCESS_BYTES;
    while block.len() < most {
        let start = block.len();
        let read = input.by_ref().take((most - start) as u64).read_until(b'\n', block).ok()?;
        if read == 0 {
            return Some(start > 0);
        }
        let line = &block[start..];
        if line.ends_with(b"\n") && ends_record(line) && block.len() >= bytes {
            return Some(true);
        }
    }
    None
}

/// Calls `infer` with each block in one of `threads` threads, and `merge` with what it returns, in the order of the blocks.
/// This thread calls `next_block`, which is `false` at the end, and `merge`.
///
/// Returns `None` once one of the functions does.
pub fn for_each_block<S: Send>(
    threads: usize,
    mut next_block: impl FnMut(&mut Vec<u8>) -> Option<bool>,
    infer: impl Fn(&[u8]) -> Option<S> + Sync,
    mut merge: impl FnMut(S),
) -> Option<()> {
    let infer = &infer;
    std::thread::scope(|scope| {
        // Each has every n-th block, so that the oldest result is that of a known thread. No queue is ever full.
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (blocks, queue) = sync_channel::<Vec<u8>>(BLOCKS_PER_THREAD);
                let (results, inferred) = sync_channel::<(Option<S>, Vec<u8>)>(BLOCKS_PER_THREAD);
                scope.spawn(move || {
                    for block in queue {
                        if results.send((infer(&block), block)).is_err() {
                            break;
                        }
                    }
                });
                (blocks, inferred)
            })
            .collect();
        let mut merge_result = |index: usize| -> Option<Vec<u8>> {
            let (result, block) = workers[index % threads].1.recv().ok()?;
            merge(result?);
            Some(block)
        };
        let (mut sent, mut merged) = (0, 0);
        let mut block = Vec::new();
        while next_block(&mut block)? {
            workers[sent % threads].0.send(std::mem::take(&mut block)).ok()?;
            sent += 1;
            if sent - merged == BLOCKS_PER_THREAD * threads {
                // Its memory is that of the next block.
                block = merge_result(merged)?;
                merged += 1;
            }
        }
        (merged..sent).try_for_each(|index| merge_result(index).map(drop))
    })
}
