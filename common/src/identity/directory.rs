//! What a member knows of users, tokens, grants and signing keys: one immutable [`Directory`] for each epoch of the catalog's
//! identity state, and the [`DirectoryHandle`] that has the newest one.
//!
//! Coordinators make it from their catalog, nodes from what their session with the leader brings, so that every member checks
//! credentials and rights without a call to another one.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::VerifyingKey;
use super::principal::Principal;
use crate::wire::catalog::{Grant, ServiceToken, User};
use crate::wire::cluster::IdentitySnapshot;

/// Everything about users and grants that a member knows. Immutable.
pub struct Directory {
    epoch: u64,
    is_open: bool,
    users: HashMap<String, User>,
    tokens: HashMap<String, ServiceToken>,
    keys: HashMap<String, VerifyingKey>,
    /// By prefix.
    grants: Vec<Grant>,
    /// By name: the positions of the grants to a user.
    of_users: HashMap<String, Vec<usize>>,
    /// By name: the positions of the grants to a group.
    of_groups: HashMap<String, Vec<usize>>,
}

impl Directory {
    /// That of a snapshot. A signing key that cannot be decoded is logged and left out: its tokens are refused.
    pub fn new(snapshot: &IdentitySnapshot) -> Self {
        let mut grants = snapshot.grants.clone();
        grants.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        let (mut of_users, mut of_groups) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
        for (at, grant) in grants.iter().enumerate() {
            match grant.to.split_once(':') {
                Some(("user", name)) => of_users.entry(name.to_string()).or_default().push(at),
                Some(("group", name)) => of_groups.entry(name.to_string()).or_default().push(at),
                _ => tracing::warn!(to = grant.to, "a grant is to neither a user nor a group: it is ignored"),
            }
        }
        let keys = snapshot.keys.iter().filter_map(|key| match VerifyingKey::new(key) {
            Ok(decoded) => Some((key.id.clone(), decoded)),
            Err(error) => {
                tracing::error!(key = key.id, %error, "a signing key cannot be used: sessions that it signed are refused");
                None
            }
        });
        Directory {
            epoch: snapshot.epoch,
            is_open: snapshot.users.is_empty() && snapshot.grants.is_empty() && !snapshot.closed,
            users: snapshot.users.iter().map(|user| (user.name.clone(), user.clone())).collect(),
            tokens: snapshot.tokens.iter().map(|token| (token.id.clone(), token.clone())).collect(),
            keys: keys.collect(),
            grants,
            of_users,
            of_groups,
        }
    }

    /// That of a cluster without users: epoch 0.
    pub fn open() -> Self {
        Directory::new(&IdentitySnapshot::default())
    }

    /// The epoch of the snapshot.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether everybody may do everything: there are no users and no grants, and no coordinator waits for its first
    /// administrator.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The grants to `user:NAME` of a principal, and those to its groups: the groups of the user of its name in the catalog, and
    /// [`Principal::groups`].
    pub fn grants_of<'a>(&'a self, principal: &'a Principal) -> impl Iterator<Item = &'a Grant> + 'a {
        self.positions_of(&principal.name, &principal.groups).map(move |at| &self.grants[at])
    }

    /// A service token by id, whether it has expired or not.
    pub(super) fn service_token(&self, id: &str) -> Option<&ServiceToken> {
        self.tokens.get(id)
    }

    /// A signing key by id.
    pub(super) fn signing_key(&self, id: &str) -> Option<&VerifyingKey> {
        self.keys.get(id)
    }

    /// Whether something is granted to a group.
    pub(super) fn has_grants_to_group(&self, group: &str) -> bool {
        self.of_groups.contains_key(group)
    }

    /// The grant at a position of [`Directory::positions_of`]. Positions are in the order of prefixes.
    pub(super) fn grant(&self, at: usize) -> &Grant {
        &self.grants[at]
    }

    /// The positions of the grants to a user and to its groups: those in the catalog, and `groups`. Each group counts once.
    pub(super) fn positions_of<'a>(&'a self, user: &'a str, groups: &'a [String]) -> impl Iterator<Item = usize> + 'a {
        let in_catalog: &'a [String] = self.users.get(user).map_or(&[], |user| user.groups.as_slice());
        let others = groups.iter().filter(move |group| !in_catalog.contains(group));
        let to_groups = in_catalog.iter().chain(others).filter_map(move |group| self.of_groups.get(group));
        self.of_users.get(user).into_iter().chain(to_groups).flatten().copied()
    }
}

/// The newest directory of a process. Clones share it.
#[derive(Clone)]
pub struct DirectoryHandle(Arc<NewestDirectory>);

struct NewestDirectory {
    directory: ArcSwapOption<Directory>,
    epoch: watch::Sender<Option<u64>>,
}

impl DirectoryHandle {
    /// One without a directory yet: calls that need one are refused until there is.
    pub fn new() -> Self {
        let epoch = watch::Sender::new(None);
        DirectoryHandle(Arc::new(NewestDirectory { directory: ArcSwapOption::empty(), epoch }))
    }

    /// One with the directory of a cluster without users.
    pub fn open() -> Self {
        let handle = DirectoryHandle::new();
        handle.store(Directory::open());
        handle
    }

    /// Replaces the directory.
    pub fn store(&self, directory: Directory) {
        let epoch = directory.epoch;
        self.0.directory.store(Some(Arc::new(directory)));
        self.0.epoch.send_replace(Some(epoch));
    }

    /// The newest directory; `None`: none is known yet.
    pub fn load(&self) -> Option<Arc<Directory>> {
        self.0.directory.load_full()
    }

    /// The epoch of the directory; changes after each [`DirectoryHandle::store`].
    pub fn subscribe(&self) -> watch::Receiver<Option<u64>> {
        self.0.epoch.subscribe()
    }
}

impl Default for DirectoryHandle {
    fn default() -> Self {
        DirectoryHandle::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::testing::{grant, principal, user};
    use super::*;
    use crate::wire::catalog::{Role, SigningKey};

    fn granted(directory: &Directory, principal: &Principal) -> Vec<String> {
        directory.grants_of(principal).map(|grant| format!("{} {}", grant.to, grant.prefix.join("/"))).collect()
    }

    #[test]
    fn grants_of_a_principal_are_its_own_and_those_of_its_groups() {
        let directory = Directory::new(&IdentitySnapshot {
            users: vec![user("ann", &["readers", "etl"]), user("readers", &[])],
            grants: vec![
                grant("user:ann", Role::Writer, "a"),
                grant("user:bob", Role::Writer, "b"),
                grant("group:readers", Role::Reader, "c"),
                grant("group:guests", Role::Reader, "d"),
                grant("ann", Role::Reader, "e"),
                grant("role:ann", Role::Reader, "f"),
            ],
            ..IdentitySnapshot::default()
        });
        assert_eq!(granted(&directory, &principal("ann", &[])), ["user:ann a", "group:readers c"]);
        // A group is not a user, and what the catalog and a token both say counts once.
        assert_eq!(granted(&directory, &principal("readers", &[])), Vec::<String>::new());
        assert_eq!(
            granted(&directory, &principal("ann", &["readers", "guests"])),
            ["user:ann a", "group:readers c", "group:guests d"]
        );
        assert_eq!(granted(&directory, &principal("eve", &["guests", "none"])), ["group:guests d"]);
        assert_eq!(granted(&directory, &principal("", &[])), Vec::<String>::new());
    }

    #[test]
    fn name_with_a_colon_is_a_whole_name() {
        let grants = vec![grant("user:spiffe://x/etl", Role::Reader, "a")];
        let directory = Directory::new(&IdentitySnapshot { grants, ..IdentitySnapshot::default() });
        assert_eq!(granted(&directory, &principal("spiffe://x/etl", &[])), ["user:spiffe://x/etl a"]);
        assert_eq!(granted(&directory, &principal("spiffe", &[])), Vec::<String>::new());
    }

    #[test]
    fn directory_is_open_without_users_and_grants_unless_closed() {
        assert!(Directory::open().is_open());
        let none = IdentitySnapshot::default();
        let is_open = |snapshot: IdentitySnapshot| Directory::new(&snapshot).is_open();
        assert!(is_open(IdentitySnapshot { epoch: 5, ..none.clone() }));
        assert!(!is_open(IdentitySnapshot { closed: true, ..none.clone() }));
        assert!(!is_open(IdentitySnapshot { users: vec![user("ann", &[])], ..none.clone() }));
        // Neither does a grant that this version does not understand open the cluster.
        assert!(!is_open(IdentitySnapshot { grants: vec![grant("role:x", Role::Reader, "a")], ..none }));
    }

    #[test]
    fn signing_key_that_cannot_be_decoded_is_left_out() {
        let good = super::super::new_signing_key(1).unwrap();
        let bad =
            SigningKey { id: "bad".into(), public_key: bytes::Bytes::from_static(b"short"), ..SigningKey::default() };
        let keys = vec![bad, good.clone()];
        let directory = Directory::new(&IdentitySnapshot { keys, ..IdentitySnapshot::default() });
        assert!(directory.signing_key("bad").is_none());
        assert!(directory.signing_key(&good.id).is_some());
    }

    #[test]
    fn stored_directory_is_seen_by_clones_and_watchers() {
        let handle = DirectoryHandle::new();
        let (clone, mut epochs) = (handle.clone(), handle.subscribe());
        assert!(clone.load().is_none());
        assert_eq!(*epochs.borrow_and_update(), None);
        handle.store(Directory::new(&IdentitySnapshot { epoch: 7, ..IdentitySnapshot::default() }));
        assert_eq!(clone.load().unwrap().epoch(), 7);
        assert!(epochs.has_changed().unwrap());
        assert_eq!(*epochs.borrow_and_update(), Some(7));
        assert_eq!(DirectoryHandle::open().load().map(|directory| directory.is_open()), Some(true));
    }
}
