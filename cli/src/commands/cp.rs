//! `volley cp`: copies a table within a cluster, or from another one. Rows stream from the nodes of the one to those of the other, and
//! become visible by one commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow_flight::FlightInfo;
use futures::TryStreamExt;
use serde_json::{Value, json};
use volley_client::{Client, ClientLogin, Codec, FetchOptions, ParallelPut, PutOutcome};
use volley_common::clock;
use volley_common::identity::Secret;
use volley_common::options::Options;
use volley_common::tls::ClientTls;
use volley_common::{Code, Error, Result, TableName};

use super::{ls, put, versions};
use crate::args::ModeArg;
use crate::args::table_commands::CpArgs;
use crate::client_login_args::ClientLoginArgs;
use crate::column_list::column_names;
use crate::secret_arguments::{check_address, check_token_path, check_user_name};
use crate::{output, progress, prompt};

const FROM_PASSWORD_VAR: &str = "VOLLEY_FROM_PASSWORD";
const FROM_TOKEN_VAR: &str = "VOLLEY_FROM_TOKEN";
/// How a password is given without a terminal.
const PASSWORD_WAYS: &str =
    "set VOLLEY_FROM_PASSWORD, or log in with a token, by --from-token-file FILE or VOLLEY_FROM_TOKEN";

/// The table that is copied.
#[derive(Debug, PartialEq)]
struct CopySource {
    /// Its cluster; none: that of the copy.
    cluster: Option<String>,
    table: TableName,
}

/// Copies the table.
pub async fn run(
    args: &CpArgs,
    connect: impl AsyncFnOnce() -> Result<Client>,
    tls: &ClientTls,
    login: &ClientLoginArgs,
    json: bool,
) -> Result<()> {
    let started = Instant::now();
    let from = CopySource::of(args)?;
    let target = connect().await?;
    let source = match &from.cluster {
        Some(cluster) => connect_source(args, cluster, tls, login).await?,
        None => target.clone(),
    };
    check_differs(args, &from)?;
    let at_source = |error: Error| if from.cluster.is_some() { error.at("the other cluster") } else { error };
    let read = Options { version: args.version, filter: args.filter.clone(), ..Options::default() };
    let info = source.info(&from.table, &read).await.map_err(at_source)?;
    let stats = source.action_any("get_stats", &json!({ "table": from.table.to_string() })).await.map_err(at_source)?;
    check_batches(args, &from.table, &stats)?;
    let options = options(args, &stats);
    check_keys(args, &target, &options).await?;
    let version = ls::version(&info);
    let outcome = copy(args, &source, info, &target, &options).await?;
    if let Some(replicas) = options.replicas {
        put::warn_of_missing_nodes(replicas, &args.target, &target).await;
    }
    let replaced = match args.mode {
        ModeArg::Replace => versions::replaced_by(&target, &args.target, outcome.version).await,
        ModeArg::Create | ModeArg::Append => None,
    };
    let report = CopyReport { from: &from, version, outcome: &outcome, replaced: replaced.as_ref() };
    report.print(started.elapsed().as_secs_f64(), json)
}

impl CopySource {
    /// What the command line names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an address without a table, or two of them; an address with a password, which is not repeated.
    fn of(args: &CpArgs) -> Result<Self> {
        let Some(scheme) = args.source.rfind("://") else {
            let has_login = args.from_user.is_some() || args.from_token_file.is_some() || args.from_tls_ca.is_some();
            if args.from_cluster.is_none() && has_login {
                return Err(Error::invalid(
                    "--from-user, --from-token-file and --from-tls-ca are for another cluster: name it with --from-cluster",
                ));
            }
            return Ok(CopySource { cluster: args.from_cluster.clone(), table: args.source.parse()? });
        };
        // Of a table whose name has an @ the cluster can be given with --from-cluster.
        check_address(&args.source)?;
        let authority = scheme + "://".len();
        let Some(slash) = args.source[authority..].find('/') else {
            return Err(Error::invalid(
                "the address of the table to copy has no table: write grpc://HOST:PORT/TABLE, as in grpc://10.0.0.1:8815/sales/orders",
            ));
        };
        let (cluster, table) = (&args.source[..authority + slash], &args.source[authority + slash + 1..]);
        match args.from_cluster {
            Some(_) => {
                Err(Error::invalid("the table to copy has an address, and so has --from-cluster: give one of them"))
            }
            None => Ok(CopySource { cluster: Some(cluster.into()), table: table.parse()? }),
        }
    }
}

/// Connects to the other cluster. The login of the copy's cluster is not sent there.
async fn connect_source(args: &CpArgs, cluster: &str, tls: &ClientTls, login: &ClientLoginArgs) -> Result<Client> {
    check_address(cluster)?;
    let demands_tls = ["grpc+tls://", "https://"].iter().any(|scheme| cluster.starts_with(scheme));
    let own_ca = tls.ca.clone().filter(|_| demands_tls);
    let tls = ClientTls { ca: args.from_tls_ca.clone().or(own_ca), ..ClientTls::default() };
    let login = source_login(args, cluster, &tls, login.plaintext_login).await?;
    let client = Client::builder().address(cluster).tls(tls).login(login).traceparent_of_environment();
    client.connect().await.map_err(|e| e.at("the other cluster"))
}

async fn source_login(args: &CpArgs, cluster: &str, tls: &ClientTls, allow_plaintext: bool) -> Result<ClientLogin> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new);
    let login = match (&args.from_user, &args.from_token_file) {
        (Some(user), _) => {
            check_user_name(user)?;
            let login = |password| ClientLogin::password(user.clone(), password).allow_plaintext(allow_plaintext);
            // Before a password is typed that could not be sent.
            login(Secret::new("")).check_address(cluster, tls)?;
            match variable(FROM_PASSWORD_VAR) {
                Some(password) => login(password),
                None => login(prompt::password(&format!("Password of {user} at {cluster}: "), PASSWORD_WAYS).await?),
            }
        }
        (None, Some(path)) => {
            check_token_path(path)?;
            ClientLogin::token_file(path)
        }
        (None, None) => variable(FROM_TOKEN_VAR).map_or_else(ClientLogin::none, ClientLogin::token),
    };
    Ok(login.allow_plaintext(allow_plaintext))
}

/// Refuses the copy of a table into itself, which would do nothing, or double its rows.
fn check_differs(args: &CpArgs, from: &CopySource) -> Result<()> {
    let is_same = from.cluster.is_none() && from.table == args.target;
    match is_same && args.version.is_none() && args.filter.is_none() {
        true => Err(Error::invalid(format!("{} would be copied into itself: give the copy another name", args.target))),
        false => Ok(()),
    }
}

/// Refuses to lose what a table keeps beside its rows.
fn check_batches(args: &CpArgs, table: &TableName, stats: &Value) -> Result<()> {
    match stats["preserve_batches"] == true && !args.rows_only {
        true => Err(Error::invalid(format!(
            "{table} preserves its batches with their app_metadata (preserve_batches), which a copy would lose: copy the rows alone with --rows-only"
        ))),
        false => Ok(()),
    }
}

/// A table that is replaced by one without keys would keep its own, and lose the order of the rows.
async fn check_keys(args: &CpArgs, target: &Client, options: &Options) -> Result<()> {
    if !matches!(args.mode, ModeArg::Replace) || options.shard_by.is_some() {
        return Ok(());
    }
    match target.action_any("get_stats", &json!({ "table": args.target.to_string() })).await {
        Ok(stats) if stats["shard_by"].as_array().is_some_and(|keys| !keys.is_empty()) => Err(Error::invalid(format!(
            "{} is sharded by {}, which a replace keeps, and the table to copy has no key columns: drop {} first, or name key columns with --shard-by",
            args.target,
            output::cell("shard_by", &stats["shard_by"]),
            args.target
        ))),
        Err(error) if error.code != Code::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The options of the copy: those of the table, unless the command line names others. An append leaves the table's as they are.
fn options(args: &CpArgs, stats: &Value) -> Options {
    let chosen = Options {
        mode: Some(args.mode.into()),
        shards: args.shards,
        shard_by: column_names(&args.shard_by),
        replicas: args.replicas,
        compression: args.compression.map(Into::into),
        ..Options::default()
    };
    if matches!(args.mode, ModeArg::Append) {
        return chosen;
    }
    let number = |key: &str| stats[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let columns = |key: &str| {
        let names = stats[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        Some(names.map(String::from).collect::<Vec<_>>()).filter(|names| !names.is_empty())
    };
    Options {
        shards: chosen.shards.or(number("shards")),
        shard_by: chosen.shard_by.or(columns("shard_by")),
        replicas: chosen.replicas.or(number("replicas")),
        compression: chosen.compression.or(codec(&stats["compression"])),
        retention_s: stats["retention_s"].as_u64(),
        // Members of earlier versions know no ttl_s.
        ttl_s: stats.get("ttl_s").map(|ttl| ttl.as_u64().unwrap_or(0)),
        stats_columns: columns("stats_columns"),
        max_endpoints: number("max_endpoints"),
        shareable_tickets: stats["shareable_tickets"].as_bool(),
        ..chosen
    }
}

fn codec(name: &Value) -> Option<Codec> {
    match name.as_str()? {
        "none" => Some(Codec::None),
        "lz4" => Some(Codec::Lz4),
        "zstd" => Some(Codec::Zstd),
        "auto" => Some(Codec::Auto),
        _ => None,
    }
}

/// Streams the rows, and checks that the copy has as many.
async fn copy(
    args: &CpArgs,
    source: &Client,
    info: FlightInfo,
    target: &Client,
    options: &Options,
) -> Result<PutOutcome> {
    let (streams, expected) = (usize::from(args.streams), u64::try_from(info.total_records).ok());
    let fetch = source.fetch(info, FetchOptions { streams, ..FetchOptions::default() })?;
    let bar = progress::rows(&args.target.to_string(), expected.unwrap_or(0));
    let sent = Arc::new(AtomicU64::new(0));
    let (schema, counter, read_bar) = (fetch.schema.clone(), sent.clone(), bar.clone());
    let batches = fetch.map_ok(move |fetched| {
        let rows = fetched.batch.num_rows() as u64;
        counter.fetch_add(rows, Ordering::Relaxed);
        read_bar.inc(rows);
        fetched.batch
    });
    let outcome = target.put_parallel(&args.target, options, schema, batches, ParallelPut { streams }).await;
    bar.finish_and_clear();
    let outcome = outcome?;
    let sent = sent.load(Ordering::Relaxed);
    check_rows(&args.target, "rows were written", outcome.rows, expected.unwrap_or(sent))?;
    if !matches!(args.mode, ModeArg::Append) {
        let read = Options { version: Some(outcome.version), ..Options::default() };
        let stored = target.info(&args.target, &read).await?.total_records;
        check_rows(&args.target, "rows are in the copy", u64::try_from(stored).unwrap_or(sent), sent)?;
    }
    Ok(outcome)
}

fn check_rows(table: &TableName, what: &str, found: u64, expected: u64) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::data_loss(format!(
            "{table}: {found} {what}, and the table to copy has {expected}: do not use the copy, and report this"
        ))),
    }
}

struct CopyReport<'a> {
    from: &'a CopySource,
    /// The version that was copied.
    version: Option<u64>,
    outcome: &'a PutOutcome,
    /// The version that the copy replaced.
    replaced: Option<&'a Value>,
}

impl CopyReport<'_> {
    fn print(&self, seconds: f64, json: bool) -> Result<()> {
        if json {
            return output::json(&self.json(seconds)?);
        }
        if let Some(replaced) = self.replaced {
            output::line(versions::replaced_text(&self.outcome.table, replaced, clock::now_ms()))?;
        }
        output::line(self.text(seconds))
    }

    fn json(&self, seconds: f64) -> Result<Value> {
        let mut value = serde_json::to_value(self.outcome).map_err(|e| Error::internal(e.to_string()))?;
        let (cluster, table) = (&self.from.cluster, self.from.table.to_string());
        value["from"] = json!({ "cluster": cluster, "table": table, "version": self.version });
        value["seconds"] = seconds.into();
        if let Some(replaced) = self.replaced {
            value["replaced"] = replaced.clone();
        }
        Ok(value)
    }

    fn text(&self, seconds: f64) -> String {
        let PutOutcome { table, version, rows, bytes, .. } = self.outcome;
        let of = self.version.map_or(String::new(), |version| format!(" version {version}"));
        let at = self.from.cluster.as_ref().map_or(String::new(), |cluster| format!(" at {cluster}"));
        let (rows, size) = (output::plural(*rows as i64, "row"), output::size(*bytes as i64));
        format!("{table}: version {version}, {rows} in {size}, copied from {}{of}{at}, {seconds:.1} s", self.from.table)
    }
}

#[cfg(test)]
mod tests;
