//! Faults that lose bytes: wiped folders, damaged files, a full disk.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use volley_tests::cluster::MemberId;

use super::{FaultUndo, InjectResult, ProcessNemesis, answers};
use crate::check::{ChaosViolation, ViolationKind};
use crate::copies;
use crate::faults::{Corruption, FaultAction};

/// How long a wiped coordinator may take to answer again.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

impl ProcessNemesis {
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.cluster.servers.nodes.iter().map(|node| node.folder.clone()).collect()
    }

    /// Refuses a fault that could lose the last copy of a part: another node must have an intact copy of each part that
    /// it destroys, and the copies that an earlier fault destroyed must be repaired (or their parts deleted).
    pub(super) fn check_enough_copies(&mut self, action: FaultAction) -> Result<(), String> {
        if !action.destroys_copies() {
            return Ok(());
        }
        let inventory = copies::inventory(&self.folders());
        self.parts_at_risk.retain(|part| inventory.get(part).is_some_and(|copies| copies.sound().len() < 2));
        let alone = match action {
            FaultAction::WipeNode(node) | FaultAction::CorruptPart(node, _) => copies::only_on(&inventory, node),
            _ => Vec::new(),
        };
        match self.parts_at_risk.iter().chain(&alone).next() {
            None => Ok(()),
            Some(part) => Err(format!("too few copies of part {part}")),
        }
    }

    pub(super) fn wipe_node(&mut self, node: usize) -> (String, FaultUndo) {
        let inventory = copies::inventory(&self.folders());
        let member = MemberId::Node(node);
        self.cluster.servers.member(member).kill();
        self.cluster.wipe(member);
        let had = inventory.into_iter().filter(|(_, part)| part.copies.iter().any(|copy| copy.node == node));
        self.parts_at_risk.extend(had.map(|(name, _)| name));
        (member.to_string(), FaultUndo::Start(vec![member]))
    }

    /// All coordinators must answer first, so that the others have what this one loses.
    pub(super) async fn wipe_coordinator(&mut self, member: MemberId) -> InjectResult {
        for coordinator in &self.cluster.servers.coordinators {
            answers(&coordinator.address, Duration::from_secs(20)).await?;
        }
        self.cluster.servers.member(member).kill();
        self.cluster.wipe(member);
        self.cluster.start(member);
        let address = self.cluster.servers.member(member).address.clone();
        if let Err(why) = answers(&address, ANSWER_LIMIT).await {
            let what = format!("{member} does not answer after its folder was wiped: {why}");
            self.violations.push(ChaosViolation { kind: ViolationKind::Unreachable, what, operations: Vec::new() });
        }
        Ok((member.to_string(), FaultUndo::Nothing))
    }

    pub(super) fn fill_disk(&mut self) -> InjectResult {
        let small = self.cluster.small_disk.ok_or("no small disk could be mounted (that needs root)")?;
        let path = self.cluster.servers.nodes[small].folder.join("filler");
        let mut file = fs::File::create(&path).map_err(|e| e.to_string())?;
        let block = vec![7; 64 << 10];
        while file.write(&block).is_ok_and(|written| written > 0) {}
        Ok((MemberId::Node(small).to_string(), FaultUndo::Remove(path)))
    }

    /// Damages a part of which another node has an intact copy, while the node is stopped.
    pub(super) fn corrupt_part(&mut self, node: usize, corruption: Corruption) -> InjectResult {
        let inventory = copies::inventory(&self.folders());
        let mine = inventory.iter().filter_map(|(name, part)| {
            let mine = part.copies.iter().find(|copy| copy.node == node)?;
            part.sound().iter().any(|other| *other != node).then(|| (name.clone(), mine.path.clone()))
        });
        let mine: Vec<(String, PathBuf)> = mine.collect();
        if mine.is_empty() {
            return Err("the node had no part that another has too".into());
        }
        let (name, path) = mine[self.generator.index(mine.len())].clone();
        let member = MemberId::Node(node);
        self.cluster.servers.member(member).kill();
        corrupt(&path, corruption).map_err(|e| format!("{}: {e}", path.display()))?;
        self.parts_at_risk.insert(name.clone());
        self.cluster.start(member);
        Ok((format!("{member} {name}"), FaultUndo::Nothing))
    }
}

fn corrupt(path: &Path, corruption: Corruption) -> std::io::Result<()> {
    let length = fs::metadata(path)?.len();
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let middle = length / 2;
    match corruption {
        Corruption::Truncate => file.set_len(middle),
        Corruption::Zero => {
            file.seek(SeekFrom::Start(middle))?;
            file.write_all(&vec![0; (length - middle).min(4096) as usize])
        }
        Corruption::FlipBit => {
            let byte = fs::read(path)?[middle as usize] ^ 0x10;
            file.seek(SeekFrom::Start(middle))?;
            file.write_all(&[byte])
        }
    }
}
