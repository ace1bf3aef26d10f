//! Shuffled batches for programs that train: the Python package `volley` over four nodes, and Lance and WebDataset on files of this
//! machine, where they are installed.

use serde_json::json;

use super::gets::{ROWS_64K, about};
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::{ClientJob, RowSource, TrainingJob, TrainingLibrary};
use crate::programs;
use crate::report::CaseReport;
use crate::systems::SystemKind;

const TABLE: &str = "training";
/// The share of the reference table: WebDataset has a file in its archives for each row.
const SHARE: f64 = 0.1;

/// An epoch, and the first batch of one that begins at its middle.
pub(super) async fn all(bench: &mut Bench) -> Result<(), String> {
    if bench.kinds(&[SystemKind::Volley4]).is_empty() {
        return Ok(());
    }
    let source = bench.reference(SHARE);
    bench.keep_only(&[TABLE]).await?;
    let system = bench.system(SystemKind::Volley4).await;
    let options = json!({ "shards": 8 });
    bench.table(system, &BenchTable { name: TABLE, source: source.clone(), batch_rows: ROWS_64K, options }).await?;
    let how = format!("{} rows in batches of 256; the lines of Lance and WebDataset have no server", source.rows());
    for (name, what, position) in [
        ("python train", "an epoch", 0),
        ("python train-resume", "the first batch from the middle on", source.rows() / 2),
    ] {
        let contenders = contenders(bench, system, &source, position);
        let series = bench.rounds(&contenders).await?;
        bench.report.add(CaseReport::new(name, about(&source, &format!("{what}; {how}")), series));
    }
    Ok(())
}

/// The libraries that are installed. Volley is.
fn contenders(bench: &Bench, system: usize, source: &RowSource, position: u64) -> Vec<Contender> {
    let libraries = [
        ("volley4: volley", "volley", TrainingLibrary::Volley),
        ("lance", "lance", TrainingLibrary::Lance),
        ("webdataset", "webdataset", TrainingLibrary::Webdataset),
    ];
    let mut found = Vec::new();
    for (label, module, library) in libraries {
        if library != TrainingLibrary::Volley && !programs::has_module(bench.python(), module) {
            println!("{label} is left out: pip install -r tests/bench/python/requirements.txt");
            continue;
        }
        let job = TrainingJob {
            library,
            addresses: bench.running(system).coordinators(),
            table: TABLE.into(),
            source: source.clone(),
            folder: bench.folder().display().to_string(),
            position,
        };
        found.push(Contender { label: label.into(), system, plan: JobPlan::Job(ClientJob::Train(job)) });
    }
    found
}
