//! Banned names, for which the field has established terms, do not come back.
//!
//! For the meaning of each of these names, databases and distributed systems have another term. Comments and texts are
//! not checked, and neither are names in other parts of the tree unless the table says so.

use crate::source::{self, ModulePath, SourceFile};

/// Where a name is banned (the beginning of a path), the names, and the terms to use instead.
type BannedNames = (&'static str, &'static [&'static str], &'static str);

const MODULES: &[BannedNames] = &[
    (
        "coordinator/src/raft",
        &["tending", "following", "asking", "changing"],
        "membership_reconciler, leader_watch, peer_identity, membership_api",
    ),
    (
        "coordinator/src/raft",
        &["formation", "retired", "rounds", "recover"],
        "bootstrap, decommission, read_index, unsafe_recovery",
    ),
    (
        "coordinator/src/raft",
        &["surroundings", "access", "machine", "members", "hand_on"],
        "environment, client, state_machine, membership_plan, transfer_leadership",
    ),
    (
        "coordinator/src/membership",
        &["arranging", "copying", "digest", "merging"],
        "rebalance_loop, copy_tracker, inventory_digest, compaction",
    ),
    ("coordinator/src/scheduler", &["placing", "surplus"], "rebalance, over_replicated"),
    ("coordinator/src", &["merging", "merge"], "compaction"),
    (
        "coordinator/src/service",
        &["homes", "via", "survey", "why"],
        "write_targets, client_listener, replication_health, under_replication_reason",
    ),
    ("node/src", &["merging", "merge"], "compaction"),
    (
        "node/src/storage",
        &["taking", "checked", "opened", "damage", "disk", "fault"],
        "commit_part, verification_log, part_cache, quarantine, fs_ops, sigbus",
    ),
    ("node/src/get", &["incoming"], "peer_stream"),
    ("node/src/put", &["opening", "results"], "handshake, ack_stream"),
    ("common/src", &["relay", "loan"], "proxy, replayable_body"),
    ("common/src/serve", &["whole", "ending", "pacing", "body"], "complete_body, drain_body, congestion, reply_body"),
    ("common/src/http2", &["whole", "ending", "pacing", "body"], "complete_body, drain_body, congestion, reply_body"),
    (
        "common/src/ipc",
        &["unframe", "bodies", "fit", "unpinned", "cut"],
        "flight_decoder, buffer_pool, conform, detach, split",
    ),
];

const TYPES: &[BannedNames] = &[
    ("", &["Surroundings", "Witness", "Chance", "Standing"], "environment, ApplyObserver, Rng, MembershipStatus"),
    ("coordinator/src/raft", &["Drive", "Inner"], "WriterDriver, RaftContext"),
    ("coordinator", &["Visit", "Look", "Rest"], "SessionState, ScanResult, Backoff"),
    (
        "coordinator",
        &["Scene", "Judge", "Left", "Offer", "Choice"],
        "ClusterSnapshot, PartClassifier, DrainProgress, ReadPlan, TableOptions",
    ),
    ("coordinator", &["Horizon", "Place"], "VersionSnapshot, SortKey"),
    ("node", &["Stamp", "Piece", "Coming", "Feed"], "FileFingerprint, EncodedMessage, PendingWindow, WriterInput"),
    ("common", &["ReqBody"], "ProxyRequestBody"),
];

const FUNCTIONS: &[BannedNames] = &[
    ("coordinator/src", &["heed", "hand_on"], "apply_peer_status, transfer_leadership"),
    (
        "coordinator/src",
        &["enrich", "poor", "rich", "giver", "stand_ins"],
        "fill_underloaded, underloaded, overloaded, donor, substitutes",
    ),
    ("coordinator/src", &["redeemers", "survey"], "serving_nodes, replication_health"),
    ("coordinator/src/service", &["homes", "via", "why"], "write_targets, client_listener, under_replication_reason"),
    ("coordinator/src", &["takers", "refuses", "ill"], "writable_nodes, read_only_reason, degraded"),
    ("common/src/wire", &["takers", "refuses", "trouble", "ill", "silent", "waited"], "is_writable, is_degraded, …"),
    (
        "node/src",
        &["vouch", "vouched", "bring_in", "let_go", "own_last_page"],
        "check_unchanged, prefault, evict, copy_last_page",
    ),
    ("node/src", &["elsewhere", "carry_out", "throw_away"], "fail_over, execute, rollback"),
    ("node/src", &["call_off", "obey", "tell", "told"], "cancel, handle_order, reply"),
    ("common/src", &["unframe", "unpinned"], "flight_decoder, detach"),
];

/// Configuration keys of version 0.1, and what they are called now. The old ones are aliases, which only the code that reads
/// the configuration and its documentation name.
const CONFIG_KEYS: &[(&str, &str)] = &[
    ("silence_ms", "node_timeout_ms"),
    ("grace_ms", "repair_delay_ms"),
    ("remember_writes_ms", "write_id_retention_ms"),
    ("copies_at_once", "max_concurrent_copies"),
    ("copy_rate", "copy_bytes_per_second"),
    ("scrub_rate", "scrub_bytes_per_second"),
    ("deadline_ms", "request_timeout_ms"),
];

/// Where the old keys may be used.
const ALIASES: [&str; 6] = [
    "common/src/server/config",
    "coordinator/src/config",
    "node/src/config",
    // Written by the version that had these keys.
    "tests/recorded/",
    "tests/tests/cluster/formats.rs",
    "tests/tests/tidy/",
];

/// The banned names that a Rust file defines.
fn banned_names(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |table: &[BannedNames], kind: &str, name: &str| {
        let banned = table.iter().find(|(area, names, _)| file.path.starts_with(area) && names.contains(&name));
        if let Some((_, _, instead)) = banned {
            found.push(format!("{} defines the {kind} {name}; the terms are {instead}", file.path));
        }
    };
    let stem = file.path.trim_end_matches("/mod.rs").trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
    check(MODULES, "module", stem);
    for module in source::modules(ModulePath::new(), &file.text) {
        if let Some(name) = module.path.last() {
            check(MODULES, "module", name);
        }
        module.types.iter().for_each(|name| check(TYPES, "type", name));
        module.functions.iter().for_each(|name| check(FUNCTIONS, "function", name));
    }
    found
}

/// Old configuration keys in a file of any kind.
fn old_keys(file: &SourceFile) -> Vec<String> {
    if ALIASES.iter().any(|allowed| file.path.starts_with(allowed)) {
        return Vec::new();
    }
    let spellings = |key: &str| [key.to_string(), key.replace('_', "-"), key.to_uppercase()];
    let found = CONFIG_KEYS.iter().filter(|(old, _)| spellings(old).iter().any(|one| file.text.contains(one)));
    found.map(|(old, new)| format!("{} names {old}, which is {new} now", file.path)).collect()
}

#[test]
fn banned_names_do_not_come_back() {
    let folders = ["common", "client", "formats", "http", "coordinator", "sql", "node", "cli", "python", "tests"];
    let files = folders.into_iter().flat_map(|folder| source::files(folder, &["rs"]));
    let found: Vec<String> = files.flat_map(|file| banned_names(&file)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn old_configuration_keys_are_aliases_only() {
    let kinds = ["rs", "py", "toml", "yaml", "yml", "tpl", "sh", "json"];
    let folders =
        ["common", "client", "formats", "http", "coordinator", "sql", "node", "cli", "python", "deploy", "tests"];
    let files = folders.into_iter().flat_map(|folder| source::files(folder, &kinds));
    let found: Vec<String> = files.flat_map(|file| old_keys(&file)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, text: &str) -> usize {
        banned_names(&SourceFile { path: path.into(), text: text.into() }).len()
    }

    fn keys(path: &str, text: &str) -> usize {
        old_keys(&SourceFile { path: path.into(), text: text.into() }).len()
    }

    #[test]
    fn banned_modules_types_and_functions_fail() {
        assert_eq!(names("coordinator/src/raft/tending.rs", ""), 1);
        assert_eq!(names("node/src/storage/disk/mod.rs", ""), 1);
        assert_eq!(names("common/src/ipc/mod.rs", "mod cut { }"), 1);
        assert_eq!(names("node/src/put/writer.rs", "enum Feed {} impl X { fn throw_away(&self) {} }"), 2);
    }

    #[test]
    fn ordinary_words_elsewhere_are_free() {
        assert_eq!(names("coordinator/src/disk.rs", "// tending\nfn merge() {} struct Disk;"), 0);
        assert_eq!(names("node/src/get/local.rs", "struct Inner; fn cut(via: u8) { tell(via) }"), 0);
    }

    #[test]
    fn old_configuration_keys_fail_outside_of_aliases() {
        assert_eq!(keys("tests/chaos/src/run.rs", "\"heartbeat_ms = 1\\nsilence_ms = 2\\ngrace_ms = 3\""), 2);
        assert_eq!(keys("deploy/helm/values.yaml", "args: [--copy-rate, '1']"), 1);
        assert_eq!(keys("coordinator/src/config.rs", "alias = \"silence_ms\""), 0);
        assert_eq!(keys("node/src/copy.rs", "copy_bytes_per_second"), 0);
    }
}
