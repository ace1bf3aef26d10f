//! What the settings of a server leave open, for reports to operators: `volley doctor` and `volley cluster status`.

use super::ServerConfig;
use crate::listen::is_loopback;

/// Something that the settings of a server leave open. Members name it to each other and to `volley`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExposureKind {
    /// The setting `insecure`.
    Insecure,
    /// A Flight listener, or the HTTP port if it serves tables, for other machines.
    RemoteClients,
    /// A Flight listener for other machines without TLS.
    PlaintextClients,
    /// The HTTP port for other machines without TLS.
    PlaintextHttp,
    /// A peer port for other machines that accepts members without TLS.
    PlaintextMembers,
    /// The setting `public_metrics`.
    PublicMetrics,
    /// The setting `public_reflection`.
    PublicReflection,
    /// The setting `shareable_tickets`.
    ShareableTickets,
}

impl ExposureKind {
    /// Every kind.
    pub const ALL: [ExposureKind; 8] = [
        ExposureKind::Insecure,
        ExposureKind::RemoteClients,
        ExposureKind::PlaintextClients,
        ExposureKind::PlaintextHttp,
        ExposureKind::PlaintextMembers,
        ExposureKind::PublicMetrics,
        ExposureKind::PublicReflection,
        ExposureKind::ShareableTickets,
    ];

    /// Its name in messages and replies.
    pub fn as_str(self) -> &'static str {
        match self {
            ExposureKind::Insecure => "insecure",
            ExposureKind::RemoteClients => "remote_clients",
            ExposureKind::PlaintextClients => "plaintext_clients",
            ExposureKind::PlaintextHttp => "plaintext_http",
            ExposureKind::PlaintextMembers => "plaintext_members",
            ExposureKind::PublicMetrics => "public_metrics",
            ExposureKind::PublicReflection => "public_reflection",
            ExposureKind::ShareableTickets => "shareable_tickets",
        }
    }

    /// The one of a name; `None`: a newer version has it.
    pub fn named(name: &str) -> Option<Self> {
        ExposureKind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// What these settings leave open.
    pub fn of(config: &ServerConfig) -> Vec<Self> {
        let listeners = config.listeners().unwrap_or_default();
        let remote = || listeners.iter().filter(|listener| !is_loopback(&listener.addr));
        let (tls, identity) = (&config.tls, &config.identity);
        let is_open = |kind: &ExposureKind| match kind {
            ExposureKind::Insecure => config.insecure,
            ExposureKind::RemoteClients => {
                let has_tables = !(config.http.no_http_api && config.http.no_web_page);
                (has_tables && !is_loopback(&config.http_listen)) || remote().next().is_some()
            }
            ExposureKind::PlaintextClients => remote().any(|listener| !tls.is_tls(&listener.name)),
            ExposureKind::PlaintextHttp => !is_loopback(&config.http_listen) && !tls.is_http_tls(),
            ExposureKind::PlaintextMembers => !is_loopback(&config.peer_listen) && !tls.demands_peer_certificate(),
            ExposureKind::PublicMetrics => identity.public_metrics,
            ExposureKind::PublicReflection => identity.public_reflection,
            ExposureKind::ShareableTickets => identity.shareable_tickets,
        };
        ExposureKind::ALL.into_iter().filter(is_open).collect()
    }

    /// The names of what these settings leave open.
    pub fn names_of(config: &ServerConfig) -> Vec<String> {
        ExposureKind::of(config).into_iter().map(|kind| kind.as_str().to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> ServerConfig {
        ServerConfig::new("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "data")
    }

    #[test]
    fn names_are_those_of_their_kinds() {
        for kind in ExposureKind::ALL {
            assert_eq!(ExposureKind::named(kind.as_str()), Some(kind));
        }
        assert_eq!(ExposureKind::named("of a newer version"), None);
    }

    #[test]
    fn loopback_without_settings_leaves_nothing_open() {
        assert!(ExposureKind::of(&loopback()).is_empty());
    }

    #[test]
    fn each_setting_is_reported() {
        let mut config = loopback();
        config.identity.public_metrics = true;
        config.identity.public_reflection = true;
        config.identity.shareable_tickets = true;
        let settings = [ExposureKind::PublicMetrics, ExposureKind::PublicReflection, ExposureKind::ShareableTickets];
        assert_eq!(ExposureKind::of(&config), settings);
    }

    #[test]
    fn http_port_for_other_machines_has_clients_if_it_serves_tables() {
        let mut config = ServerConfig::new("127.0.0.1:1", "127.0.0.1:2", "10.0.0.1:3", "data");
        assert_eq!(ExposureKind::of(&config), [ExposureKind::RemoteClients, ExposureKind::PlaintextHttp]);
        (config.http.no_http_api, config.http.no_web_page) = (true, true);
        assert_eq!(ExposureKind::of(&config), [ExposureKind::PlaintextHttp]);
    }

    #[test]
    fn ports_for_other_machines_are_reported_without_tls() {
        let mut config = ServerConfig::new("10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "data");
        config.insecure = true;
        let plaintext = [
            ExposureKind::Insecure,
            ExposureKind::RemoteClients,
            ExposureKind::PlaintextClients,
            ExposureKind::PlaintextHttp,
            ExposureKind::PlaintextMembers,
        ];
        assert_eq!(ExposureKind::of(&config), plaintext);
        (config.tls.tls_cert, config.tls.tls_key) = (vec!["c".into()], vec!["k".into()]);
        let file = || Some(std::path::PathBuf::from("f"));
        (config.tls.peer_ca, config.tls.peer_cert, config.tls.peer_key) = (file(), file(), file());
        config.insecure = false;
        assert_eq!(ExposureKind::of(&config), [ExposureKind::RemoteClients]);
    }
}
