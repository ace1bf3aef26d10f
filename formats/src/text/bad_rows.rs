//! Rows that cannot be read: they fail the put, or they are skipped, counted, and the first ones kept for a report.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::error::ArrowError;
use clap::ValueEnum;
use serde::Serialize;

use crate::file_error;

/// Bad rows of which the report has the reason.
const MAX_REPORTED: usize = 5;

/// What happens to a row that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnBadRow {
    /// The put fails, and nothing is stored.
    Fail,
    /// The row is skipped and reported.
    Skip,
}

/// The skipped rows of all files of a put. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct BadRows(Arc<Mutex<BadRowReport>>);

/// How many rows were skipped, and why the first of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BadRowReport {
    /// The number of rows.
    pub skipped: u64,
    /// The first rows.
    pub first: Vec<BadRow>,
}

/// A row that was skipped.
#[derive(Clone, Debug, Serialize)]
pub struct BadRow {
    /// The file.
    pub file: String,
    /// File, line and reason.
    pub error: String,
}

impl BadRows {
    /// Adds a row of a file.
    pub fn add(&self, file: &Path, error: ArrowError) {
        let mut report = self.lock();
        report.skipped += 1;
        if report.first.len() < MAX_REPORTED {
            let error = file_error(file, error).message;
            report.first.push(BadRow { file: file.display().to_string(), error });
        }
    }

    /// The rows so far.
    pub fn report(&self) -> BadRowReport {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BadRowReport> {
        // A report is whole after each change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
