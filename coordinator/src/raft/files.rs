//! The data folder: real, or a simulation's.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError};
use volley_common::{Error, Result};

/// Where files are made before they are renamed.
pub const TMP: &str = "tmp";
/// Where snapshots stand.
pub const SNAPSHOTS: &str = "snapshots";

/// A data folder. Everything blocks; paths are whole ones, within the folder.
pub trait Disk: Debug + Send + Sync {
    /// The folder.
    fn dir(&self) -> &Path;
    /// Makes the folder and its folders, and clears what a crash left behind.
    ///
    /// # Errors
    /// As the disk has them; so do all others.
    fn prepare(&self) -> io::Result<()>;
    /// Opens or makes the database.
    fn database(&self, builder: &Builder) -> Result<Database, DatabaseError>;
    /// Makes a file that is not there yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>>;
    /// Opens a file: it can be read though it is removed meanwhile.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Reading>>;
    /// Renames a file; durable once the folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable once the folder is synced.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The files in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a folder's entries durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;
}

/// A file that is being written.
pub trait Writing: Write + Send {
    /// Makes the contents durable.
    ///
    /// # Errors
    /// As the disk has them.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read by position.
pub trait Reading: Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the disk has them.
    fn length(&self) -> io::Result<u64>;
    /// Fills all of `out`.
    ///
    /// # Errors
    /// If the file ends before.
    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()>;
}

impl Writing for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Reading for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, out, at)
    }
}

/// A folder of this machine.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Disk for Folder {
    fn dir(&self) -> &Path {
        &self.0
    }

    fn prepare(&self) -> io::Result<()> {
        let dir = &self.0;
        fs::create_dir_all(dir)?;
        let tmp = dir.join(TMP);
        if tmp.exists() {
            fs::remove_dir_all(&tmp)?;
        }
        fs::create_dir_all(&tmp)?;
        fs::create_dir_all(dir.join(SNAPSHOTS))?;
        self.sync_dir(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn database(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        let database = builder.create(self.0.join("catalog.redb"))?;
        self.sync_dir(&self.0).map_err(|e| DatabaseError::Storage(e.into()))?;
        Ok(database)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>> {
        Ok(Box::new(File::create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Reading>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// Makes a data folder ready.
pub fn prepare(disk: &dyn Disk) -> Result<()> {
    let failed = |e| Error::precondition(format!("cannot use the data folder {}: {e}", disk.dir().display()));
    disk.prepare().map_err(failed)
}

/// Renames durably.
pub fn publish(disk: &dyn Disk, temp: &Path, path: &Path) -> io::Result<()> {
    disk.rename(temp, path)?;
    path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder))
}
