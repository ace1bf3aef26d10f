//! Every target with its seeds, with slightly altered seeds, and with the inputs in `fuzz/corpus/`.

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_fuzz::targets::{TARGETS, target};

/// How often each seed is altered: a short look, that needs no libFuzzer. The same changes each time.
const CHANGES: u64 = 24;

/// Feeds a target all its inputs.
fn replay(name: &str) {
    let target = target(name).expect("a target");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for (at, seed) in seeds.iter().enumerate() {
        (target.run)(seed);
        for change in 0..CHANGES {
            let mut random = StdRng::seed_from_u64(((at as u64) << 32) | change);
            (target.run)(&altered(seed, &mut random));
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry of the corpus").path();
        eprintln!("{}", path.display());
        (target.run)(&fs::read(&path).expect("a file of the corpus"));
    }
}

/// A few bytes are changed, inserted or removed, or the end is cut off.
fn altered(seed: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            3 if at < bytes.len() => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].get(at % 5).unwrap_or(&0),
            _ if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            _ => {}
        }
    }
    bytes
}

/// A test of each target.
macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.each_ref().map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

replays! {
    tickets tokens descriptors actions schemas messages put parts catalog raft framing config certificates
}

#[test]
fn every_target_has_its_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest");
    let programs = fs::read_dir(root.join("fuzz_targets")).expect("the programs").count();
    assert_eq!(programs, TARGETS.len());
    for target in &TARGETS {
        let program = format!("fuzz_targets/{}.rs", target.name);
        let text = fs::read_to_string(root.join(&program)).expect("a program");
        assert!(text.contains(&format!("{:?}", target.name)) && manifest.contains(&program), "{program}");
    }
}
