//! Does the faults, and undoes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use volley_common::client::Client;

use crate::check::{Kind, Violation};
use crate::copies::{self, Survey};
use crate::faults::{Act, Chooser, Cut, Fault, Harm, Who};
use crate::history::{FaultEvent, Line, Recorder};
use crate::links::{Member, Mode};
use crate::site::Site;

/// How long copies that an earlier fault destroyed may take to be back before the next such fault.
const REPAIRED: Duration = Duration::from_secs(40);
/// How long a wiped coordinator may take to answer again.
const BACK: Duration = Duration::from_secs(60);
/// How long a member may take to end on SIGTERM.
const STOPPED: Duration = Duration::from_secs(45);
/// How long a drain is waited for.
const DRAINED: Duration = Duration::from_secs(20);

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
        }
    }

    /// How many faults were done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Does the next fault, or the next two at once, and undoes them; leaves the cluster alone for a moment then.
    pub async fn turn(&mut self) {
        let mut struck = Vec::new();
        for Fault { act, hold } in self.chooser.next(&self.only) {
            let begin = self.recorder.now();
            match self.strike(act).await {
                Ok((what, undo)) => struck.push(Struck { kind: act.kind(), what, begin, hold, undo }),
                Err(why) => {
                    let skipped = self.skipped.entry(act.kind()).or_default();
                    *skipped = (skipped.0 + 1, why);
                }
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

    /// Processes that ended by themselves are a violation each, and are started again.
    pub fn look_for_dead(&mut self) {
        for member in self.site.members() {
            let process = self.site.process(member);
            if process.ended_by_itself() {
                let what = format!("{member} ended by itself; its log ends so:\n{}", process.log_tail());
                self.violations.push(Violation { kind: Kind::Died, what, events: Vec::new() });
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
            Act::Wipe(Member::Node(node)) => self.wipe_node(node).await,
            Act::Wipe(member) => self.wipe_coordinator(member).await,
            Act::FillDisk => self.fill_disk(),
            Act::Harm(Member::Node(node), harm) => self.harm(node, harm).await,
            Act::Drain(Member::Node(node)) => self.drain(node).await,
            Act::Harm(..) | Act::Drain(_) => Err("only nodes have parts".into()),
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
                let _ = self.action("undrain_node", &json!({ "node": node })).await;
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

    fn folders(&self) -> Vec<PathBuf> {
        self.site.nodes.iter().map(|node| node.folder.clone()).collect()
    }

    /// Waits until this node's copies can be spared.
    async fn spared(&mut self, node: usize) -> Result<Survey, String> {
        let begin = Instant::now();
        loop {
            let survey = copies::survey(&self.folders());
            self.owed.retain(|part| survey.get(part).is_some_and(|copies| copies.sound().len() < 2));
            let alone = copies::only_on(&survey, node);
            if self.owed.is_empty() && alone.is_empty() {
                return Ok(survey);
            }
            if begin.elapsed() > REPAIRED {
                let part = self.owed.iter().next().or(alone.first()).cloned().unwrap_or_default();
                return Err(format!("a part had too few copies for {REPAIRED:?}: {part}"));
            }
            self.look_for_dead();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn wipe_node(&mut self, node: usize) -> Strike {
        let survey = self.spared(node).await?;
        let member = Member::Node(node);
        self.site.kill(member);
        self.site.wipe(member);
        let had = survey.into_iter().filter(|(_, part)| part.copies.iter().any(|copy| copy.node == node));
        self.owed.extend(had.map(|(name, _)| name));
        Ok((member.to_string(), Undo::Start(vec![member])))
    }

    /// All coordinators must be well before: the others hold what this one forgets.
    async fn wipe_coordinator(&mut self, member: Member) -> Strike {
        for coordinator in &self.site.coordinators {
            answers(&coordinator.address, Duration::from_secs(20)).await?;
        }
        self.site.kill(member);
        self.site.wipe(member);
        self.site.start(member);
        let address = self.site.process(member).address.clone();
        if let Err(why) = answers(&address, BACK).await {
            let what = format!("{member} does not answer after its folder was wiped: {why}");
            self.violations.push(Violation { kind: Kind::Unreachable, what, events: Vec::new() });
        }
        Ok((member.to_string(), Undo::Nothing))
    }

    fn fill_disk(&mut self) -> Strike {
        let small = self.site.small.ok_or("no small disk could be mounted (that needs root)")?;
        let path = self.site.nodes[small].folder.join("filler");
        let mut file = fs::File::create(&path).map_err(|e| e.to_string())?;
        let block = vec![7; 64 << 10];
        while file.write(&block).is_ok_and(|written| written > 0) {}
        Ok((Member::Node(small).to_string(), Undo::Remove(path)))
    }

    /// Harms a part of which another node has a sound copy, while the node does not run.
    async fn harm(&mut self, node: usize, harm: Harm) -> Strike {
        let survey = self.spared(node).await?;
        let mine = survey.iter().filter_map(|(name, part)| {
            let mine = part.copies.iter().find(|copy| copy.node == node)?;
            part.sound().iter().any(|other| *other != node).then(|| (name.clone(), mine.path.clone()))
        });
        let mine: Vec<(String, PathBuf)> = mine.collect();
        if mine.is_empty() {
            return Err("the node had no part that another has too".into());
        }
        let (name, path) = mine[self.chooser.index(mine.len())].clone();
        let member = Member::Node(node);
        self.site.kill(member);
        spoil(&path, harm).map_err(|e| format!("{}: {e}", path.display()))?;
        self.owed.insert(name.clone());
        self.site.start(member);
        Ok((format!("{member} {name}"), Undo::Nothing))
    }

    async fn drain(&mut self, node: usize) -> Strike {
        let uri = format!("grpc+tcp://{}", self.site.nodes[node].address);
        let status = self.site.status().await.ok_or("no coordinator answered")?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        // A wiped node comes back under another id; the one before it stays silent.
        let own = nodes.iter().find(|known| known["flight"] == uri.as_str() && known["state"] == "alive");
        let id = own.and_then(|known| known["id"].as_str()).ok_or("the node was not alive")?.to_string();
        self.action("drain_node", &json!({ "node": id })).await?;
        Ok((Member::Node(node).to_string(), Undo::Undrain(id)))
    }

    async fn action(&self, name: &str, body: &serde_json::Value) -> Result<(), String> {
        let mut last = String::new();
        for coordinator in &self.site.coordinators {
            let asked = async { Client::connect(&coordinator.address).await?.action(name, body).await };
            match tokio::time::timeout(DRAINED, asked).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => last = error.message,
                Err(_) => last = format!("{name} gave no answer within {DRAINED:?}"),
            }
        }
        Err(last)
    }
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

fn spoil(path: &Path, harm: Harm) -> std::io::Result<()> {
    let length = fs::metadata(path)?.len();
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let middle = length / 2;
    match harm {
        Harm::Truncate => file.set_len(middle),
        Harm::Zero => {
            file.seek(SeekFrom::Start(middle))?;
            file.write_all(&vec![0; (length - middle).min(4096) as usize])
        }
        Harm::Flip => {
            let byte = fs::read(path)?[middle as usize] ^ 0x10;
            file.seek(SeekFrom::Start(middle))?;
            file.write_all(&[byte])
        }
    }
}
