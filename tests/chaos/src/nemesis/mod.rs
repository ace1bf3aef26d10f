//! Does the faults, and undoes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use volley_common::client::Client;
use volley_tests::process::Process;

use crate::check::{Kind, Violation};
use crate::faults::{Act, Chooser, Cut, Fault, Who};
use crate::history::{FaultEvent, Line, Recorder};
use crate::links::{Member, Mode};
use crate::site::Site;

/// How long a member may take to end on SIGTERM.
const STOPPED: Duration = Duration::from_secs(45);

mod growth;
mod losses;

/// The one who does it.
pub struct Nemesis {
    /// The cluster.
    pub site: Site,
    /// What was seen to go wrong meanwhile.
    pub violations: Vec<Violation>,
    /// Faults that could not be done, by kind: how often, and why the last time.
    pub skipped: BTreeMap<&'static str, (usize, String)>,
    recorder: Arc<Recorder>,
    chooser: Chooser,
    only: Vec<String>,
    /// Parts that lost a copy and have not been seen with two since.
    owed: BTreeSet<String>,
    done: usize,
    /// A fault that destroys copies waits here until those of the one before it are back.
    deferred: Option<Fault>,
}

/// A fault that was done: what to undo.
struct Struck {
    kind: &'static str,
    what: String,
    begin: u64,
    hold: Duration,
    undo: Undo,
}

enum Undo {
    Nothing,
    Start(Vec<Member>),
    Resume(Member),
    Heal(Vec<(Member, Member)>),
    Remove(PathBuf),
    Undrain(String),
}

type Strike = Result<(String, Undo), String>;

impl Nemesis {
    /// Faults drawn by `chooser` on this cluster.
    pub fn new(site: Site, recorder: Arc<Recorder>, chooser: Chooser, only: Vec<String>) -> Nemesis {
        Nemesis {
            site,
            violations: Vec::new(),
            skipped: BTreeMap::new(),
            recorder,
            chooser,
            only,
            owed: BTreeSet::new(),
            done: 0,
            deferred: None,
        }
    }

    /// How many faults were done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Does the next fault, or the next two at once, and undoes them; leaves the cluster alone for a moment then.
    pub async fn turn(&mut self) {
        let mut struck = Vec::new();
        for Fault { act, hold } in self.draw() {
            let begin = self.recorder.now();
            match self.strike(act).await {
                Ok((what, undo)) => struck.push(Struck { kind: act.kind(), what, begin, hold, undo }),
                Err(why) => self.skip(act, why),
            }
        }
        struck.sort_by_key(|one| one.hold);
        let begin = Instant::now();
        for Struck { kind, what, begin: since, hold, undo } in struck {
            tokio::time::sleep(hold.saturating_sub(begin.elapsed())).await;
            self.undo(undo).await;
            self.done += 1;
            let fault = FaultEvent { kind: kind.into(), what, begin: since, end: self.recorder.now() };
            self.recorder.add(Line::Fault(fault));
        }
        tokio::time::sleep(self.chooser.pause()).await;
        self.look_for_dead();
    }

    /// The faults of this turn: one that waits, if its time has come, else what is drawn.
    fn draw(&mut self) -> Vec<Fault> {
        if let Some(waiting) = self.deferred.take() {
            match self.spared(waiting.act) {
                Ok(()) => return vec![waiting],
                Err(_) => self.deferred = Some(waiting),
            }
        }
        let drawn = self.chooser.next(&self.only);
        let Err(why) = self.spared(drawn[0].act) else { return drawn };
        if self.deferred.is_some() {
            self.skip(drawn[0].act, why);
        } else {
            self.deferred = Some(drawn[0]);
        }
        Vec::new()
    }

    fn skip(&mut self, act: Act, why: String) {
        let skipped = self.skipped.entry(act.kind()).or_default();
        *skipped = (skipped.0 + 1, why);
    }

    /// Processes that ended by themselves are a violation each, and are started again.
    pub fn look_for_dead(&mut self) {
        for member in self.site.members() {
            if let Some(died) = died(self.site.process(member)) {
                self.violations.push(died);
                self.site.kill(member);
                self.site.start(member);
            }
        }
    }

    async fn strike(&mut self, act: Act) -> Strike {
        match act {
            Act::Kill(who) => self.member(who).await.map(|member| self.kill(vec![member])),
            Act::KillCoordinators => {
                let all = self.site.members().into_iter().filter(|member| matches!(member, Member::Coordinator(_)));
                Ok(self.kill(all.collect()))
            }
            Act::KillAll => Ok(self.kill(self.site.members())),
            Act::Restart(who) => self.stop(who).await,
            Act::Pause(who) => {
                let member = self.member(who).await?;
                self.running(member)?.pause();
                Ok((member.to_string(), Undo::Resume(member)))
            }
            Act::Cut(cut, mode) => self.cut(cut, mode).await,
            Act::WipeNode(node) => Ok(self.wipe_node(node)),
            Act::WipeCoordinator(at) => self.wipe_coordinator(Member::Coordinator(at)).await,
            Act::FillDisk => self.fill_disk(),
            Act::Harm(node, harm) => self.harm(node, harm),
            Act::Drain(node) => self.drain(node).await,
            Act::Replace(node) => self.replace(node).await,
            Act::Forget => self.forget().await,
        }
    }

    async fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Start(members) => {
                for member in members {
                    // Two faults at once may have hit the same.
                    if self.site.process(member).pid().is_none() {
                        self.site.start(member);
                    }
                }
            }
            Undo::Resume(member) => {
                let process = self.site.process(member);
                if process.is_alive() {
                    process.resume();
                }
            }
            Undo::Heal(ways) => ways.into_iter().for_each(|(from, to)| self.site.links().heal(from, to)),
            Undo::Remove(path) => drop(fs::remove_file(path)),
            Undo::Undrain(node) => {
                // Whether it was heard shows at the end, when all copies must be in place.
                for _ in 0..5 {
                    if self.action("undrain_node", &json!({ "node": node })).await.is_ok() {
                        break;
                    }
                }
            }
        }
    }

    async fn member(&self, who: Who) -> Result<Member, String> {
        match who {
            Who::Member(member) => Ok(member),
            Who::Leader => self.site.leader().await.map(Member::Coordinator).ok_or("there was no leader".into()),
        }
    }

    fn running(&mut self, member: Member) -> Result<&mut volley_tests::process::Process, String> {
        let process = self.site.process(member);
        if process.is_alive() { Ok(process) } else { Err(format!("{member} was not running")) }
    }

    fn kill(&mut self, members: Vec<Member>) -> (String, Undo) {
        members.iter().for_each(|member| self.site.kill(*member));
        let names: Vec<String> = members.iter().map(Member::to_string).collect();
        (names.join(" "), Undo::Start(members))
    }

    /// SIGTERM: it must end well, and soon, unless it was still starting.
    async fn stop(&mut self, who: Who) -> Strike {
        let member = self.member(who).await?;
        let process = self.running(member)?;
        // Another fault of this moment may have paused it.
        process.resume();
        let was_ready = process.try_ready(Duration::from_secs(20)).await.is_ok();
        let status = process.try_stop(STOPPED).await;
        if was_ready && !status.is_some_and(|status| status.success()) {
            let how = status.map_or(format!("did not end within {STOPPED:?}"), |status| format!("ended with {status}"));
            let what = format!("{member} {how} on SIGTERM");
            self.violations.push(Violation { kind: Kind::Died, what, events: Vec::new() });
        }
        Ok((member.to_string(), Undo::Start(vec![member])))
    }

    async fn cut(&mut self, cut: Cut, mode: Mode) -> Strike {
        let all = self.site.members();
        let both = |one, others: &[Member]| -> Vec<(Member, Member)> {
            others.iter().filter(|other| **other != one).flat_map(|other| [(one, *other), (*other, one)]).collect()
        };
        let ways = match cut {
            Cut::All(who) => {
                both(self.member(who).await?, &all.iter().copied().chain([Member::Client]).collect::<Vec<_>>())
            }
            Cut::Peers(who) => both(self.member(who).await?, &all),
            Cut::Pair(who, other) => {
                let member = self.member(who).await?;
                both(member, &[another(&all, member, other)])
            }
            Cut::OneWay(who, other) => {
                let member = self.member(who).await?;
                vec![(member, another(&all, member, other))]
            }
            Cut::Clients(member) => both(member, &[Member::Client]),
        };
        let (from, to) = ways[0];
        ways.iter().for_each(|(from, to)| self.site.links().cut(*from, *to, mode));
        Ok((format!("{from} {to} ({} ways) {cut:?} {mode:?}", ways.len()), Undo::Heal(ways)))
    }
}

/// A process that was started, and ended without having been told to.
fn died(process: &mut Process) -> Option<Violation> {
    let ended = process.ended_by_itself();
    ended.then(|| {
        let what = format!("{} ended by itself; its log ends so:\n{}", process.name, process.log_tail());
        Violation { kind: Kind::Died, what, events: Vec::new() }
    })
}

/// `other`, or the member after it if that is the same as `member`.
fn another(all: &[Member], member: Member, other: Member) -> Member {
    let at = all.iter().position(|one| *one == other).unwrap_or(0);
    if member == other { all[(at + 1) % all.len()] } else { other }
}

/// Waits until a coordinator answers a linearizable read.
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

    fn process(folder: &Path, program: &str, arguments: &[&str]) -> Process {
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let mut process = Process::new(program, "node1".into(), "127.0.0.1:1".into(), folder.join("node1"), arguments);
        process.start();
        process
    }

    #[tokio::test]
    async fn a_process_that_ended_by_itself_died() {
        let folder = tempfile::tempdir().unwrap();
        let mut ending = process(folder.path(), "/bin/sh", &["-c", "echo it is over >&2; exit 1"]);
        let died = wait_for(Duration::from_secs(20), "it ends", async || died(&mut ending)).await;
        assert_eq!(died.kind, Kind::Died);
        assert!(died.what.starts_with("node1 ended by itself") && died.what.contains("it is over"), "{died}");
    }

    #[test]
    fn a_process_that_runs_or_was_killed_did_not_die() {
        let folder = tempfile::tempdir().unwrap();
        let mut running = process(folder.path(), "/bin/sleep", &["60"]);
        assert_eq!(died(&mut running), None);
        running.kill9();
        assert_eq!(died(&mut running), None);
    }

    #[tokio::test]
    async fn nobody_answers_where_nobody_listens() {
        let why = answers("127.0.0.1:1", Duration::ZERO).await.unwrap_err();
        assert!(why.starts_with("127.0.0.1:1: "), "{why}");
    }
}
