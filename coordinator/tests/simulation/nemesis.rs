//! What goes wrong: each seed has its own mixture.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::network::Weather;
use crate::world::World;

/// Kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A process ends, its machine stays.
    Kill,
    /// A machine loses power.
    PowerLoss,
    /// All lose power.
    Blackout,
    /// The disk fails somewhere in the middle of what it does.
    DiskFails,
    /// A coordinator stops as it should.
    Stop,
    /// The network falls into two parts.
    Partition,
    /// The leader, or another, is alone.
    Isolate,
    /// One does not reach another, which reaches it.
    OneWay,
    /// Messages are lost, doubled, late.
    Storm,
    /// A disk is slow.
    SlowDisk,
    /// A clock jumps.
    Skew,
    /// A folder is lost.
    LostFolder,
}

const ALL: [Fault; 12] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::Blackout,
    Fault::DiskFails,
    Fault::Stop,
    Fault::Partition,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Storm,
    Fault::SlowDisk,
    Fault::Skew,
    Fault::LostFolder,
];

/// Does harm.
pub struct Nemesis {
    world: Arc<World>,
    dice: Dice,
    kinds: Vec<Fault>,
    /// The faults that were done.
    pub faults: usize,
}

impl Nemesis {
    pub fn new(world: Arc<World>) -> Nemesis {
        let mut dice = Dice::new(world.seed, 3);
        let mut kinds = ALL.to_vec();
        kinds.shuffle(&mut dice);
        kinds.truncate(dice.random_range(1..=6));
        world.checks.event(format!("faults of this seed: {kinds:?}"));
        Nemesis { world, dice, kinds, faults: 0 }
    }

    /// One fault after another until it is time to end.
    pub async fn run(&mut self, end: Instant) {
        while Instant::now() < end {
            self.pause(20..800).await;
            if let Some(fault) = self.kinds.choose(&mut self.dice).copied() {
                self.faults += 1;
                self.harm(fault).await;
            }
        }
    }

    /// All faults end, and who is down starts.
    pub async fn relent(&mut self) {
        self.world.checks.event("the faults end");
        self.world.network.set(|weather| *weather = Weather::fair());
        for id in self.world.ids() {
            self.world.slow(id, 1000);
            self.world.skew(id, 0);
        }
        self.start_all(true).await;
    }

    async fn start_all(&mut self, power_lost: bool) {
        for id in self.world.ids() {
            self.world.start(id, power_lost).await;
        }
    }

    async fn pause(&mut self, ms: std::ops::Range<u64>) {
        let ms = self.dice.random_range(ms);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Anyone, more often the leader.
    fn someone(&mut self) -> u64 {
        let ids = self.world.ids();
        let leader = self.world.all_up().iter().find(|up| up.handle.is_leader()).map(|up| up.life.id);
        match leader.filter(|_| self.dice.random_bool(0.4)) {
            Some(leader) => leader,
            None => ids[self.dice.random_range(0..ids.len())],
        }
    }

    async fn harm(&mut self, fault: Fault) {
        let id = self.someone();
        match fault {
            Fault::Kill | Fault::PowerLoss => {
                self.world.crash(id);
                self.pause(0..2000).await;
                self.world.start(id, fault == Fault::PowerLoss).await;
            }
            Fault::Blackout => {
                self.world.ids().into_iter().for_each(|id| self.world.crash(id));
                self.pause(0..500).await;
                self.start_all(true).await;
            }
            Fault::DiskFails => {
                let operations = self.dice.random_range(0..200);
                self.world.burn(id, operations);
                self.pause(200..2000).await;
                self.world.crash(id);
                self.world.start(id, true).await;
            }
            Fault::Stop => {
                self.world.stop(id).await;
                self.pause(0..1000).await;
                self.world.start(id, false).await;
            }
            Fault::Partition | Fault::Isolate | Fault::OneWay => self.cut(fault, id).await,
            Fault::Storm => self.storm().await,
            Fault::SlowDisk => {
                let us = self.dice.random_range(1000..500_000);
                self.world.slow(id, us);
                self.pause(500..3000).await;
                self.world.slow(id, 1000);
            }
            Fault::Skew => {
                let ms = self.dice.random_range(-300_000..300_000);
                self.world.skew(id, ms);
            }
            Fault::LostFolder => self.lose_folder(id).await,
        }
    }

    async fn cut(&mut self, fault: Fault, id: u64) {
        let ids = self.world.ids();
        let side: Vec<u64> = match fault {
            Fault::Partition => ids.iter().copied().filter(|_| self.dice.random_bool(0.5)).collect(),
            _ => vec![id],
        };
        let other: Vec<u64> = ids.iter().copied().filter(|id| !side.contains(id)).collect();
        let both = fault != Fault::OneWay;
        let inward = self.dice.random_bool(0.5);
        self.world.checks.event(format!("cut {}: {side:?} | {other:?}", if both { "both ways" } else { "one way" }));
        self.world.network.set(|weather| {
            for a in &side {
                for b in &other {
                    weather.cuts.extend((both || inward).then_some((*b, *a)));
                    weather.cuts.extend((both || !inward).then_some((*a, *b)));
                }
            }
        });
        self.pause(200..4000).await;
        // Now and then a cut stays while other things happen.
        if self.dice.random_bool(0.7) {
            self.world.checks.event("all reach each other");
            self.world.network.set(|weather| weather.cuts.clear());
        }
    }

    async fn storm(&mut self) {
        let loss = self.dice.random_range(0.0..0.4);
        let doubling = self.dice.random_range(0.0..0.3);
        let delay_us = self.dice.random_range(1000..300_000);
        self.world.checks.event(format!("storm: {loss:.2} lost, {doubling:.2} doubled, up to {delay_us} us"));
        self.world
            .network
            .set(|weather| (weather.loss, weather.doubling, weather.delay_us) = (loss, doubling, delay_us));
        self.pause(500..4000).await;
        self.world.network.set(|weather| *weather = Weather { cuts: weather.cuts.clone(), ..Weather::fair() });
    }

    /// One folder at a time may be lost: the next one only when all are members again.
    async fn lose_folder(&mut self, id: u64) {
        if !self.world.together() {
            return;
        }
        self.world.crash(id);
        self.world.lose_folder(id);
        self.pause(0..1000).await;
        self.world.start(id, false).await;
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && !self.world.together() {
            self.pause(50..51).await;
        }
    }
}
