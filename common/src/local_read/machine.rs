//! The id of this machine. All its containers have the same one, and it changes when the machine starts again.

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// Linux's id of this start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// So that the boot id, which other programs may use as a secret, cannot be found out.
const SALT: &str = "volley local reads\n";
/// Bytes of the hash that are used.
const ID_BYTES: usize = 16;

/// The id of this machine; `None`: the system has none, and reads are never local.
pub fn machine_id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    ID.get_or_init(|| Some(id_of(&std::fs::read_to_string(BOOT_ID).ok()?))).as_deref()
}

fn id_of(boot_id: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(format!("{SALT}{}", boot_id.trim())).into();
    hash[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_a_hash_of_the_boot_id() {
        let id = id_of("0f7ab9d8-50b5-4f3b-9f0c-6a4c3c3a3a01\n");
        assert_eq!(id, id_of("0f7ab9d8-50b5-4f3b-9f0c-6a4c3c3a3a01"));
        assert_ne!(id, id_of("0f7ab9d8-50b5-4f3b-9f0c-6a4c3c3a3a02"));
        assert!(id.len() == 2 * ID_BYTES && !id.contains("0f7ab9d8"), "{id}");
        assert_eq!(machine_id(), machine_id());
    }
}
