//! `volley certs`: makes an authority and certificates for clusters that have none, and shows certificates.

use std::path::Path;

use serde_json::{Value, json};
use volley_common::{Error, Result, clock};

use crate::args::certs::{CertsCommand, IssueArgs};
use crate::certificates::{self, CertificateSubject, CertificateSummary, DAY_MS};
use crate::output;
use pem_files::PemFiles;

pub mod pem_files;
#[cfg(test)]
mod tests;

/// Runs the command and prints what it did. Nothing is sent to the cluster.
pub fn run(command: &CertsCommand, json: bool) -> Result<()> {
    let (value, text) = execute(command, clock::now_ms())?;
    if json { output::json(&value) } else { output::line(text) }
}

/// Runs the command at a time; returns what it did, for programs and for people.
fn execute(command: &CertsCommand, now_ms: u64) -> Result<(Value, String)> {
    match command {
        CertsCommand::Init { dir, force } => init(dir, *force, now_ms),
        CertsCommand::Issue(args) => issue(args, now_ms),
        CertsCommand::Show { files } => {
            let mut rows = Vec::new();
            for file in files {
                let found = certificates::summaries(&pem_files::read(file)?).map_err(|e| e.at(file.display()))?;
                rows.extend(found.iter().map(|summary| row(file, summary, now_ms)));
            }
            let text = table(&rows).to_string();
            Ok((Value::Array(rows), text))
        }
    }
}

fn init(dir: &Path, force: bool, now_ms: u64) -> Result<(Value, String)> {
    let made = certificates::new_authority(now_ms)?;
    let files = pem_files::write_authority(dir, &made, force)?;
    let (dir, certificate, key) = (dir.display(), files.certificate.display(), files.key.display());
    let text = format!(
        "wrote {certificate} and {key}, valid until {}
Give ca.crt to members and clients; keep ca.key here, and a copy of both in a safe place.
Next, for each member: volley certs issue {dir} --coordinator ID, or --node NAME
for the ports of clients: volley certs issue {dir} --server NAME [--san DNS|IP]",
        date(made.not_after_ms)
    );
    Ok((files_json(&files, made.not_after_ms), text))
}

fn issue(args: &IssueArgs, now_ms: u64) -> Result<(Value, String)> {
    let subject = args.holder.subject().ok_or_else(|| Error::internal("no holder of the certificate"))?;
    let authority = pem_files::read_authority(&args.dir)?;
    let issued = authority.issue(subject, &args.names, args.days, now_ms).map_err(|e| e.at(args.dir.display()))?;
    let files = pem_files::write(&args.dir, &subject.file_stem(), &issued, args.force)?;
    let with_authority = if issued.not_after_ms == authority.not_after_ms() { ", when its authority ends" } else { "" };
    let text = format!(
        "wrote {} and {}, valid until {}{with_authority}\n{}",
        files.certificate.display(),
        files.key.display(),
        date(issued.not_after_ms),
        flags_text(subject, &files, &args.dir.join(pem_files::CA_CERTIFICATE))
    );
    Ok((files_json(&files, issued.not_after_ms), text))
}

/// Where the files of an issued certificate are used.
fn flags_text(subject: &CertificateSubject, files: &PemFiles, ca: &Path) -> String {
    let (ca, certificate, key) = (ca.display(), files.certificate.display(), files.key.display());
    match subject {
        CertificateSubject::Coordinator(_) | CertificateSubject::Node(_) => {
            format!("member: --peer-ca {ca} --peer-cert {certificate} --peer-key {key}")
        }
        CertificateSubject::Server(_) => {
            format!("server: --tls-cert {certificate} --tls-key {key}\nclients: --tls-ca {ca}")
        }
        CertificateSubject::User(_) => {
            format!("user: --tls-ca {ca} --tls-cert {certificate} --tls-key {key}\nservers: --tls-client-ca {ca}")
        }
    }
}

fn files_json(files: &PemFiles, not_after_ms: u64) -> Value {
    json!({
        "certificate": files.certificate.to_string_lossy(),
        "key": files.key.to_string_lossy(),
        "not_after_ms": not_after_ms,
    })
}

fn row(file: &Path, summary: &CertificateSummary, now_ms: u64) -> Value {
    // Rounded down, so that a certificate of 0 days ends today, and one that has ended is below 0.
    let days_left = (summary.not_after_ms as i64 - now_ms as i64).div_euclid(DAY_MS as i64);
    json!({
        "file": file.to_string_lossy(),
        "subject": summary.subject,
        "issuer": summary.issuer,
        "names": summary.names,
        "uses": summary.uses,
        "not_after_ms": summary.not_after_ms,
        "days_left": days_left,
    })
}

/// The certificates of [`row`], one line each.
fn table(rows: &[Value]) -> comfy_table::Table {
    let mut table = output::table(&["file", "subject", "names", "uses", "issuer", "not after (UTC)", "days left"]);
    for row in rows {
        let days = match row["days_left"].as_i64() {
            Some(days) if days < 0 => "expired".into(),
            days => output::count(days.unwrap_or(-1)),
        };
        let text = |key: &str| output::cell(key, &row[key]);
        let until = row["not_after_ms"].as_u64().map_or_else(String::new, date);
        table.add_row([text("file"), text("subject"), text("names"), text("uses"), text("issuer"), until, days]);
    }
    output::align_right(&mut table, &[6]);
    table
}

/// A time as a UTC date and time.
fn date(ms: u64) -> String {
    output::utc(i64::try_from(ms).unwrap_or(i64::MAX))
}
