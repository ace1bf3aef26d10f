//! The data folder: a folder of this machine, or a simulated one.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError};
use volley_common::{Error, Result};

/// The subfolder for files that are not complete yet.
pub const TMP: &str = "tmp";
/// The subfolder for snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// The file of the database.
pub const DATABASE: &str = "catalog.redb";
/// The mode of every file: the catalog has keys and hashes of passwords.
const FILE_MODE: u32 = 0o600;

/// A data folder. Every method blocks. Paths are absolute and within the folder.
pub trait DataDir: Debug + Send + Sync {
    /// The folder's path.
    fn dir(&self) -> &Path;
    /// Creates the folder and its subfolders, and deletes the temporary files of a crash.
    ///
    /// # Errors
    /// The disk's, as in every other method.
    fn prepare(&self) -> io::Result<()>;
    /// Opens or creates the database.
    fn database(&self, builder: &Builder) -> Result<Database, DatabaseError>;
    /// Creates a file that does not exist yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WritableFile>>;
    /// Opens a file. It stays readable if it is removed.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadableFile>>;
    /// Renames a file; durable once the folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable once the folder is synced.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Lists the files of a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a folder's entries durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;
}

/// A file that is being written.
pub trait WritableFile: Write + Send {
    /// Makes the contents durable.
    ///
    /// # Errors
    /// The disk's.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read by position.
pub trait ReadableFile: Debug + Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// The disk's.
    fn length(&self) -> io::Result<u64>;
    /// Fills all of `out` from the offset `at`.
    ///
    /// # Errors
    /// The file ends earlier, or the disk's.
    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()>;
}

impl WritableFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl ReadableFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, out, at)
    }
}

/// A folder of this machine.
#[derive(Debug)]
pub struct LocalDataDir(pub PathBuf);

impl DataDir for LocalDataDir {
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
        let path = self.0.join(DATABASE);
        // An empty file becomes a database. Created here, since the library would let every user of the machine read it.
        let created = OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(&path);
        created.map_err(|e| DatabaseError::Storage(e.into()))?;
        let database = builder.create(path)?;
        self.sync_dir(&self.0).map_err(|e| DatabaseError::Storage(e.into()))?;
        Ok(database)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WritableFile>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(FILE_MODE);
        Ok(Box::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadableFile>> {
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

/// Prepares a data folder.
///
/// # Errors
/// FAILED_PRECONDITION: the folder cannot be created or written to.
pub fn prepare(data_dir: &dyn DataDir) -> Result<()> {
    let failed = |e| Error::precondition(format!("cannot use the data folder {}: {e}", data_dir.dir().display()));
    data_dir.prepare().map_err(failed)
}

/// Renames a file durably.
pub fn rename_durably(data_dir: &dyn DataDir, from: &Path, to: &Path) -> io::Result<()> {
    data_dir.rename(from, to)?;
    to.parent().map_or(Ok(()), |folder| data_dir.sync_dir(folder))
}
