//! Inference from the rows of a text: by one thread, or by several from blocks of a large text.

use std::io::BufRead;

use arrow::error::ArrowError;
use volley_common::Result;

use super::blocks::for_each_block;
use super::column_stats::{ColumnStats, FieldStats};
use super::csv_rows::CsvRows;
use super::json_rows::JsonRows;
use super::{Input, TextOptions, TextRows, no_objects};
use crate::input::InputFile;
use crate::{ReadProgress, file_error};

/// Bytes of a block.
const BLOCK_BYTES: usize = 2 << 20;
/// Bytes of a file from which on several threads are of use.
const LARGE_BYTES: u64 = 4 << 20;
/// Threads of one file at most: one thread cuts the blocks for all of them.
const MAX_THREADS: usize = 8;

/// Infers from a file's rows.
///
/// # Errors
/// INVALID_ARGUMENT: not text of the format, or no row that names a column; names file and line.
pub fn infer(input: &InputFile, options: &TextOptions) -> Result<FieldStats> {
    let mut stats = nothing_known(options);
    match TextRows::open(input, options, ReadProgress::default())? {
        TextRows::Csv(rows) => infer_csv(rows, options, &mut stats),
        TextRows::Json(rows) => infer_json(rows, options, &mut stats),
    }
    .map_err(|e| file_error(&input.path, e))?;
    Ok(stats)
}

/// Whether [`infer_parallel`] has blocks for several threads.
pub fn is_large(input: &InputFile) -> bool {
    input.bytes >= LARGE_BYTES
}

/// As [`infer`], with the same outcome, by so many threads, eight at most, if the file is large. Each takes the memory of
/// two blocks of some MiB.
///
/// # Errors
/// As [`infer`].
pub fn infer_parallel(input: &InputFile, options: &TextOptions, threads: usize) -> Result<FieldStats> {
    if threads > 1
        && is_large(input)
        && let Some(stats) = infer_blocks(input, options, threads.min(MAX_THREADS), BLOCK_BYTES)
    {
        return Ok(stats);
    }
    // One thread knows the line of a fault, and that it is the first.
    infer(input, options)
}

/// Infers from blocks. Each must be read to its end, where its last row ends: so the next one begins with a row, and all rows
/// are those that one thread reads. What is known of a block does not depend on those before it.
///
/// Returns `None` if there is a fault, or if one thread must read the text: it is asked for its first rows only, or for a limited
/// number of columns, or its rows are elements of a JSON array, or objects of several lines, or very long.
fn infer_blocks(input: &InputFile, options: &TextOptions, threads: usize, bytes: usize) -> Option<FieldStats> {
    if options.infer_rows.is_some() || options.limits.columns != usize::MAX {
        return None;
    }
    let mut stats = nothing_known(options);
    match TextRows::open(input, options, ReadProgress::default()).ok()? {
        TextRows::Csv(rows) => infer_csv_blocks(rows, options, threads, bytes, &mut stats)?,
        TextRows::Json(rows) => infer_json_blocks(rows, options, threads, bytes, &mut stats)?,
    }
    Some(stats)
}

fn nothing_known(options: &TextOptions) -> FieldStats {
    let stats = FieldStats::without(options.typed.iter().cloned().collect(), options.all_text);
    stats.limited(options.limits.columns)
}

fn infer_csv(mut rows: CsvRows<Input>, options: &TextOptions, stats: &mut FieldStats) -> Result<(), ArrowError> {
    let mut columns = header_columns(&rows, stats);
    add_rows(&mut rows, options, options.infer_rows.unwrap_or(u64::MAX), &mut columns)?;
    merge_columns(&rows, &columns, stats);
    Ok(())
}

fn infer_csv_blocks(
    mut rows: CsvRows<Input>,
    options: &TextOptions,
    threads: usize,
    bytes: usize,
    stats: &mut FieldStats,
) -> Option<()> {
    let mut columns = header_columns(&rows, stats);
    let unknown = columns.clone();
    // The first row may begin with a byte-order mark; without a header it may be read already.
    add_rows(&mut rows, options, 1, &mut columns).ok()?;
    let like = rows.of_block(&[]);
    for_each_block(
        threads,
        |block| rows.next_block(bytes, block),
        |block| {
            let mut columns = unknown.clone();
            add_rows(&mut like.of_block(block), options, u64::MAX, &mut columns).ok()?;
            Some(columns)
        },
        |others: Vec<ColumnStats>| columns.iter_mut().zip(&others).for_each(|(column, other)| column.merge(other)),
    )?;
    merge_columns(&rows, &columns, stats);
    Some(())
}

/// What is known of the columns in the order of the header.
fn header_columns(rows: &CsvRows<Input>, stats: &mut FieldStats) -> Vec<ColumnStats> {
    rows.header().iter().map(|name| stats.column(name).clone()).collect()
}

fn merge_columns(rows: &CsvRows<Input>, columns: &[ColumnStats], stats: &mut FieldStats) {
    rows.header().iter().zip(columns).for_each(|(name, column)| stats.column(name).merge(column));
}

/// Adds the cells of so many rows.
fn add_rows<R: BufRead>(
    rows: &mut CsvRows<R>,
    options: &TextOptions,
    most: u64,
    columns: &mut [ColumnStats],
) -> Result<(), ArrowError> {
    for _ in 0..most {
        match rows.next_row() {
            Ok(true) => {}
            Ok(false) => break,
            // It is reported when the rows are read.
            Err(_) if options.bad_rows.is_some() && rows.can_continue() => continue,
            Err(e) => return Err(e),
        }
        for (index, column) in columns.iter_mut().enumerate() {
            let cell = rows.cell(index);
            if !options.is_null(cell) {
                column.add_cell(cell.text);
            }
        }
    }
    Ok(())
}

fn infer_json(mut rows: JsonRows<Input>, options: &TextOptions, stats: &mut FieldStats) -> Result<(), ArrowError> {
    let first_bad = add_objects(&mut rows, options, options.infer_rows.unwrap_or(u64::MAX), stats)?;
    if stats.columns().next().is_none() {
        return Err(first_bad.unwrap_or_else(no_objects));
    }
    Ok(())
}

fn infer_json_blocks(
    mut rows: JsonRows<Input>,
    options: &TextOptions,
    threads: usize,
    bytes: usize,
    stats: &mut FieldStats,
) -> Option<()> {
    let (like, unknown) = (rows.of_block(&[]), stats.clone());
    for_each_block(
        threads,
        |block| rows.next_block(bytes, block),
        |block| {
            let mut stats = unknown.clone();
            add_objects(&mut like.of_block(block), options, u64::MAX, &mut stats).ok()?;
            Some(stats)
        },
        |others: FieldStats| stats.merge(&others),
    )?;
    stats.columns().next().map(|_| ())
}

/// Adds so many objects; returns the error of the first one that was skipped.
fn add_objects<R: BufRead>(
    rows: &mut JsonRows<R>,
    options: &TextOptions,
    most: u64,
    stats: &mut FieldStats,
) -> Result<Option<ArrowError>, ArrowError> {
    // Meets the faults of a row before it leaves a trace in the types.
    let mut probe = options.bad_rows.as_ref().map(|_| stats.clone());
    let mut first_bad = None;
    for _ in 0..most {
        let next = rows.next_row().map(|row| row.is_some());
        let added = match (next, &mut probe) {
            (Ok(false), _) => break,
            (Ok(true), Some(probe)) => probe.add_object(rows.text(), 1).map_err(|fault| rows.fault(&fault)),
            (Ok(true), None) => Ok(()),
            (Err(e), Some(_)) if rows.can_continue() => Err(e),
            (Err(e), _) => return Err(e),
        };
        match added {
            Ok(()) => stats.add_object(rows.text(), 1).map_err(|fault| rows.fault(&fault))?,
            Err(e) => first_bad = first_bad.or(Some(e)),
        }
    }
    Ok(first_bad)
}

#[cfg(test)]
mod tests;
