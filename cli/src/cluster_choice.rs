//! Which cluster a command uses, and how it reaches it: by flags, variables and contexts.
//!
//! A flag precedes a variable, a variable the current context, and that the default. What names a context counts as what names a
//! cluster: after `--context` no variable sends the command elsewhere, and the login of a context is for no other cluster.

use std::ffi::OsString;

use volley_common::tls::ClientTls;
use volley_common::{Error, Result};

use crate::args::{Args, CliCommand};
use crate::client_login_args::ContextLogin;
use crate::contexts::{ClusterContext, ContextFile, ContextStore, context_name};

/// The cluster of commands that nothing names one for.
pub const DEFAULT_CLUSTER: &str = "grpc://127.0.0.1:8815";
const CLUSTER_VAR: &str = "VOLLEY_CLUSTER";
const CONTEXT_VAR: &str = "VOLLEY_CONTEXT";
/// The context of the first login, if it gets no name.
const DEFAULT_CONTEXT: &str = "default";

/// A cluster with the settings of its connections.
#[derive(Debug)]
pub struct ClusterChoice {
    /// The addresses, separated by commas.
    pub cluster: String,
    /// The settings of TLS.
    pub tls: ClientTls,
    /// The context that named the cluster; of `volley login` the one that it writes.
    pub context: Option<String>,
    /// The login of that context.
    pub login: Option<ContextLogin>,
}

/// What a command does with contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContextUse {
    /// It connects to the cluster of one.
    Reads,
    /// It makes one.
    Writes,
    /// It connects to no cluster, or to one of its own.
    Ignores,
}

/// What names the cluster.
enum ClusterSource {
    Address(String),
    Context {
        name: String,
        /// Whether a flag did, which overrides variables.
        is_first: bool,
    },
    Default,
}

impl ClusterChoice {
    /// The choice for a command line in this environment.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: two flags, or two variables, that name a cluster; a variable that is not text. NOT_FOUND: no such
    /// context. Those of [`ContextStore::read`].
    pub fn of(args: &Args) -> Result<Self> {
        let read = || ContextStore::of_user().map_or_else(|_| Ok(ContextFile::default()), |store| store.read());
        choose(args, context_use(&args.command), |name| std::env::var_os(name).filter(|value| !value.is_empty()), read)
    }

    /// What helps a caller whose login is refused; none if it is not the context's.
    pub fn login_remedy(&self) -> Option<String> {
        let name = self.context.as_ref().filter(|_| self.login.is_some())?;
        Some(format!("log in again by `volley login --context {name}`"))
    }
}

fn context_use(command: &CliCommand) -> ContextUse {
    match command {
        CliCommand::Login(_) => ContextUse::Writes,
        CliCommand::Dev(_)
        | CliCommand::Demo(_)
        | CliCommand::Health { .. }
        | CliCommand::Certs(_)
        | CliCommand::Context(_)
        | CliCommand::Completions { .. }
        | CliCommand::Man { .. } => ContextUse::Ignores,
        _ => ContextUse::Reads,
    }
}

/// Refuses flags that name or reach a cluster for a command that runs one. Variables may be there for other commands.
fn check_own_cluster(args: &Args) -> Result<()> {
    let command = match &args.command {
        CliCommand::Dev(_) => "dev",
        CliCommand::Demo(_) => "demo",
        _ => return Ok(()),
    };
    let (tls, login) = (&args.tls, &args.login);
    let given = [
        ("--cluster", args.cluster.is_some()),
        ("--context", args.context.is_some()),
        ("--tls-ca", tls.tls_ca.is_some()),
        ("--tls-cert", tls.tls_cert.is_some()),
        ("--tls-key", tls.tls_key.is_some()),
        ("--tls-server-name", tls.tls_server_name.is_some()),
        ("--user", login.login_user.is_some()),
        ("--token-file", login.token_file.is_some()),
        ("--plaintext-login", login.plaintext_login),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Error::invalid(format!(
            "{flag} has no effect on `volley {command}`, which runs a cluster of its own: leave it out"
        ))),
        None => Ok(()),
    }
}

fn choose(
    args: &Args,
    usage: ContextUse,
    variable: impl Fn(&str) -> Option<OsString>,
    read: impl Fn() -> Result<ContextFile>,
) -> Result<ClusterChoice> {
    check_own_cluster(args)?;
    let text = |name: &str| {
        let value = variable(name).map(OsString::into_string).transpose();
        value.map_err(|_| Error::invalid(format!("{name} is not UTF-8")))
    };
    let none = ClusterContext::default();
    let plain = |cluster: String| ClusterChoice {
        cluster,
        tls: args.tls.settings(&none, false, &variable),
        context: None,
        login: None,
    };
    if usage == ContextUse::Ignores {
        let cluster = args.cluster.clone().map_or_else(|| text(CLUSTER_VAR), |cluster| Ok(Some(cluster)))?;
        return Ok(plain(cluster.unwrap_or_else(|| DEFAULT_CLUSTER.into())));
    }
    if usage == ContextUse::Writes {
        let file = read()?;
        let cluster = args.cluster.clone().map_or_else(|| text(CLUSTER_VAR), |cluster| Ok(Some(cluster)))?;
        let named = args.context.clone().map_or_else(|| text(CONTEXT_VAR), |name| Ok(Some(name)))?;
        let is_named = named.is_some();
        let name = checked_name(named.or_else(|| file.current.clone()).unwrap_or_else(|| DEFAULT_CONTEXT.into()))?;
        let before = file.contexts.get(&name).unwrap_or(&none);
        let is_other = cluster.as_ref().is_some_and(|cluster| is_of_other(before, cluster));
        if is_other && !is_named {
            return Err(Error::invalid(format!(
                "the current context, {name}, is of another cluster: give this one a name by --context NAME"
            )));
        }
        let of_before = Some(before.addresses()).filter(|addresses| !addresses.is_empty());
        let cluster = cluster.or(of_before).unwrap_or_else(|| DEFAULT_CLUSTER.into());
        // The settings of another cluster are not those of this one.
        let tls = args.tls.settings(if is_other { &none } else { before }, false, &variable);
        return Ok(ClusterChoice { cluster, tls, context: Some(name), login: None });
    }
    match source(args, text, || Ok(read()?.current))? {
        ClusterSource::Address(cluster) => Ok(plain(cluster)),
        ClusterSource::Default => Ok(plain(DEFAULT_CLUSTER.into())),
        ClusterSource::Context { name, is_first } => {
            let file = read()?;
            let context = file.context(&name)?;
            of_context(name, context, is_first, args.tls.settings(context, is_first, &variable))
        }
    }
}

/// What names the cluster of a command.
fn source(
    args: &Args,
    variable: impl Fn(&str) -> Result<Option<String>>,
    current: impl FnOnce() -> Result<Option<String>>,
) -> Result<ClusterSource> {
    let context = |name: String, is_first: bool| ClusterSource::Context { name, is_first };
    match (&args.cluster, &args.context) {
        (Some(_), Some(_)) => Err(Error::invalid("--cluster and --context both name a cluster: give one of them")),
        (Some(cluster), None) => Ok(ClusterSource::Address(cluster.clone())),
        (None, Some(name)) => Ok(context(name.clone(), true)),
        (None, None) => match (variable(CLUSTER_VAR)?, variable(CONTEXT_VAR)?) {
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "{CLUSTER_VAR} and {CONTEXT_VAR} are both set: unset one of them, or override both by --cluster or --context"
            ))),
            (Some(cluster), None) => Ok(ClusterSource::Address(cluster)),
            (None, Some(name)) => Ok(context(checked_name(name)?, false)),
            (None, None) => Ok(current()?.map_or(ClusterSource::Default, |name| context(name, false))),
        },
    }
}

/// Whether a context has addresses, and these are others.
fn is_of_other(context: &ClusterContext, cluster: &str) -> bool {
    !context.cluster.is_empty() && context.addresses() != cluster
}

/// The name of a context from a variable.
fn checked_name(name: String) -> Result<String> {
    context_name(&name).map_err(|why| Error::invalid(format!("the name of a context {why}")))
}

fn of_context(name: String, context: &ClusterContext, is_first: bool, tls: ClientTls) -> Result<ClusterChoice> {
    let cluster = context.addresses();
    if cluster.is_empty() {
        return Err(Error::invalid(format!(
            "the context {name:?} has no address: `volley login --context {name} --cluster ADDRESS` gives it one"
        )));
    }
    let login = ContextLogin {
        cluster: cluster.clone(),
        token: context.token.clone(),
        token_file: context.token_file.clone(),
        allows_plaintext: context.plaintext_login,
        is_first,
    };
    Ok(ClusterChoice { cluster, tls, context: Some(name), login: Some(login) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use volley_common::identity::Secret;

    use super::*;

    fn file() -> ContextFile {
        let context = |address: &str| ClusterContext {
            cluster: vec![address.into()],
            tls_ca: Some("ca.crt".into()),
            token: Some(Secret::new("t")),
            ..ClusterContext::default()
        };
        let contexts = [("prod", "grpc+tls://prod:1"), ("test", "grpc+tls://test:1")];
        ContextFile {
            current: Some("prod".into()),
            contexts: contexts.map(|(name, address)| (name.to_string(), context(address))).into(),
        }
    }

    fn choice(line: &str, variables: &[(&str, &str)]) -> Result<ClusterChoice, String> {
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        choose(&args, context_use(&args.command), variable, || Ok(file())).map_err(|e| e.message)
    }

    fn cluster(line: &str, variables: &[(&str, &str)]) -> (String, bool) {
        let choice = choice(line, variables).unwrap();
        assert_eq!(choice.tls.ca.is_some(), choice.login.is_some(), "a context is used as a whole");
        (choice.cluster, choice.login.is_some())
    }

    #[test]
    fn flag_precedes_variable_and_variable_the_current_context() {
        let both = [(CLUSTER_VAR, "grpc://variable:1"), (CONTEXT_VAR, "test")];
        let of = |address: &str, has_login: bool| (address.to_string(), has_login);
        assert_eq!(cluster("volley ls --cluster grpc://flag:1", &both), of("grpc://flag:1", false));
        assert_eq!(cluster("volley ls --context test", &both), of("grpc+tls://test:1", true));
        assert_eq!(cluster("volley ls", &both[..1]), of("grpc://variable:1", false));
        assert_eq!(cluster("volley ls", &both[1..]), of("grpc+tls://test:1", true));
        assert_eq!(cluster("volley ls", &[]), of("grpc+tls://prod:1", true));
        assert_eq!(cluster("volley health", &[]), of(DEFAULT_CLUSTER, false));
        let remedy = choice("volley ls --context test", &[]).unwrap().login_remedy();
        assert!(remedy.is_some_and(|remedy| remedy.contains("`volley login --context test`")));
    }

    #[test]
    fn contradictions_are_refused() {
        let both = [(CLUSTER_VAR, "grpc://variable:1"), (CONTEXT_VAR, "test")];
        assert!(
            choice("volley ls", &both).is_err_and(|e| e.contains("VOLLEY_CLUSTER and VOLLEY_CONTEXT are both set"))
        );
        let flags = choice("volley ls --cluster grpc://flag:1 --context test", &[]);
        assert!(flags.is_err_and(|e| e.contains("--cluster and --context")));
        assert!(choice("volley ls --context none", &[]).is_err_and(|e| e.contains("prod, test")));
        assert!(choice("volley ls", &[(CONTEXT_VAR, "a b")]).is_err_and(|e| e.contains("letters")));
    }

    #[test]
    fn cluster_of_its_own_refuses_flags_of_others() {
        for flag in ["--cluster grpc://flag:1", "--context test", "--tls-ca f", "--user ana", "--plaintext-login"] {
            let refused = choice(&format!("volley dev {flag}"), &[]).unwrap_err();
            assert!(
                refused.starts_with(flag.split(' ').next().unwrap()) && refused.contains("`volley dev`"),
                "{refused}"
            );
            assert!(choice(&format!("volley demo {flag}"), &[]).is_err_and(|e| e.contains("`volley demo`")));
        }
        choice("volley dev", &[(CLUSTER_VAR, "grpc://variable:1"), (CONTEXT_VAR, "test")]).unwrap();
    }

    #[test]
    fn login_keeps_the_addresses_of_its_context_but_no_token() {
        let login = choice("volley login --context test", &[]).unwrap();
        assert_eq!((login.cluster.as_str(), login.context.as_deref()), ("grpc+tls://test:1", Some("test")));
        assert!(login.login.is_none() && login.tls.ca.is_some());
        let other = choice("volley login --context test --cluster grpc+tls://other:1", &[]).unwrap();
        assert_eq!((other.cluster.as_str(), other.context.as_deref()), ("grpc+tls://other:1", Some("test")));
        assert!(other.tls.ca.is_none(), "the CA of another cluster");
        let unnamed = choice("volley login --cluster grpc+tls://other:1", &[]);
        assert!(unnamed.is_err_and(|e| e.contains("prod") && e.contains("--context NAME")));
        let same = choice("volley login --cluster grpc+tls://prod:1", &[]).unwrap();
        assert_eq!((same.context.as_deref(), same.tls.ca.is_some()), (Some("prod"), true));
    }
}
