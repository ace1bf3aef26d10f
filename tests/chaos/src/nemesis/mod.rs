//! Injects the faults, and undoes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use volley_client::Client;
use volley_tests::cluster::MemberId;
use volley_tests::process::ServerProcess;

use crate::check::{ChaosViolation, ViolationKind};
use crate::cluster::FaultyCluster;
use crate::faults::{FaultAction, FaultGenerator, FaultTarget, LinkSet, ScheduledFault};
use crate::history::{FaultEvent, HistoryLine, HistoryRecorder};
use crate::links::{LinkDirection, LinkEnd, LinkFault};

/// How long a member may take to exit on SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(45);

mod burst;
mod growth;
mod losses;

/// Injects faults into a cluster of processes.
pub struct ProcessNemesis {
    /// The cluster.
    pub cluster: FaultyCluster,
    /// The violations so far.
    pub violations: Vec<ChaosViolation>,
    /// Faults that were not possible, by kind: the number, and the last reason.
    pub skipped: BTreeMap<&'static str, (usize, String)>,
    recorder: Arc<HistoryRecorder>,
    generator: FaultGenerator,
    only: Vec<String>,
    /// Parts that lost a copy and have not had two since.
    parts_at_risk: BTreeSet<String>,
    done: usize,
    /// Bursts that began, for their tables' names.
    bursts: usize,
    /// A fault that destroys copies, waiting until the copies lost before it are repaired.
    deferred: Option<ScheduledFault>,
}

/// A fault in effect, and how to undo it.
struct InjectedFault {
    kind: &'static str,
    what: String,
    begin: u64,
    duration: Duration,
    /// The member that does not answer meanwhile.
    hung: Option<String>,
    undo: FaultUndo,
}

enum FaultUndo {
    Nothing,
    Start(Vec<MemberId>),
    Resume(MemberId),
    Heal(Vec<LinkDirection>),
    Remove(PathBuf),
    Undrain(String),
}

type InjectResult = Result<(String, FaultUndo), String>;

impl ProcessNemesis {
    /// A nemesis that injects the faults of `generator` into this cluster.
    pub fn new(
        cluster: FaultyCluster,
        recorder: Arc<HistoryRecorder>,
        generator: FaultGenerator,
        only: Vec<String>,
    ) -> ProcessNemesis {
        ProcessNemesis {
            cluster,
            violations: Vec::new(),
            skipped: BTreeMap::new(),
            recorder,
            generator,
            only,
            parts_at_risk: BTreeSet::new(),
            done: 0,
            bursts: 0,
            deferred: None,
        }
    }

    /// How many faults were injected and undone.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Injects the next fault, or the next two at once, and undoes them; then waits a moment.
    pub async fn turn(&mut self) {
        let mut injected = Vec::new();
        for ScheduledFault { action, duration } in self.draw() {
            let begin = self.recorder.now();
            match self.inject(action).await {
                Ok((what, undo)) => {
                    let hung =
                        action.hangs_one_member().then(|| what.split(' ').next().unwrap_or_default().to_string());
                    injected.push(InjectedFault { kind: action.kind(), what, begin, duration, hung, undo });
                }
                Err(why) => self.skip(action, why),
            }
        }
        injected.sort_by_key(|one| one.duration);
        let begin = Instant::now();
        for InjectedFault { kind, what, begin: since, duration, hung, undo } in injected {
            tokio::time::sleep(duration.saturating_sub(begin.elapsed())).await;
            self.undo(undo).await;
            self.done += 1;
            let fault = FaultEvent { kind: kind.into(), what, begin: since, end: self.recorder.now(), hung };
            self.recorder.add(HistoryLine::Fault(fault));
        }
        tokio::time::sleep(self.generator.pause()).await;
        self.check_crashed();
    }

    /// The faults of this turn: the deferred one if it is possible now, otherwise newly drawn ones.
    fn draw(&mut self) -> Vec<ScheduledFault> {
        if let Some(waiting) = self.deferred.take() {
            match self.check_enough_copies(waiting.action) {
                Ok(()) => return vec![waiting],
                Err(_) => self.deferred = Some(waiting),
            }
        }
        let drawn = self.generator.next(&self.only);
        let Err(why) = self.check_enough_copies(drawn[0].action) else { return drawn };
        if self.deferred.is_some() {
            self.skip(drawn[0].action, why);
        } else {
            self.deferred = Some(drawn[0]);
        }
        Vec::new()
    }

    fn skip(&mut self, action: FaultAction, why: String) {
        let skipped = self.skipped.entry(action.kind()).or_default();
        *skipped = (skipped.0 + 1, why);
    }

    /// Reports each process that exited by itself as a violation, and starts it again.
    pub fn check_crashed(&mut self) {
        for member in self.cluster.servers.member_ids() {
            if let Some(violation) = crashed(self.cluster.servers.member(member)) {
                self.violations.push(violation);
                self.cluster.servers.member(member).kill();
                self.cluster.start(member);
            }
        }
    }

    async fn inject(&mut self, action: FaultAction) -> InjectResult {
        match action {
            FaultAction::Crash(who) => self.member(who).await.map(|member| self.kill(vec![member])),
            FaultAction::CrashCoordinators => {
                let all = self
                    .cluster
                    .servers
                    .member_ids()
                    .into_iter()
                    .filter(|member| matches!(member, MemberId::Coordinator(_)));
                Ok(self.kill(all.collect()))
            }
            FaultAction::CrashAll => Ok(self.kill(self.cluster.servers.member_ids())),
            FaultAction::Restart(who) => self.stop(who).await,
            FaultAction::Pause(who) => {
                let member = self.member(who).await?;
                self.running(member)?.pause();
                Ok((member.to_string(), FaultUndo::Resume(member)))
            }
            FaultAction::Links(links, fault) => self.fail_links(links, fault).await,
            FaultAction::WipeNode(node) => Ok(self.wipe_node(node)),
            FaultAction::WipeCoordinator(at) => self.wipe_coordinator(MemberId::Coordinator(at)).await,
            FaultAction::FillDisk => self.fill_disk(),
            FaultAction::CorruptPart(node, corruption) => self.corrupt_part(node, corruption),
            FaultAction::Drain(node) => self.drain(node).await,
            FaultAction::Replace(node) => self.replace(node).await,
            FaultAction::RemoveReplaced => self.remove_replaced().await,
            FaultAction::Burst => self.burst().await,
        }
    }

    async fn undo(&mut self, undo: FaultUndo) {
        match undo {
            FaultUndo::Nothing => {}
            FaultUndo::Start(members) => {
                for member in members {
                    // Two simultaneous faults may have hit the same member.
                    if self.cluster.servers.member(member).pid().is_none() {
                        self.cluster.start(member);
                    }
                }
            }
            FaultUndo::Resume(member) => {
                let process = self.cluster.servers.member(member);
                if process.is_running() {
                    process.resume();
                }
            }
            FaultUndo::Heal(directions) => {
                directions.into_iter().for_each(|direction| self.cluster.links().heal(direction))
            }
            FaultUndo::Remove(path) => drop(fs::remove_file(path)),
            FaultUndo::Undrain(node) => {
                // If no attempt succeeds, the check at the end finds missing copies.
                for _ in 0..5 {
                    if self.action("undrain_node", &json!({ "node": node })).await.is_ok() {
                        break;
                    }
                }
            }
        }
    }

    async fn member(&self, who: FaultTarget) -> Result<MemberId, String> {
        match who {
            FaultTarget::Member(member) => Ok(member),
            FaultTarget::Leader => {
                self.cluster.servers.known_leader().await.map(MemberId::Coordinator).ok_or("there was no leader".into())
            }
        }
    }

    fn running(&mut self, member: MemberId) -> Result<&mut volley_tests::process::ServerProcess, String> {
        let process = self.cluster.servers.member(member);
        if process.is_running() { Ok(process) } else { Err(format!("{member} was not running")) }
    }

    fn kill(&mut self, members: Vec<MemberId>) -> (String, FaultUndo) {
        members.iter().for_each(|member| self.cluster.servers.member(*member).kill());
        let names: Vec<String> = members.iter().map(MemberId::to_string).collect();
        (names.join(" "), FaultUndo::Start(members))
    }

    /// SIGTERM: the member must exit with success, and soon, unless it was still starting.
    async fn stop(&mut self, who: FaultTarget) -> InjectResult {
        let member = self.member(who).await?;
        let process = self.running(member)?;
        // A simultaneous fault may have paused it.
        process.resume();
        let was_ready = process.try_ready(Duration::from_secs(20)).await.is_ok();
        let status = process.try_stop(STOP_LIMIT).await;
        if was_ready && !status.is_some_and(|status| status.success()) {
            let how =
                status.map_or(format!("did not end within {STOP_LIMIT:?}"), |status| format!("ended with {status}"));
            let what = format!("{member} {how} on SIGTERM");
            self.violations.push(ChaosViolation { kind: ViolationKind::Crashed, what, operations: Vec::new() });
        }
        Ok((member.to_string(), FaultUndo::Start(vec![member])))
    }

    async fn fail_links(&mut self, links: LinkSet, fault: LinkFault) -> InjectResult {
        let all = self.cluster.servers.member_ids();
        let ends = || all.iter().copied().map(LinkEnd::from);
        let both = |one: LinkEnd, others: &[LinkEnd]| -> Vec<LinkDirection> {
            others.iter().filter(|other| **other != one).flat_map(|other| [(one, *other), (*other, one)]).collect()
        };
        let directions = match links {
            LinkSet::All(target) => {
                both(self.member(target).await?.into(), &ends().chain([LinkEnd::Clients]).collect::<Vec<_>>())
            }
            LinkSet::Members(target) => both(self.member(target).await?.into(), &ends().collect::<Vec<_>>()),
            LinkSet::Pair(target, other) => {
                let member = self.member(target).await?;
                both(member.into(), &[another(&all, member, other).into()])
            }
            LinkSet::OneWay(target, other) => {
                let member = self.member(target).await?;
                vec![(member.into(), another(&all, member, other).into())]
            }
            LinkSet::Clients(member) => both(member.into(), &[LinkEnd::Clients]),
        };
        let (from, to) = directions[0];
        directions.iter().for_each(|direction| self.cluster.links().set(*direction, fault));
        let what = format!("{from} {to} ({} directions) {links:?} {fault:?}", directions.len());
        Ok((what, FaultUndo::Heal(directions)))
    }
}

/// The violation of a process that exited by itself.
fn crashed(process: &mut ServerProcess) -> Option<ChaosViolation> {
    let ended = process.has_crashed();
    ended.then(|| {
        let what = format!("{} exited by itself; the end of its log:\n{}", process.name, process.log_tail());
        ChaosViolation { kind: ViolationKind::Crashed, what, operations: Vec::new() }
    })
}

/// `other`, or the member after it if that is the same as `member`.
fn another(all: &[MemberId], member: MemberId, other: MemberId) -> MemberId {
    let at = all.iter().position(|one| *one == other).unwrap_or(0);
    if member == other { all[(at + 1) % all.len()] } else { other }
}

/// Waits until a member answers a linearizable read.
pub async fn answers(address: &str, limit: Duration) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let asked = async { Client::connect(address).await?.list("").await };
        let last = match tokio::time::timeout(Duration::from_secs(8), asked).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.message,
            Err(_) => "no answer".to_string(),
        };
        if begin.elapsed() > limit {
            return Err(format!("{address}: {last}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use volley_tests::wait_for;

    use super::*;

    fn process(folder: &Path, program: &str, arguments: &[&str]) -> ServerProcess {
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let mut process =
            ServerProcess::new(program, "node1".into(), "127.0.0.1:1".into(), folder.join("node1"), arguments);
        process.start();
        process
    }

    #[tokio::test]
    async fn process_that_exits_by_itself_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let mut ending = process(folder.path(), "/bin/sh", &["-c", "echo it is over >&2; exit 1"]);
        let died = wait_for(Duration::from_secs(20), "it ends", async || crashed(&mut ending)).await;
        assert_eq!(died.kind, ViolationKind::Crashed);
        assert!(died.what.starts_with("node1 exited by itself") && died.what.contains("it is over"), "{died}");
    }

    #[test]
    fn running_or_killed_process_is_not_reported() {
        let folder = tempfile::tempdir().unwrap();
        let mut running = process(folder.path(), "/bin/sleep", &["60"]);
        assert_eq!(crashed(&mut running), None);
        running.kill();
        assert_eq!(crashed(&mut running), None);
    }

    #[tokio::test]
    async fn closed_port_never_answers() {
        let why = answers("127.0.0.1:1", Duration::ZERO).await.unwrap_err();
        assert!(why.starts_with("127.0.0.1:1: "), "{why}");
    }
}
