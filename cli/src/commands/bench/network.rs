//! The link over which a member is reached, whose speed limits what a benchmark can measure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use serde_json::{Value, json};
use volley_client::address::is_loopback;

use crate::output::count;

/// Where Linux lists the routes of IPv4, and the speeds of links.
const ROUTES: &str = "/proc/net/route";
const LINKS: &str = "/sys/class/net";

/// The way to a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkLink {
    /// It is this machine.
    ThisMachine,
    /// An interface, and its speed in megabits a second if it has one.
    Interface(String, Option<u64>),
    /// Not known, as of IPv6, and where there is no Linux.
    #[default]
    Unknown,
}

impl NetworkLink {
    /// The link to `HOST:PORT`.
    pub async fn to(address: &str) -> Self {
        if is_loopback(address) {
            return NetworkLink::ThisMachine;
        }
        let Ok(found) = tokio::net::lookup_host(address).await else { return NetworkLink::Unknown };
        let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
        if addresses.iter().any(|address| is_own(*address)) {
            return NetworkLink::ThisMachine;
        }
        let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
        let routed = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => interface(&routes, *address),
            IpAddr::V6(_) => None,
        });
        routed.map_or(NetworkLink::Unknown, |name| {
            let speed = std::fs::read_to_string(format!("{LINKS}/{name}/speed")).ok();
            NetworkLink::Interface(name.into(), speed.and_then(|text| speed_of(&text)))
        })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        match self {
            NetworkLink::ThisMachine => json!({ "interface": "lo", "megabits_per_second": null }),
            NetworkLink::Interface(name, speed) => json!({ "interface": name, "megabits_per_second": speed }),
            NetworkLink::Unknown => Value::Null,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            NetworkLink::ThisMachine => "network: none, the member is on this machine".into(),
            NetworkLink::Interface(name, None) => format!("network: {name}, whose speed is not known"),
            NetworkLink::Interface(name, Some(megabits)) => format!(
                "network: {name}, {} Mbit/s: at most {} MB/s in each direction",
                count(i64::try_from(*megabits).unwrap_or(-1)),
                count(i64::try_from(megabits / 8).unwrap_or(-1))
            ),
            NetworkLink::Unknown => "network: the link is not known".into(),
        }
    }
}

/// Whether this machine sends to the address from the same address. Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let source = UdpSocket::bind(any).and_then(|socket| {
        socket.connect((address, 1))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

/// The interface of the narrowest route to an address.
fn interface(routes: &str, to: Ipv4Addr) -> Option<&str> {
    let to = to.to_bits();
    let fitting = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (network, mask) = (bits(fields.get(1)?)?, bits(fields.get(7)?)?);
        (to & mask == network).then_some((mask.count_ones(), *fields.first()?))
    });
    fitting.max_by_key(|(ones, _)| *ones).map(|(_, name)| name)
}

/// An address as the kernel writes it: its bytes as a number of the processor.
fn bits(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok().map(|number| u32::from_be_bytes(number.to_ne_bytes()))
}

/// -1 is that of a link without a speed.
fn speed_of(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|speed| *speed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowest_route_has_the_interface() {
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let route = |name: &str, network, mask| {
            format!("{name}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(network), hex(mask))
        };
        let routes = "Iface\tDestination\tGateway\tFlags\n".to_string()
            + &route("eth0", [0, 0, 0, 0], [0, 0, 0, 0])
            + &route("eth1", [10, 1, 0, 0], [255, 255, 0, 0])
            + &route("eth2", [10, 0, 0, 0], [255, 0, 0, 0])
            + "broken\n";
        for (address, expected) in [("10.1.2.3", "eth1"), ("10.2.2.3", "eth2"), ("192.0.2.1", "eth0")] {
            assert_eq!(interface(&routes, address.parse().unwrap()), Some(expected), "{address}");
        }
        assert_eq!(interface("", Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn link_is_described_with_its_limit() {
        assert_eq!((speed_of("10000\n"), speed_of("-1\n"), speed_of("")), (Some(10_000), None, None));
        let link = NetworkLink::Interface("eth0".into(), Some(10_000));
        assert_eq!(link.text(), "network: eth0, 10,000 Mbit/s: at most 1,250 MB/s in each direction");
        assert_eq!(link.json(), json!({ "interface": "eth0", "megabits_per_second": 10_000 }));
        assert!(NetworkLink::Interface("eth0".into(), None).text().contains("not known"));
        assert_eq!(
            (NetworkLink::default().json(), NetworkLink::ThisMachine.json()["interface"].clone()),
            (Value::Null, json!("lo"))
        );
    }

    #[tokio::test]
    async fn members_on_this_machine_have_no_link() {
        assert_eq!(NetworkLink::to("127.0.0.1:8815").await, NetworkLink::ThisMachine);
        assert_eq!(NetworkLink::to("no address").await, NetworkLink::Unknown);
    }
}
