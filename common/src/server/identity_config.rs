//! The settings of identity, rights and the audit log that both servers have, and what is made from them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::audit::{AuditData, AuditSettings, AuditTarget};
use crate::identity::{IdentityRules, OidcSettings, OidcVerifier};
use crate::{Error, Result};

/// The least `audit_log_bytes`: a file has room for some hundred lines.
const MIN_AUDIT_LOG_BYTES: u64 = 64 << 10;
/// The most `audit_log_files`: each is renamed when a file is full.
const MAX_AUDIT_LOG_FILES: u64 = 1_000;
/// The claim of an OIDC token that names its principal, unless the settings say another.
const SUBJECT_CLAIM: &str = "sub";

/// The settings of identity of both servers; flattened into the configuration of each.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct IdentityConfig {
    /// Whether a ticket may be redeemed by other principals than the one that planned the read.
    pub shareable_tickets: bool,
    /// Whether `/metrics` needs no identity, although the cluster has users.
    pub public_metrics: bool,
    /// Whether gRPC reflection needs no identity, although the cluster has users.
    pub public_reflection: bool,
    /// Where the audit log is written: off, stderr, or a file.
    pub audit_log: String,
    /// Which calls on data are recorded, besides those that are refused.
    pub audit_data: AuditData,
    /// The size at which the file of the audit log is renamed to `FILE.1`, bytes.
    pub audit_log_bytes: u64,
    /// How many renamed files of the audit log are kept.
    pub audit_log_files: u64,
    /// The issuer of OIDC tokens, as their claim `iss` has it.
    pub oidc_issuer: Option<String>,
    /// The audience that OIDC tokens must be for, as their claim `aud` has it.
    pub oidc_audience: Option<String>,
    /// The issuer's keys (JWKS): a file, or an `https://` address.
    pub oidc_jwks: Option<String>,
    /// The claim of an OIDC token that names the principal.
    pub oidc_principal_claim: String,
    /// The claim with the principal's groups, if there is one.
    pub oidc_groups_claim: Option<String>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        IdentityConfig {
            shareable_tickets: false,
            public_metrics: false,
            public_reflection: false,
            audit_log: "stderr".into(),
            audit_data: AuditData::None,
            audit_log_bytes: 100 << 20,
            audit_log_files: 10,
            oidc_issuer: None,
            oidc_audience: None,
            oidc_jwks: None,
            oidc_principal_claim: SUBJECT_CLAIM.into(),
            oidc_groups_claim: None,
        }
    }
}

/// The flags of identity of both servers; flattened into the command line of each.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct IdentityArgs {
    /// Let every principal with a ticket redeem it; without it only the one that planned the read can, unless the table's option
    /// shareable_tickets is set.
    #[arg(long)]
    pub shareable_tickets: bool,
    /// Serve /metrics without identity; without it operators only, unless the cluster has no users.
    #[arg(long)]
    pub public_metrics: bool,
    /// Serve gRPC reflection without identity; without it identified callers only, unless the cluster has no users.
    #[arg(long)]
    pub public_reflection: bool,
    /// Where the audit log is written: off, stderr, or a file.
    #[arg(long, value_name = "off|stderr|FILE")]
    pub audit_log: Option<String>,
    /// Which calls on data the audit log records, besides those that are refused.
    #[arg(long, value_enum)]
    pub audit_data: Option<AuditData>,
    /// The size in bytes at which the file of the audit log is renamed to FILE.1 and a new one begins.
    #[arg(long)]
    pub audit_log_bytes: Option<u64>,
    /// How many renamed files of the audit log are kept: FILE.1, FILE.2, and so on.
    #[arg(long)]
    pub audit_log_files: Option<u64>,
    /// The issuer of OIDC tokens that are accepted, as their claim iss has it.
    #[arg(long, value_name = "URL")]
    pub oidc_issuer: Option<String>,
    /// The audience that OIDC tokens must be for, as their claim aud has it.
    #[arg(long)]
    pub oidc_audience: Option<String>,
    /// The keys of --oidc-issuer (JWKS): a file, or an address with https://.
    #[arg(long, value_name = "FILE|URL")]
    pub oidc_jwks: Option<String>,
    /// The claim of an OIDC token that names the principal.
    #[arg(long)]
    pub oidc_principal_claim: Option<String>,
    /// The claim of an OIDC token with the principal's groups.
    #[arg(long)]
    pub oidc_groups_claim: Option<String>,
}

impl IdentityConfig {
    /// Checks the values and their combinations. Reads no file.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self) -> Result<()> {
        self.audit_settings()?;
        if self.audit_log_bytes < MIN_AUDIT_LOG_BYTES {
            return Err(Error::invalid(format!(
                "audit_log_bytes is {} and must be at least {MIN_AUDIT_LOG_BYTES}",
                self.audit_log_bytes
            )));
        }
        if !(1..=MAX_AUDIT_LOG_FILES).contains(&self.audit_log_files) {
            return Err(Error::invalid(format!(
                "audit_log_files is {} and must be from 1 to {MAX_AUDIT_LOG_FILES}: to write no audit log, set audit_log to off",
                self.audit_log_files
            )));
        }
        self.oidc().map(drop)
    }

    /// The settings of the audit log.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `audit_log` is neither off nor stderr, and looks like no file.
    pub fn audit_settings(&self) -> Result<AuditSettings> {
        let target = match self.audit_log.as_str() {
            "off" => AuditTarget::Off,
            "stderr" => AuditTarget::StandardError,
            // A misspelt word would be the name of a file that nobody looks for.
            word if !word.contains(['/', '.']) => {
                return Err(Error::invalid(format!(
                    "--audit-log is {word:?}: give off, stderr, or a file, for example ./audit.log"
                )));
            }
            path => AuditTarget::File(path.into()),
        };
        Ok(AuditSettings {
            target,
            data: self.audit_data,
            file_bytes: self.audit_log_bytes,
            files: self.audit_log_files,
        })
    }

    /// The settings of OIDC; `None` if there is no issuer.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: only some of issuer, audience and keys; an empty value.
    fn oidc(&self) -> Result<Option<OidcSettings>> {
        let given = [
            ("--oidc-issuer", &self.oidc_issuer),
            ("--oidc-audience", &self.oidc_audience),
            ("--oidc-jwks", &self.oidc_jwks),
        ];
        let claims = [
            ("--oidc-principal-claim", Some(&self.oidc_principal_claim)),
            ("--oidc-groups-claim", self.oidc_groups_claim.as_ref()),
        ];
        let all = given.iter().map(|(flag, value)| (*flag, value.as_ref())).chain(claims);
        if let Some((flag, _)) = all.into_iter().find(|(_, value)| value.is_some_and(|value| value.trim().is_empty())) {
            return Err(Error::invalid(format!("{flag} is empty: give a value, or leave it out")));
        }
        let (Some(issuer), Some(audience), Some(jwks)) = (&self.oidc_issuer, &self.oidc_audience, &self.oidc_jwks)
        else {
            let missing: Vec<&str> = given.iter().filter(|(_, value)| value.is_none()).map(|(flag, _)| *flag).collect();
            if missing.len() == given.len() {
                return self.check_no_claims().map(|()| None);
            }
            return Err(Error::invalid(format!(
                "tokens of an OIDC issuer need --oidc-issuer, --oidc-audience and --oidc-jwks, and {} {} not given: give all three or none",
                missing.join(" and "),
                if missing.len() == 1 { "is" } else { "are" }
            )));
        };
        Ok(Some(OidcSettings {
            issuer: issuer.clone(),
            audience: audience.clone(),
            jwks: jwks.clone(),
            principal_claim: self.oidc_principal_claim.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
        }))
    }

    /// Claims are of tokens, for which an issuer is needed.
    fn check_no_claims(&self) -> Result<()> {
        let flag = match (&self.oidc_groups_claim, self.oidc_principal_claim.as_str()) {
            (Some(_), _) => "--oidc-groups-claim",
            (None, SUBJECT_CLAIM) => return Ok(()),
            (None, _) => "--oidc-principal-claim",
        };
        Err(Error::invalid(format!(
            "{flag} is for tokens of an OIDC issuer, and there is none: give --oidc-issuer, --oidc-audience and --oidc-jwks too"
        )))
    }

    /// The rules by which callers are identified. Reads `oidc_jwks` if it is a file; the verifier of OIDC tokens checks where the
    /// keys come from.
    ///
    /// # Errors
    /// Those of [`IdentityConfig::check`] and [`OidcVerifier::new`].
    pub(super) fn rules(&self, insecure: bool) -> Result<IdentityRules> {
        let oidc = self.oidc()?.map(OidcVerifier::new).transpose()?;
        let oidc = oidc.map(Arc::new);
        Ok(IdentityRules { insecure, shareable_tickets: self.shareable_tickets, oidc, ..IdentityRules::default() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut IdentityConfig)) -> String {
        let mut config = IdentityConfig::default();
        change(&mut config);
        config.check().unwrap_err().message
    }

    fn with_oidc() -> IdentityConfig {
        IdentityConfig {
            oidc_issuer: Some("https://id.example".into()),
            oidc_audience: Some("volley".into()),
            oidc_jwks: Some("https://id.example/keys".into()),
            ..IdentityConfig::default()
        }
    }

    #[test]
    fn defaults_are_valid_and_strict() {
        let config = IdentityConfig::default();
        config.check().unwrap();
        assert!(!config.shareable_tickets && !config.public_metrics && !config.public_reflection);
        assert_eq!(config.audit_settings().unwrap().target, AuditTarget::StandardError);
        let rules = config.rules(true).unwrap();
        assert!(rules.insecure && rules.oidc.is_none());
    }

    #[test]
    fn audit_log_is_off_stderr_or_a_file() {
        let target = |audit_log: &str| {
            let config = IdentityConfig { audit_log: audit_log.into(), ..IdentityConfig::default() };
            config.audit_settings().map(|settings| settings.target)
        };
        assert_eq!(target("off"), Ok(AuditTarget::Off));
        for file in ["audit.log", "./audit", "/var/log/volley/audit"] {
            assert_eq!(target(file), Ok(AuditTarget::File(file.into())));
        }
        for word in ["stdout", "none", "Off", "true", ""] {
            let error = target(word).unwrap_err();
            assert!(error.message.contains("--audit-log") && error.message.contains("stderr"), "{error}");
        }
    }

    #[test]
    fn limits_of_the_audit_log_are_checked() {
        assert!(refusal(|c| c.audit_log_files = 0).contains("audit_log_files is 0"));
        assert!(refusal(|c| c.audit_log_files = 1_001).contains("from 1 to 1000"));
        assert!(refusal(|c| c.audit_log_bytes = 1_000).contains("audit_log_bytes is 1000"));
    }

    #[test]
    fn half_an_oidc_configuration_is_refused_with_its_remedy() {
        with_oidc().check().unwrap();
        let refused = |change: fn(&mut IdentityConfig), words: &[&str]| {
            let mut config = with_oidc();
            change(&mut config);
            let message = config.check().unwrap_err().message;
            assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        };
        refused(|c| c.oidc_jwks = None, &["--oidc-jwks is not given"]);
        refused(
            |c| (c.oidc_issuer, c.oidc_audience) = (None, None),
            &["--oidc-issuer and --oidc-audience are not given"],
        );
        refused(|c| c.oidc_audience = Some(" ".into()), &["--oidc-audience is empty"]);
        refused(|c| c.oidc_principal_claim = String::new(), &["--oidc-principal-claim is empty"]);
        refused(|c| c.oidc_groups_claim = Some(String::new()), &["--oidc-groups-claim is empty"]);
        assert!(refusal(|c| c.oidc_groups_claim = Some("groups".into())).contains("--oidc-groups-claim is for tokens"));
        assert!(refusal(|c| c.oidc_principal_claim = "email".into()).contains("--oidc-principal-claim is for tokens"));
    }
}
