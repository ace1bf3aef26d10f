//! Certificates of members, listeners and clients, for clusters with TLS.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};

/// A CA, and the certificates that it signs.
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestAuthority {
    /// A new CA.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        TestAuthority { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes FOLDER/NAME.crt and FOLDER/NAME.key: a certificate for these hosts and URIs, for servers and clients.
    pub fn issue(&self, folder: &Path, name: &str, hosts: &[&str], uris: &[String]) {
        let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        replace(&folder.join(format!("{name}.crt")), &certificate.pem());
        replace(&folder.join(format!("{name}.key")), &key.serialize_pem());
    }

    /// The certificates of these coordinators and nodes, as `FOLDER/coordinator1.crt` and `FOLDER/node1.crt`.
    pub fn issue_members(&self, folder: &Path, coordinators: usize, nodes: usize) {
        for (role, count) in [("coordinator", coordinators), ("node", nodes)] {
            for at in 1..=count {
                let uri =
                    if role == "node" { format!("volley://node/node{at}") } else { format!("volley://{role}/{at}") };
                self.issue(folder, &format!("{role}{at}"), &[], &[uri]);
            }
        }
    }
}

/// Writes a file by a rename, so that no server reads half of it. Returns its path.
pub fn replace(path: &Path, text: &str) -> PathBuf {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
    path.to_path_buf()
}
