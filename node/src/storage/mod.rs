//! Parts on disk. All file I/O of a node is here.
//!
//! | module | contents |
//! |---|---|
//! | [`part_store`] | the store: create, receive, open, verify and remove parts |
//! | `layout` | the paths of the data folder |
//! | `inventory` | which parts there are; `scan` reads them at start |
//! | `part_writer` | record batches → a part |
//! | `open_part` | a part that other nodes read while it is written, or before it is durable |
//! | `part_receiver` | bytes from another node → a part |
//! | `commit_part`, `shard_dirs` | how a part becomes durable; `dir_syncs`: the folders of many parts at once |
//! | `part`, `mapping` | a part, mapped and parsed |
//! | `part_cache` | parts that stay open for the next reader |
//! | `checksum`, `verification_log` | verifying a part; when each was last verified |
//! | `quarantine` | damaged parts |
//! | `removal`, `orphans` | removing parts, or setting them aside because somebody may need them |
//! | `reconciliation`, `seen_catalog` | which catalog the parts were reconciled with, and how far it was |
//! | `io_failure` | what an error of the operating system means |
//! | `volume` | the file system: free space, temporary files, failed writes |
//! | `disk_space`, `disk_health` | pure: whether new parts are accepted, whether the disk is degraded |
//! | `control_file` | the node's id and cluster |
//! | `checksummed_file` | the format of small durable files |
//! | `fingerprint` | what shows that a file was changed |
//! | `query_folder` | the folder of what queries have no memory for |
//! | `machine_memory` | how much memory the process may use |
//! | `spool` | files without a name, for what is too large for memory |
//! | `blocking_drop` | values whose end may wait for the disk |
//! | `dictionaries` | whether a batch fits into a part |
//! | `fs_ops` | the operations by which the folder changes |
//! | `gauges` | what metrics tell of parts and disk |
//! | [`sigbus`] | what happens when a mapped page is gone |
//!
//! Everything here blocks, except for slicing a part and checking whether it is resident: call it in `spawn_blocking`.
//!
//! The store uses the modules below it, and these never use the store: writers and receivers hold a `PartCommitter`
//! (volume, inventory, cache).

mod blocking_drop;
mod checksum;
mod checksummed_file;
mod commit_part;
mod control_file;
mod dictionaries;
mod dir_syncs;
mod disk_health;
mod disk_space;
mod fingerprint;
mod fs_ops;
mod gauges;
mod inventory;
mod io_failure;
mod layout;
mod machine_memory;
mod mapping;
mod open_part;
mod orphans;
mod part;
mod part_cache;
mod part_receiver;
pub mod part_store;
mod part_writer;
mod quarantine;
mod query_folder;
mod reconciliation;
mod removal;
mod scan;
mod seen_catalog;
mod shard_dirs;
pub mod sigbus;
mod spool;
mod verification_log;
mod volume;

pub use blocking_drop::BlockingDrop;
pub use dictionaries::{MAX_WHOLE_BATCH_BYTES, MAX_WHOLE_BYTES};
pub use disk_space::{DiskSpace, Watermarks};
pub use fingerprint::FileFingerprint;
pub use machine_memory::available_memory;
pub use mapping::copy_last_page;
pub use open_part::{FOLLOWED_BYTES, OpenPart, PartProgress};
pub use orphans::OrphanCount;
pub use part::{Part, PartMessage};
pub use part_receiver::PartReceiver;
pub use part_store::{PartStore, StoreStatus};
pub use part_writer::{BatchWrite, FinishedPart, PartSpec, PartWriter, SealedPart};
pub use seen_catalog::CatalogPosition;
pub use spool::SpoolFile;

#[cfg(test)]
mod tests;
