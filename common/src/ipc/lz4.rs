//! The decompressed size of LZ4 frames, computed without decompressing: arrow's decoder has no limit of its own.
//!
//! Formats: github.com/lz4/lz4, `doc/lz4_Frame_format.md` and `doc/lz4_Block_format.md`.

const MAGIC: u32 = 0x184D_2204;

/// Decompressed bytes of the LZ4 frames in `input`; `None` if they are malformed.
pub(super) fn decompressed_len(input: &[u8]) -> Option<u64> {
    let mut input = input;
    let mut total = 0;
    while !input.is_empty() {
        total += frame_len(&mut input)?;
    }
    Some(total)
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (front, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(front)
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input, 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

fn frame_len(input: &mut &[u8]) -> Option<u64> {
    if take_u32(input)? != MAGIC {
        return None;
    }
    let flags = take(input, 2)?[0];
    let has = |bit: u8| flags & (1 << bit) != 0;
    // Skips content size, dictionary id and the header's checksum.
    take(input, usize::from(has(3)) * 8 + usize::from(has(0)) * 4 + 1)?;
    let mut total = 0;
    loop {
        let size = take_u32(input)?;
        if size == 0 {
            break;
        }
        let block = take(input, (size & 0x7fff_ffff) as usize)?;
        let stored = size >> 31 == 1;
        total += if stored { block.len() as u64 } else { block_len(block)? };
        take(input, usize::from(has(4)) * 4)?;
    }
    take(input, usize::from(has(2)) * 4)?;
    Some(total)
}

/// Decompressed bytes of a block: each sequence has literals, then a match (except the last).
fn block_len(mut block: &[u8]) -> Option<u64> {
    let mut total = 0;
    while let Some(token) = take(&mut block, 1) {
        let literals = sequence_len(&mut block, token[0] >> 4)?;
        take(&mut block, usize::try_from(literals).ok()?)?;
        total += literals;
        if block.is_empty() {
            break;
        }
        take(&mut block, 2)?;
        total += sequence_len(&mut block, token[0] & 15)? + 4;
    }
    Some(total)
}

/// A length that begins in a token's nibble.
fn sequence_len(block: &mut &[u8], nibble: u8) -> Option<u64> {
    let mut length = u64::from(nibble);
    if nibble == 15 {
        loop {
            let byte = take(block, 1)?[0];
            length += u64::from(byte);
            if byte != 255 {
                break;
            }
        }
    }
    Some(length)
}
