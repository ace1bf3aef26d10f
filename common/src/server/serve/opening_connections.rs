//! The connections of one listener that have not begun yet: their first bytes, TLS handshake included, are awaited.
//!
//! Anybody may make any number of them, so they have few places of their own, a quarter of the listener's connections, and
//! each network half of those: who sends half a handshake takes no place from those who are served. A new connection always
//! gets a place. If there is none, the oldest connection of the network that has the most of them is closed, the new one
//! counted in. So whoever holds places loses them first, from however many addresses, and a client that begins at once gets
//! in, also from the network that holds the most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::ip_network::network_of;

/// At least this many connections of a listener may be in their opening.
const MIN_OPENING: usize = 16;

/// The connections of one listener that are accepted, and of which the beginning is awaited.
#[derive(Debug)]
pub struct OpeningConnections(Arc<OpeningPlaces>);

#[derive(Debug)]
struct OpeningPlaces {
    most: usize,
    most_per_network: usize,
    queue: Mutex<OpeningQueue>,
}

/// At most `most` connections, by network, which is an IPv4 address or an IPv6 network of 64 bits. Numbers follow the order in
/// which they were accepted.
#[derive(Debug, Default)]
struct OpeningQueue {
    all: usize,
    next_number: u64,
    by_network: HashMap<IpAddr, NetworkConnections>,
    /// One rank of each network; the last one is that which loses a connection next.
    ranks: BTreeSet<NetworkRank>,
}

/// The connections of one network, by number; each is closed by its token.
type NetworkConnections = BTreeMap<u64, CancellationToken>;

/// How many connections a network has, and the number of its oldest one: of two with as many, that with the older one is last.
type NetworkRank = (usize, Reverse<u64>, IpAddr);

impl OpeningConnections {
    /// Those of a listener with this many connections.
    pub fn new(connections: usize) -> Self {
        let most = (connections / 4).max(MIN_OPENING);
        OpeningConnections::with_limits(most, most / 2)
    }

    fn with_limits(most: usize, most_per_network: usize) -> Self {
        OpeningConnections(Arc::new(OpeningPlaces { most, most_per_network, queue: Mutex::default() }))
    }

    /// Gives a connection a place until the permit is dropped, or it is closed for a newer one.
    pub fn admit(&self, peer: IpAddr) -> OpeningPermit {
        let (network, closed) = (network_of(peer), CancellationToken::new());
        let (number, excess) = {
            let mut queue = self.0.queue.lock();
            let (number, own) = queue.add(network, closed.clone());
            let loser = if own > self.0.most_per_network {
                Some(network)
            } else if queue.all > self.0.most {
                queue.ranks.last().map(|(_, _, largest)| *largest)
            } else {
                None
            };
            (number, loser.and_then(|network| queue.remove_oldest(network)))
        };
        if let Some(excess) = excess {
            excess.cancel();
        }
        OpeningPermit { places: self.0.clone(), network, number, closed }
    }
}

impl OpeningQueue {
    /// Adds the newest connection; returns its number, and how many its network has.
    fn add(&mut self, network: IpAddr, closed: CancellationToken) -> (u64, usize) {
        let number = self.next_number;
        self.next_number += 1;
        self.all += 1;
        let own = self.change(network, |connections| {
            connections.insert(number, closed);
            connections.len()
        });
        (number, own)
    }

    /// Removes a connection, unless it was removed before.
    fn remove(&mut self, network: IpAddr, number: u64) {
        let removed = self.change(network, |connections| connections.remove(&number));
        self.all -= usize::from(removed.is_some());
    }

    fn remove_oldest(&mut self, network: IpAddr) -> Option<CancellationToken> {
        let removed = self.change(network, BTreeMap::pop_first);
        self.all -= usize::from(removed.is_some());
        removed.map(|(_, closed)| closed)
    }

    /// Changes the connections of a network, and its rank with them.
    fn change<T>(&mut self, network: IpAddr, change: impl FnOnce(&mut NetworkConnections) -> T) -> T {
        let connections = self.by_network.entry(network).or_default();
        if let Some(before) = rank(network, connections) {
            self.ranks.remove(&before);
        }
        let changed = change(connections);
        if let Some(after) = rank(network, connections) {
            self.ranks.insert(after);
        } else {
            self.by_network.remove(&network);
        }
        changed
    }
}

/// `None`: it has no connections.
fn rank(network: IpAddr, connections: &NetworkConnections) -> Option<NetworkRank> {
    connections.first_key_value().map(|(oldest, _)| (connections.len(), Reverse(*oldest), network))
}

/// The place of one of the [`OpeningConnections`].
#[derive(Debug)]
pub struct OpeningPermit {
    places: Arc<OpeningPlaces>,
    network: IpAddr,
    number: u64,
    closed: CancellationToken,
}

impl OpeningPermit {
    /// Runs what opens the connection. `None`: the place was given to a newer connection before, and this one must be closed.
    pub async fn run<T>(&self, opening: impl Future<Output = T>) -> Option<T> {
        self.closed.run_until_cancelled(opening).await
    }
}

impl Drop for OpeningPermit {
    fn drop(&mut self) {
        self.places.queue.lock().remove(self.network, self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// An address of its own for each number.
    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn admit(opening: &OpeningConnections, peer: &str, count: usize) -> Vec<OpeningPermit> {
        (0..count).map(|_| opening.admit(peer.parse().unwrap())).collect()
    }

    /// Which of them are not closed.
    fn open(permits: &[OpeningPermit]) -> Vec<bool> {
        permits.iter().map(|permit| !permit.closed.is_cancelled()).collect()
    }

    fn count_open(permits: &[OpeningPermit]) -> usize {
        permits.iter().filter(|permit| !permit.closed.is_cancelled()).count()
    }

    /// Checks that the queue counts exactly the connections that are open.
    fn check(opening: &OpeningConnections, permits: &[OpeningPermit]) {
        let queue = opening.0.queue.lock();
        assert_eq!(queue.all, count_open(permits));
        assert_eq!(queue.by_network.values().map(BTreeMap::len).sum::<usize>(), queue.all);
        let ranks: BTreeSet<_> = queue.by_network.iter().filter_map(|(network, own)| rank(*network, own)).collect();
        assert!(queue.ranks == ranks && ranks.len() == queue.by_network.len(), "{queue:?}");
        assert!(queue.all <= opening.0.most && ranks.iter().all(|(own, ..)| *own <= opening.0.most_per_network));
    }

    #[test]
    fn listener_has_a_quarter_for_opening_and_a_network_half_of_it() {
        for (connections, most, of_network) in [(1, 16, 8), (64, 16, 8), (10_000, 2_500, 1_250)] {
            let opening = OpeningConnections::new(connections);
            assert_eq!((opening.0.most, opening.0.most_per_network), (most, of_network));
        }
    }

    #[test]
    fn network_over_its_half_loses_its_own_oldest() {
        let opening = OpeningConnections::with_limits(20, 10);
        let mut held = admit(&opening, "192.0.2.1", 10);
        held.extend(admit(&opening, "::ffff:192.0.2.1", 2));
        assert_eq!(open(&held), [&[false; 2][..], &[true; 10]].concat(), "it is the same address");
        check(&opening, &held);
        let mut of_v6 = admit(&opening, "2001:db8::1", 6);
        of_v6.extend(admit(&opening, "2001:db8::2", 5));
        assert_eq!(open(&of_v6), [&[false][..], &[true; 10]].concat(), "they are of one network");
        held.extend(of_v6);
        check(&opening, &held);
        held.clear();
        check(&opening, &held);
    }

    #[test]
    fn two_addresses_cannot_keep_out_a_third() {
        let opening = OpeningConnections::with_limits(20, 10);
        let first = admit(&opening, "192.0.2.1", 10);
        let second = admit(&opening, "192.0.2.2", 10);
        let other = admit(&opening, "192.0.2.3", 1);
        assert_eq!((count_open(&first), count_open(&second), count_open(&other)), (9, 10, 1));
        assert!(!open(&first)[0], "of two networks with as many the oldest connection is closed");
        let more = admit(&opening, "192.0.2.3", 1);
        assert_eq!((count_open(&first), count_open(&second), count_open(&other)), (9, 9, 1));
        // Whoever comes back loses an own one, and a client behind the same address gets in.
        let again = admit(&opening, "192.0.2.2", 1);
        assert_eq!((open(&again), &open(&second)[..3]), (vec![true], &[false, false, true][..]));
        let again_first = admit(&opening, "192.0.2.1", 1);
        assert_eq!(open(&again_first), [true]);
        let held: Vec<_> = [first, second, other, more, again, again_first].into_iter().flatten().collect();
        check(&opening, &held);
    }

    #[test]
    fn flood_from_many_addresses_closes_only_its_own() {
        let opening = OpeningConnections::new(10_000);
        let honest: Vec<_> = (0..100).map(|at| opening.admit(address(at))).collect();
        // Forty addresses, then a thousand, each with several at once; the places are taken many times over.
        let mut flood = Vec::new();
        for (addresses, each) in [(40, 100), (1_000, 10)] {
            flood.extend((0..each * addresses).map(|at| opening.admit(address(1_000 + at % addresses))));
            assert_eq!(count_open(&honest), 100, "from {addresses} addresses");
            let newcomer = opening.admit(address(500_000));
            assert_eq!(open(std::slice::from_ref(&newcomer)), [true]);
        }
        flood.extend(honest);
        check(&opening, &flood);
    }

    #[test]
    fn flood_in_which_each_address_has_one_closes_the_oldest() {
        let opening = OpeningConnections::with_limits(16, 8);
        let held: Vec<_> = (0..100).map(|at| opening.admit(address(at))).collect();
        assert_eq!(open(&held), [&[false; 84][..], &[true; 16]].concat());
        check(&opening, &held);
    }

    #[test]
    fn connection_that_has_opened_gives_its_place_back() {
        let opening = OpeningConnections::with_limits(16, 8);
        let held = admit(&opening, "192.0.2.1", 8);
        for at in 0..1_000 {
            drop(opening.admit(address(at)));
        }
        assert_eq!(count_open(&held), 8, "none was in need of a place");
        let mut held: Vec<_> = held.into_iter().skip(1).collect();
        held.extend(admit(&opening, "192.0.2.1", 1));
        assert_eq!(count_open(&held), 8);
        // The places of closed connections are not given back twice.
        held.extend(admit(&opening, "192.0.2.1", 3));
        let (closed, still): (Vec<_>, Vec<_>) = held.into_iter().partition(|permit| permit.closed.is_cancelled());
        assert_eq!((closed.len(), still.len()), (3, 8));
        drop(closed);
        check(&opening, &still);
    }

    #[tokio::test]
    async fn closed_connection_is_opened_no_further() {
        let opening = OpeningConnections::with_limits(16, 1);
        let first = opening.admit(address(1));
        let second = opening.admit(address(1));
        assert_eq!(first.run(std::future::pending::<()>()).await, None);
        assert_eq!(second.run(std::future::ready(7)).await, Some(7));
    }
}
