//! A simulated disk that loses what was not synced.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::fs_trace::TraceStep;

/// A file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Inode(usize);

/// A disk that makes only synced changes durable.
#[derive(Clone)]
pub struct SimulatedDisk {
    /// Contents of files as last synced; `None` before the first sync. Folders are not in here.
    files: BTreeMap<Inode, Option<Vec<u8>>>,
    /// Names in folders, as programs see them.
    visible: BTreeMap<Inode, BTreeMap<String, Inode>>,
    /// Names in folders, as last synced.
    synced: BTreeMap<Inode, BTreeMap<String, Inode>>,
    /// Changes of names since that sync.
    pending: Vec<(Inode, String, Option<Inode>)>,
    next: usize,
}

const ROOT: Inode = Inode(0);

impl SimulatedDisk {
    pub fn new() -> Self {
        let empty = BTreeMap::from([(ROOT, BTreeMap::new())]);
        SimulatedDisk { files: BTreeMap::new(), visible: empty.clone(), synced: empty, pending: Vec::new(), next: 1 }
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        path.components().try_fold(ROOT, |dir, name| self.visible.get(&dir)?.get(name.as_os_str().to_str()?).copied())
    }

    fn set(&mut self, path: &Path, inode: Option<Inode>) {
        let dir = self.find(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let names = self.visible.get_mut(&dir).unwrap();
        match inode {
            Some(inode) => drop(names.insert(name.clone(), inode)),
            None => drop(names.remove(&name)),
        }
        self.pending.push((dir, name, inode));
    }

    /// Applies a step.
    pub fn apply(&mut self, step: &TraceStep) {
        let fresh = Inode(self.next);
        match step {
            TraceStep::Create(path) => {
                self.next += 1;
                self.files.insert(fresh, None);
                self.set(path, Some(fresh));
            }
            TraceStep::CreateDir(path) => {
                self.next += 1;
                self.visible.insert(fresh, BTreeMap::new());
                self.synced.insert(fresh, BTreeMap::new());
                self.set(path, Some(fresh));
            }
            TraceStep::Sync(path, bytes) => {
                let inode = self.find(path).unwrap();
                self.files.insert(inode, Some(bytes.clone()));
            }
            TraceStep::Rename(from, to) => {
                let inode = self.find(from).unwrap();
                self.set(from, None);
                self.set(to, Some(inode));
            }
            TraceStep::Remove(path) => self.set(path, None),
            TraceStep::SyncDir(path) => {
                let dir = self.find(path).unwrap();
                let (due, rest) = self.pending.drain(..).partition(|(of, _, _)| *of == dir);
                self.pending = rest;
                apply_names(&mut self.synced, due);
            }
            TraceStep::Opened(_) | TraceStep::Joined(_) | TraceStep::Holds(_) | TraceStep::Removes(_) => {}
        }
    }

    /// Creates the folder at `root` as it may be after a power loss; `survives` decides about each change that was not synced.
    pub fn lose_power(&self, root: &Path, mut survives: impl FnMut() -> bool) {
        let mut names = self.synced.clone();
        apply_names(&mut names, self.pending.iter().filter(|_| survives()).cloned().collect());
        self.write_dir(&names, ROOT, root, &mut survives);
    }

    fn write_dir(
        &self,
        names: &BTreeMap<Inode, BTreeMap<String, Inode>>,
        dir: Inode,
        at: &Path,
        survives: &mut impl FnMut() -> bool,
    ) {
        for (name, inode) in &names[&dir] {
            let path = at.join(name);
            match self.files.get(inode) {
                Some(Some(bytes)) => fs::write(path, bytes).unwrap(),
                // Never synced: a file of any length and contents.
                Some(None) => fs::write(path, vec![0; if survives() { 5000 } else { 0 }]).unwrap(),
                None => {
                    fs::create_dir(&path).unwrap();
                    self.write_dir(names, *inode, &path, survives);
                }
            }
        }
    }
}

fn apply_names(names: &mut BTreeMap<Inode, BTreeMap<String, Inode>>, changes: Vec<(Inode, String, Option<Inode>)>) {
    for (dir, name, inode) in changes {
        let names = names.get_mut(&dir).unwrap();
        match inode {
            Some(inode) => drop(names.insert(name, inode)),
            None => drop(names.remove(&name)),
        }
    }
}
