//! Faults after which bytes are gone: wiped folders, harmed files, a full disk.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Nemesis, Strike, Undo, answers};
use crate::check::{Kind, Violation};
use crate::copies;
use crate::faults::{Act, Harm};
use crate::links::Member;

/// How long a wiped coordinator may take to answer again.
const BACK: Duration = Duration::from_secs(60);

impl Nemesis {
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.site.nodes.iter().map(|node| node.folder.clone()).collect()
    }

    /// Whether a fault may come now: if copies are gone after it, another node must have each, and those that an earlier
    /// fault took must be back (or their parts gone for good).
    pub(super) fn spared(&mut self, act: Act) -> Result<(), String> {
        if !act.destroys() {
            return Ok(());
        }
        let survey = copies::survey(&self.folders());
        self.owed.retain(|part| survey.get(part).is_some_and(|copies| copies.sound().len() < 2));
        let alone = match act {
            Act::WipeNode(node) | Act::Harm(node, _) => copies::only_on(&survey, node),
            _ => Vec::new(),
        };
        match self.owed.iter().chain(&alone).next() {
            None => Ok(()),
            Some(part) => Err(format!("too few copies of part {part}")),
        }
    }

    pub(super) fn wipe_node(&mut self, node: usize) -> (String, Undo) {
        let survey = copies::survey(&self.folders());
        let member = Member::Node(node);
        self.site.kill(member);
        self.site.wipe(member);
        let had = survey.into_iter().filter(|(_, part)| part.copies.iter().any(|copy| copy.node == node));
        self.owed.extend(had.map(|(name, _)| name));
        (member.to_string(), Undo::Start(vec![member]))
    }

    /// All coordinators must be well before: the others hold what this one forgets.
    pub(super) async fn wipe_coordinator(&mut self, member: Member) -> Strike {
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

    pub(super) fn fill_disk(&mut self) -> Strike {
        let small = self.site.small.ok_or("no small disk could be mounted (that needs root)")?;
        let path = self.site.nodes[small].folder.join("filler");
        let mut file = fs::File::create(&path).map_err(|e| e.to_string())?;
        let block = vec![7; 64 << 10];
        while file.write(&block).is_ok_and(|written| written > 0) {}
        Ok((Member::Node(small).to_string(), Undo::Remove(path)))
    }

    /// Harms a part of which another node has a sound copy, while the node does not run.
    pub(super) fn harm(&mut self, node: usize, harm: Harm) -> Strike {
        let survey = copies::survey(&self.folders());
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
