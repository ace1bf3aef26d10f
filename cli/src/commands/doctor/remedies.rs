//! What to do about addresses that clients cannot use.

/// The scheme of addresses with TLS.
const TLS_SCHEME: &str = "grpc+tls";

/// Why clients of a listener get no address of a node: clients that came by TLS get none without it. `coordinator`: the address of
/// the coordinator for the same clients.
pub fn no_address(listener: &str, coordinator: &str) -> String {
    let name = listener_prefix(listener);
    let (with_tls, tls) = match scheme(coordinator) {
        TLS_SCHEME => (" with TLS", format!(" --tls-cert {name}FILE --tls-key {name}FILE")),
        _ => ("", String::new()),
    };
    format!(
        "it has no listener {listener:?}{with_tls}, so clients fetch its parts through other members: start it with --listen {name}HOST:PORT{tls}"
    )
}

/// For a node that does not answer at `uri`, its address for clients of a listener.
pub fn of_node(listener: &str, uri: &str) -> String {
    let (name, scheme) = (listener_prefix(listener), scheme(uri));
    format!(
        "clients on this machine are sent to {uri}: give the node an address that they can reach, --advertise {name}{scheme}://HOST:PORT, or let the coordinators proxy all data, --locations {name}proxy"
    )
}

/// For coordinators that do not answer at `uri`, where clients of a listener fetch all data.
pub fn of_coordinators(listener: &str, uri: &str) -> String {
    let (name, scheme) = (listener_prefix(listener), scheme(uri));
    format!(
        "clients on this machine are sent to {uri}: give the coordinators an address that they can reach, --advertise {name}{scheme}://HOST:PORT"
    )
}

/// `LISTENER=` for a setting, or nothing for the default listener.
fn listener_prefix(listener: &str) -> String {
    if listener.is_empty() { String::new() } else { format!("{listener}=") }
}

/// The scheme for an address in place of this one.
fn scheme(uri: &str) -> &'static str {
    if uri.starts_with(TLS_SCHEME) { TLS_SCHEME } else { "grpc+tcp" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedy_has_the_scheme_and_the_name_of_the_listener() {
        let plain = no_address("", "grpc+tcp://c:8815");
        assert!(plain.contains("--listen HOST:PORT") && !plain.contains("TLS"), "{plain}");
        let tls = no_address("external", "grpc+tls://c:9815");
        assert!(tls.contains("with TLS") && tls.contains("--tls-cert external=FILE"), "{tls}");
        for remedy in [of_node, of_coordinators] {
            assert!(remedy("external", "grpc+tls://n:9816").contains("--advertise external=grpc+tls://HOST:PORT"));
            assert!(remedy("", "grpc+tcp://n:8816").contains("--advertise grpc+tcp://HOST:PORT"));
        }
    }
}
