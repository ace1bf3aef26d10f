//! The command line of `volley certs`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::certificates::{AltName, CA_DAYS, CertificateSubject, DEFAULT_DAYS};

#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make a certificate authority: DIR/ca.crt, which members and clients trust, and DIR/ca.key, which issues certificates
    /// and stays here.
    Init {
        /// The folder; it is created if it does not exist.
        dir: PathBuf,
        /// Replace the authority of DIR: what it has issued is not trusted any more.
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate and its key to a member, a server or a user: DIR/NAME.crt and DIR/NAME.key, for members
    /// DIR/coordinator-ID.* and DIR/node-NAME.*.
    Issue(IssueArgs),
    /// Show what certificates say: subject, names, uses, end. Nothing is verified.
    Show {
        /// Certificates in PEM.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub struct IssueArgs {
    /// The folder of `volley certs init`.
    pub dir: PathBuf,
    #[command(flatten)]
    pub holder: HolderArgs,
    /// A host name or IP address that the certificate is also valid for. Separated by commas, or repeated. A server's is
    /// always valid for NAME, localhost, 127.0.0.1 and ::1.
    #[arg(long = "san", value_name = "DNS|IP", value_delimiter = ',', conflicts_with = "user")]
    pub names: Vec<AltName>,
    /// How many days the certificate is valid, at most as long as its authority.
    #[arg(long, default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(CA_DAYS)))]
    pub days: u32,
    /// Replace the files of an earlier certificate of that name. Servers load them without a restart.
    #[arg(long)]
    pub force: bool,
    /// Nobody logs in for this command, whose --user is another one.
    #[arg(long, hide = true)]
    #[allow(dead_code, reason = "it has the id of the login's flag --user, which clap does not add then")]
    login_user: Option<String>,
}

/// Whom the certificate is for: exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct HolderArgs {
    /// For a member, in its connections with other members.
    #[arg(long, value_name = "coordinator/ID|node/NAME", value_parser = CertificateSubject::member)]
    pub member: Option<CertificateSubject>,
    /// The same as --member coordinator/ID.
    #[arg(long, value_name = "ID", value_parser = CertificateSubject::coordinator)]
    pub coordinator: Option<CertificateSubject>,
    /// The same as --member node/NAME.
    #[arg(long, value_name = "NAME", value_parser = CertificateSubject::node)]
    pub node: Option<CertificateSubject>,
    /// For the Flight and HTTP ports of a server; NAME is its host name or IPv4 address.
    #[arg(long, value_name = "NAME", value_parser = CertificateSubject::server)]
    pub server: Option<CertificateSubject>,
    /// For a user, who is recognized by it as NAME.
    #[arg(long, value_name = "NAME", value_parser = CertificateSubject::user)]
    pub user: Option<CertificateSubject>,
}

impl HolderArgs {
    /// The subject that was given; clap demands one.
    pub fn subject(&self) -> Option<&CertificateSubject> {
        [&self.member, &self.coordinator, &self.node, &self.server, &self.user].into_iter().find_map(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CertsLine {
        #[command(subcommand)]
        command: CertsCommand,
    }

    fn parsed(line: &str) -> Result<CertsCommand, String> {
        CertsLine::try_parse_from(line.split(' ')).map(|line| line.command).map_err(|e| e.to_string())
    }

    fn issue(line: &str) -> IssueArgs {
        let Ok(CertsCommand::Issue(issue)) = parsed(&format!("certs issue {line}")) else { panic!("{line}") };
        issue
    }

    #[test]
    fn member_has_two_spellings() {
        for (long, short) in [("--member coordinator/1", "--coordinator 1"), ("--member node/n1", "--node n1")] {
            let (long, short) = (issue(&format!("d {long}")), issue(&format!("d {short}")));
            assert_eq!(long.holder.subject(), short.holder.subject());
            assert!(long.holder.subject().is_some());
        }
    }

    #[test]
    fn names_are_split_at_commas_or_repeated() {
        let names = issue("d --server a.example --san b.example,10.0.0.7 --san ::1").names;
        assert_eq!(names.iter().map(AltName::to_string).collect::<Vec<_>>(), ["b.example", "10.0.0.7", "::1"]);
    }

    #[test]
    fn invalid_command_line_names_the_argument() {
        let error = |line: &str| parsed(line).expect_err(line);
        assert!(error("certs issue d").contains("--member"));
        assert!(error("certs issue d --server a --user b").contains("--user"));
        assert!(error("certs issue d --user b --san a.example").contains("--san"));
        assert!(error("certs issue d --member n1").contains("coordinator/ID or node/NAME"));
        assert!(error("certs issue d --node a/b").contains("not '/'"));
        assert!(error("certs issue d --coordinator 0").contains("from 1 on"));
        assert!(error("certs issue d --server a --san a:8815").contains("without scheme and port"));
        assert!(error("certs issue d --server a --days 0").contains("--days"));
        assert!(error("certs issue d --server a --days 3651").contains("--days"));
        assert!(error("certs show").contains("<FILE>"));
        assert!(error("certs init").contains("<DIR>"));
    }
}
