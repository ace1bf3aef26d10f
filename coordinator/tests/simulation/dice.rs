//! Chance out of a seed.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// A stream of chance.
#[derive(Clone, Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// `what` makes streams of one seed independent of each other.
    pub fn new(seed: u64, what: u64) -> Dice {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&what.to_le_bytes());
        Dice(StdRng::from_seed(bytes))
    }
}

impl RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}
