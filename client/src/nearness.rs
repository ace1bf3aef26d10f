//! Which locations of endpoints are near: on this machine, or at a place that the program prefers, such as its zone.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use parking_lot::Mutex;
use volley_common::listen::split_host_port;
use volley_common::{Error, Result};

use super::address::{EndpointLocation, is_loopback};

/// Addresses that are remembered. A cluster has far fewer nodes.
const MAX_KNOWN: usize = 4096;

/// How near a location is, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NearRank {
    ThisMachine,
    Preferred,
    Elsewhere,
}

/// Hosts that are preferred.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NearPlace {
    /// Addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
    /// In lower case, here and below.
    Host(String),
    /// The end of hosts, with its first dot.
    Domain(String),
}

impl NearPlace {
    fn parse(text: &str) -> Result<Self> {
        let refused = || {
            Error::invalid(format!(
                "{text:?} is no place to prefer: give a network as 10.1.0.0/16, an address, a host, or the end of hosts as .zone-a.example"
            ))
        };
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        if let Ok(address) = address.parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Ok(most), str::parse::<u8>).ok().filter(|bits| *bits <= most);
            return bits.map(|bits| NearPlace::Network(address, bits)).ok_or_else(refused);
        }
        let is_host = bits.is_none()
            && text.chars().any(|c| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        match (is_host, text.starts_with('.')) {
            (false, _) => Err(refused()),
            (true, true) => Ok(NearPlace::Domain(text.to_ascii_lowercase())),
            (true, false) => Ok(NearPlace::Host(text.to_ascii_lowercase())),
        }
    }

    /// `address`: that of the host, if it is one.
    fn has(&self, host: &str, address: Option<IpAddr>) -> bool {
        match self {
            NearPlace::Network(network, bits) => address.is_some_and(|address| is_within(address, *network, *bits)),
            NearPlace::Host(name) => host.eq_ignore_ascii_case(name),
            NearPlace::Domain(end) => host.len() > end.len() && host.to_ascii_lowercase().ends_with(end.as_str()),
        }
    }
}

/// Whether both begin with the same bits.
fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    // A shift by all bits is none to the processor.
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0,
        _ => false,
    }
}

/// Ranks locations.
#[derive(Debug, Default)]
pub(super) struct Nearness {
    places: Vec<NearPlace>,
    /// Whether addresses are this machine's.
    known: Mutex<HashMap<IpAddr, bool>>,
}

impl Nearness {
    /// # Errors
    /// INVALID_ARGUMENT names a place that is none.
    pub(super) fn new(places: &[String]) -> Result<Self> {
        let places = places.iter().map(|place| NearPlace::parse(place)).collect::<Result<_>>()?;
        Ok(Nearness { places, known: Mutex::default() })
    }

    /// The original connection is elsewhere: it may be a tunnel.
    pub(super) fn rank(&self, location: &EndpointLocation) -> NearRank {
        let addr = match location {
            EndpointLocation::Member(addr) | EndpointLocation::TlsMember(addr) => addr,
            EndpointLocation::ReuseConnection => return NearRank::Elsewhere,
        };
        let Ok((host, _)) = split_host_port(addr) else { return NearRank::Elsewhere };
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        if is_loopback(addr) || address.is_some_and(|address| self.is_own(address)) {
            return NearRank::ThisMachine;
        }
        match self.places.iter().any(|place| place.has(host, address)) {
            true => NearRank::Preferred,
            false => NearRank::Elsewhere,
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        if let Some(known) = self.known.lock().get(&address) {
            return *known;
        }
        let is_own = source_to(address).is_ok_and(|source| source == address);
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(address, is_own);
        is_own
    }
}

/// The address from which this machine would send to another one: the same for its own. Nothing is sent.
fn source_to(address: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, 1))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nearness(places: &[&str]) -> Result<Nearness> {
        Nearness::new(&places.iter().map(|place| place.to_string()).collect::<Vec<_>>())
    }

    fn rank(places: &[&str], addr: &str) -> NearRank {
        nearness(places).unwrap().rank(&EndpointLocation::Member(addr.into()))
    }

    #[test]
    fn networks_hosts_and_ends_of_hosts_are_preferred() {
        // Of documentation: no machine has them.
        for (place, addr, is_near) in [
            ("192.0.2.0/24", "192.0.2.7:1", true),
            ("192.0.2.0/24", "198.51.100.7:1", false),
            ("192.0.2.7", "192.0.2.7:1", true),
            ("192.0.2.7/32", "192.0.2.8:1", false),
            ("0.0.0.0/0", "192.0.2.8:1", true),
            ("0.0.0.0/0", "[2001:db8::1]:1", false),
            ("2001:db8:1::/48", "[2001:db8:1:2::3]:1", true),
            ("2001:db8:1::/48", "[2001:db8:2::3]:1", false),
            ("::/0", "[2001:db8::1]:1", true),
            (".zone-a.example", "N1.Zone-A.example:1", true),
            (".zone-a.example", "n1.zone-b.example:1", false),
            (".zone-a.example", "zone-a.example:1", false),
            ("n1", "N1:1", true),
            ("n1", "n11:1", false),
        ] {
            let expected = if is_near { NearRank::Preferred } else { NearRank::Elsewhere };
            assert_eq!(rank(&[place], addr), expected, "{place} {addr}");
        }
    }

    #[test]
    fn this_machine_is_the_nearest() {
        assert!(NearRank::ThisMachine < NearRank::Preferred && NearRank::Preferred < NearRank::Elsewhere);
        for addr in ["127.0.0.1:1", "localhost:1", "127.9.9.9:1"] {
            assert_eq!(rank(&["192.0.2.0/24"], addr), NearRank::ThisMachine, "{addr}");
        }
        assert_eq!(source_to(Ipv4Addr::LOCALHOST.into()).unwrap(), Ipv4Addr::LOCALHOST);
        let near = nearness(&[]).unwrap();
        for _ in 0..2 {
            assert_eq!(near.rank(&EndpointLocation::Member("192.0.2.7:1".into())), NearRank::Elsewhere);
        }
        assert_eq!(near.rank(&EndpointLocation::ReuseConnection), NearRank::Elsewhere);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for bad in ["", ".", "192.0.2.0/33", "192.0.2.0/", "::/129", "n1/8", "n1:8816", "a b", "grpc://n1"] {
            let error = nearness(&["n1", bad]).unwrap_err();
            assert!(error.message.contains(&format!("{bad:?} is no place")), "{error}");
        }
    }
}
