//! `volley-coordinator recover`: one coordinator goes on alone after a majority was lost for good.

use std::fmt::Write;
use std::time::Duration;

use tokio::net::TcpStream;
use volley_common::{Error, Result, listen};

use crate::config::Recover;
use crate::raft::membership::unsafe_recovery::{FolderSummary, RecoveryOutcome, inspect, recover};

/// A coordinator that runs answers sooner.
const ASKING: Duration = Duration::from_secs(2);

/// Looks into the folder, and recovers it if told so; says what it found and did.
///
/// # Errors
/// FAILED_PRECONDITION: the folder is in use, or empty, or other coordinators are up.
pub async fn run(command: &Recover) -> Result<String> {
    let peer = match &command.peer {
        Some(peer) => Some(listen::check_advertise(peer).map_err(|e| e.at("--peer"))?.to_string()),
        None => None,
    };
    let found = inspect(&command.data_dir, command.id)?;
    if !command.yes_lose_unreplicated {
        return Ok(report(command, &found));
    }
    refuse_if_others_run(command.id, &found).await?;
    Ok(done(command, &recover(&command.data_dir, command.id, peer)?))
}

/// While others run, a majority may be there, and would go on beside the recovered one.
async fn refuse_if_others_run(id: u64, found: &FolderSummary) -> Result<()> {
    for (other, addr) in found.members.iter().filter(|(other, _)| **other != id) {
        let connected = tokio::time::timeout(ASKING, TcpStream::connect(addr)).await;
        if matches!(connected, Ok(Ok(_))) {
            return Err(Error::precondition(format!(
                "coordinator {other} at {addr} is up. If a majority can be brought back, do that instead; if not, stop {other} first, and add it again with an empty folder afterwards"
            )));
        }
    }
    Ok(())
}

fn list(found: &FolderSummary) -> String {
    let members: Vec<String> = found.members.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
    members.join(", ")
}

fn report(command: &Recover, found: &FolderSummary) -> String {
    let mut text = String::new();
    let folder = command.data_dir.display();
    let _ = writeln!(text, "{folder} holds the catalog of cluster {}, of coordinators {}.", found.cluster, list(found));
    let _ = writeln!(
        text,
        "Its log ends with term {}, index {}; up to index {} it is known to be committed.",
        found.term, found.index, found.applied
    );
    let _ = writeln!(
        text,
        "Nothing was changed. If no majority of these coordinators can be brought back, recover the folder"
    );
    let _ = write!(text, "whose log ends with the highest term, then the highest index: add --yes-lose-unreplicated.");
    text
}

fn done(command: &Recover, recovered: &RecoveryOutcome) -> String {
    let (id, found) = (command.id, &recovered.before);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Coordinator {id} at {} is now the only one of cluster {}, which was {}.",
        recovered.peer, recovered.cluster, found.cluster
    );
    let _ = writeln!(
        text,
        "Kept: everything up to term {}, index {}. Lost: what coordinators committed after that without {id}; the parts of such puts will be deleted.",
        found.term, found.index
    );
    let _ = writeln!(
        text,
        "Start it as before, then add others with empty data folders: volley coordinators add ID=HOST:PORT."
    );
    let _ = write!(
        text,
        "Do not start the other coordinators of {} with the folders that they had: they end when they hear of this one.",
        list(found)
    );
    text
}
