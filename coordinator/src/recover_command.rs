//! `volley-coordinator recover`: lets one coordinator continue alone after a majority was lost permanently.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use volley_common::{Error, Result, listen};

use crate::raft::membership::unsafe_recovery::{FolderSummary, RecoveryOutcome, inspect, recover};

/// How long the command waits for another coordinator to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The command line of `volley-coordinator recover`.
#[derive(Clone, Debug, clap::Args)]
pub struct RecoverArgs {
    /// The data folder of the stopped coordinator.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The id of the stopped coordinator.
    #[arg(long)]
    pub id: u64,
    /// Its peer address from now on, HOST:PORT [default: as before].
    #[arg(long)]
    pub peer: Option<String>,
    /// Recover the folder: what only the lost coordinators had is lost permanently.
    #[arg(long)]
    pub yes_lose_unreplicated: bool,
}

/// Reads the folder, and recovers it if the arguments confirm that; returns a report of both.
///
/// # Errors
/// FAILED_PRECONDITION: the folder is in use or empty, or another coordinator is running.
pub async fn run(args: &RecoverArgs) -> Result<String> {
    let peer = match &args.peer {
        Some(peer) => Some(listen::check_advertise(peer).map_err(|e| e.at("--peer"))?.to_string()),
        None => None,
    };
    let found = inspect(&args.data_dir, args.id)?;
    if !args.yes_lose_unreplicated {
        return Ok(found_report(args, &found));
    }
    check_others_are_stopped(args.id, &found).await?;
    Ok(recovered_report(args, &recover(&args.data_dir, args.id, peer)?))
}

/// Refuses to recover while another coordinator runs: a majority may exist, and would continue beside the recovered
/// cluster.
async fn check_others_are_stopped(id: u64, found: &FolderSummary) -> Result<()> {
    for (other, addr) in found.members.iter().filter(|(other, _)| **other != id) {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await;
        if matches!(connected, Ok(Ok(_))) {
            return Err(Error::precondition(format!(
                "coordinator {other} at {addr} is running. If a majority can be started again, do that instead; if not, stop {other} first, and add it again with an empty folder afterwards"
            )));
        }
    }
    Ok(())
}

fn found_report(args: &RecoverArgs, found: &FolderSummary) -> String {
    [
        format!(
            "{} holds the catalog of cluster {}, of coordinators {}.",
            args.data_dir.display(),
            found.cluster,
            member_list(found)
        ),
        format!(
            "Its log ends with term {}, index {}; entries up to index {} are known to be committed.",
            found.term, found.index, found.applied
        ),
        "Nothing was changed. If no majority of these coordinators can be started again, recover the folder whose"
            .into(),
        "log ends with the highest term, and among those the highest index: add --yes-lose-unreplicated.".into(),
    ]
    .join("\n")
}

fn recovered_report(args: &RecoverArgs, recovered: &RecoveryOutcome) -> String {
    let (id, found) = (args.id, &recovered.before);
    [
        format!(
            "Coordinator {id} at {} is now the only one of cluster {}, which was {}.",
            recovered.peer, recovered.cluster, found.cluster
        ),
        format!(
            "Kept: everything up to term {}, index {}. Lost: what coordinators committed after that without {id}; nodes move the parts of such puts to orphaned/ in their folders, where they are kept for orphan_retention_days.",
            found.term, found.index
        ),
        "Start it as before, then add others with empty data folders: volley coordinators add ID=HOST:PORT.".into(),
        format!(
            "Do not start the other coordinators of {} with their old folders: they exit when they find this one.",
            member_list(found)
        ),
    ]
    .join("\n")
}

fn member_list(found: &FolderSummary) -> String {
    let members: Vec<String> = found.members.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
    members.join(", ")
}
