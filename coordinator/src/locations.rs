//! Which addresses a coordinator gives to the clients of a listener.

use std::fmt;
use std::str::FromStr;

use volley_common::{Error, Result};

/// The addresses in a FlightInfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locations {
    /// Those of the nodes.
    #[default]
    Direct,
    /// That of the coordinator, which proxies all data.
    Proxy,
    /// As [`Locations::Proxy`], with one endpoint for the whole table: for clients that read only the first endpoint.
    Single,
}

impl FromStr for Locations {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "direct" => Ok(Locations::Direct),
            "proxy" => Ok(Locations::Proxy),
            "single" => Ok(Locations::Single),
            _ => Err(Error::invalid(format!("{text:?} is not direct, proxy or single"))),
        }
    }
}

impl fmt::Display for Locations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Locations::Direct => "direct",
            Locations::Proxy => "proxy",
            Locations::Single => "single",
        })
    }
}
