//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use volley_common::TableName;

use self::certs::CertsCommand;
use self::contexts::{ContextCommand, LoginArgs};
use self::identity::{GrantArgs, QuotaCommand, RevokeArgs, TokenCommand, UserCommand};
use self::sql::SqlArgs;
use self::table_commands::{BenchArgs, TableCommand};
use self::top::TopArgs;
use self::values::{grantee, prefix, whole};
use crate::client_login_args::ClientLoginArgs;
use crate::client_tls_args::ClientTlsArgs;
use crate::colours::ColourChoice;
use crate::contexts::context_name;

pub use self::tables::{GetArgs, ModeArg, PutArgs};

pub mod certs;
pub mod contexts;
pub mod identity;
pub mod sql;
pub mod table_commands;
pub mod tables;
pub mod top;
mod values;

/// Arrow tables in a cluster: put with one call, fetched in parallel.
#[derive(Debug, Parser)]
#[command(name = "volley", version, about)]
pub struct Args {
    /// The address of a member of the cluster, or several separated by commas: grpc://HOST:PORT, or grpc+tls://HOST:PORT
    /// [env: VOLLEY_CLUSTER] [default: that of the current context, else grpc://127.0.0.1:8815].
    #[arg(long, global = true)]
    pub cluster: Option<String>,
    /// The context whose cluster and login are used, see `volley context` [env: VOLLEY_CONTEXT].
    #[arg(long, global = true, value_name = "NAME", value_parser = context_name)]
    pub context: Option<String>,
    #[command(flatten)]
    pub tls: ClientTlsArgs,
    #[command(flatten)]
    pub login: ClientLoginArgs,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours in what is for people. auto: at a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub color: ColourChoice,
    #[command(subcommand)]
    pub command: CliCommand,
}

#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Run a whole cluster in this process, for development.
    Dev(DevArgs),
    /// Put TPC-H data into a cluster of three nodes, fetch it in parallel, stop a node, and fetch it again.
    Demo(DemoArgs),
    /// Put files into a table: Parquet, CSV, Arrow IPC, JSON lines. The rows replace those of the table, unless --mode
    /// says otherwise.
    Put(PutArgs),
    /// Fetch a table into a file, or show its first rows.
    Get(GetArgs),
    /// Run a statement of SQL and show or write its rows; without one, on a terminal, ask for statements.
    Sql(SqlArgs),
    /// List the tables.
    #[command(visible_alias = "tables")]
    Ls {
        /// Only tables whose names begin with this.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Show a table's schema, key, shards, size and endpoints, or its versions.
    Info {
        /// The table.
        name: TableName,
        /// List the readable versions.
        #[arg(long)]
        versions: bool,
    },
    /// Show where a table's shards are, where they should be, and why they are not there yet: the shards with missing or
    /// misplaced copies, or, if there is none, the first 50.
    Explain {
        /// The table.
        name: TableName,
        /// Show all shards, however many, also beside some with missing or misplaced copies.
        #[arg(long)]
        all: bool,
    },
    /// Drop a table. `volley restore` brings it back, until its retention is over.
    Drop {
        /// The table.
        name: TableName,
        /// Do not ask. Only a terminal is asked, and only if the table has rows.
        #[arg(long, short)]
        yes: bool,
    },
    /// Bring back a dropped table, or make an old version of a table the newest.
    Restore {
        /// The table.
        name: TableName,
        /// The version whose rows the table gets again: `volley info NAME --versions` lists them. Without it the drop
        /// of the table is undone.
        #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
        version: Option<u64>,
    },
    #[command(flatten)]
    Tables(TableCommand),
    /// Put random rows into temporary tables and get them, and show how fast that was. The tables are dropped at the end.
    Bench(BenchArgs),
    /// Watch the cluster at the terminal: nodes and tables with their rates, sorted by any column, and the details of each.
    Top(TopArgs),
    /// Show the state of the cluster, as `volley cluster status`.
    Status,
    /// Show the cluster's statistics.
    Stats,
    /// Show the state of the cluster, or replace its keys.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// List the nodes.
    Nodes,
    /// Connect to every address that clients on this machine are sent to, and report problems with their remedies.
    ///
    /// Exit code 0: no problem; 3: at least one problem; 1: the cluster does not answer.
    Doctor,
    /// Check whether the server on this machine is ready. Exit code 0: ready; 1: not ready.
    Health {
        /// The server's HTTP port, HOST:PORT, or https://HOST:PORT; by TLS too if a --tls flag is given [default: VOLLEY_HTTP_LISTEN, else 127.0.0.1:8835 or 8836].
        #[arg(long)]
        http: Option<String>,
    },
    /// Copy a node's parts to other nodes and wait until it can leave. Reads and writes continue.
    Drain(DrainArgs),
    /// Remove a drained or unreachable node from the cluster. Rejected while data would be lost.
    Remove {
        /// The node's id, at least 4 of its first digits, or its HOST:PORT.
        node: String,
        /// Do not ask. Only a terminal is asked, and only if the node is unreachable: it may be alive.
        #[arg(long, short)]
        yes: bool,
    },
    /// List the coordinators, or add or remove one while they run.
    Coordinators {
        #[command(subcommand)]
        change: Option<CoordinatorChange>,
    },
    /// Make an authority and certificates for TLS, and show certificates.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Add, change, remove and list users, who log in with a password or with tokens.
    #[command(subcommand)]
    User(UserCommand),
    /// Create, list and revoke service tokens, by which programs act as a user.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Grant a role on all tables below a prefix to a user or group.
    Grant(GrantArgs),
    /// Revoke what `volley grant` granted.
    Revoke(RevokeArgs),
    /// List the grants.
    Grants {
        /// Only those that apply to tables of this prefix.
        #[arg(value_parser = prefix)]
        prefix: Option<String>,
        /// Only those that give a user or group rights: of a user also those to its groups. Of others for administrators.
        #[arg(long, value_name = "user:NAME|group:NAME", value_parser = grantee)]
        of: Option<String>,
    },
    /// Show who you are for the cluster, and which rights you have.
    Whoami,
    /// Limit the bytes and tables below a prefix.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Check a login at a cluster, and store both as a context that commands use from then on. No password is stored: a login
    /// with one creates a token.
    Login(LoginArgs),
    /// Revoke the token that `volley login` created, and remove the login from the context.
    Logout,
    /// List, select, show and remove contexts: clusters with their logins, which `volley login` stores.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Print the script by which a shell completes commands, flags and the names of tables.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write a page of man for each command into a folder.
    Man {
        /// The folder; it is created if it does not exist.
        dir: PathBuf,
    },
    /// Print the tables whose names begin with a text, for the scripts of `volley completions`.
    #[command(name = "__complete-tables", hide = true)]
    CompleteTables {
        /// How the names begin.
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        prefix: String,
        /// The words of the command line that is completed.
        words: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the members and whether every part has its copies: green (all), yellow (fewer), red (a part cannot be read,
    /// or there is no leader). Exit code 0: green or yellow; 3: red; 1: the cluster does not answer.
    Status,
    /// Replace the key that signs sessions, and if requested that of tickets. Sessions and tickets stay valid for their
    /// time, unless they are revoked.
    RotateKeys(RotateKeysArgs),
}

#[derive(Debug, clap::Args)]
pub struct RotateKeysArgs {
    /// End every session at once, as after a theft of keys: everybody logs in again, with a password or token.
    #[arg(long)]
    pub revoke_sessions: bool,
    /// Replace the key that signs tickets and calls between members, too. The new one signs in a minute.
    #[arg(long)]
    pub ticket_key: bool,
    /// Replace it, and end the tickets of the former key within four minutes, as after a theft: readers plan again.
    #[arg(long)]
    pub revoke_tickets: bool,
}

#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The node's id, at least 4 of its first digits, or its HOST:PORT.
    pub node: String,
    /// Cancel the drain: the node accepts writes again.
    #[arg(long, conflicts_with = "no_wait")]
    pub cancel: bool,
    /// Start the drain and return.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum CoordinatorChange {
    /// Add a coordinator that was started to join.
    Add {
        /// The coordinator's id and its peer port.
        #[arg(value_name = "ID=HOST:PORT", value_parser = new_coordinator)]
        coordinator: NewCoordinator,
    },
    /// Remove a coordinator. A majority of the others must be running.
    Remove {
        /// The coordinator's id.
        #[arg(value_parser = whole::<u64>)]
        id: u64,
    },
}

/// A coordinator to add.
#[derive(Clone, Debug)]
pub struct NewCoordinator {
    /// The coordinator's id.
    pub id: u64,
    /// HOST:PORT of its peer port.
    pub peer: String,
}

#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// Number of coordinators: 1, 3 or 5.
    #[arg(long, default_value_t = 1, value_parser = odd)]
    pub coordinators: u16,
    /// The Flight port of the first coordinator; 0 chooses a free one.
    #[arg(long, default_value_t = 8815)]
    pub port: u16,
    /// Keep the tables in this folder. Without it they are in a temporary folder that is removed at the end.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// TLS for clients and between members, with certificates in the folder `tls` of the data folder.
    #[arg(long)]
    pub tls: bool,
}

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// TPC-H scale factor: 1 is 6 million rows.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub scale: f64,
    /// Keep the cluster running until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
}

fn new_coordinator(text: &str) -> Result<NewCoordinator, String> {
    let pair = text.split_once('=').and_then(|(id, peer)| Some((id.parse().ok()?, peer)));
    match pair {
        Some((id, peer)) if peer.contains(':') => Ok(NewCoordinator { id, peer: peer.to_string() }),
        _ => Err("must be ID=HOST:PORT, as in 4=10.0.0.4:8825".into()),
    }
}

fn odd(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n @ (1 | 3 | 5)) => Ok(n),
        _ => Err("must be 1, 3 or 5, so that a majority exists".into()),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(n) if (0.001..=1000.0).contains(&n) => Ok(n),
        _ => Err("must be a number from 0.001 to 1000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn error(line: &str) -> String {
        Args::try_parse_from(line.split(' ')).expect_err(line).to_string()
    }

    #[test]
    fn command_definitions_are_valid() {
        Args::command().debug_assert();
    }

    #[test]
    fn invalid_command_line_names_the_argument() {
        assert!(error("volley put --table t").contains("<FILE>"));
        assert!(error("volley put a.csv").contains("--table"));
        assert!(error("volley put a.csv --table a//b").contains("empty component"));
        assert!(error("volley put a.csv --table t --mode upsert").contains("--mode"));
        assert!(error("volley put a.csv --table t --type zip").contains("COLUMN=TYPE"));
        assert!(error("volley put a.csv --table t --type zip=zip").contains("\"zip\" is no type"));
        assert!(error("volley get").contains("<NAME>"));
        assert!(error("volley sql SHOW -f a.sql").contains("--file"));
        assert!(error("volley sql SHOW --rows 9 -o a.csv").contains("--rows"));
        assert!(error("volley dev --coordinators 2").contains("1, 3 or 5"));
        assert!(error("volley dev --nodes 0").contains("--nodes"));
        assert!(error("volley demo --scale 0").contains("--scale"));
        assert!(error("volley frobnicate").contains("frobnicate"));
        assert!(error("volley drain").contains("<NODE>"));
        assert!(error("volley cluster rotate-keys --revoke").contains("--revoke"));
        assert!(error("volley drain abcd --cancel --no-wait").contains("--no-wait"));
        assert!(error("volley coordinators add h:8825").contains("ID=HOST:PORT"));
        assert!(error("volley coordinators remove four").contains("four"));
        for line in
            ["put a.csv --table t --shards", "put a.csv --table t --retention", "get t --limit", "restore t --version"]
        {
            for value in ["-1", "many", "99999999999999999999"] {
                let error = error(&format!("volley {line} {value}"));
                assert!(error.contains(value) && error.contains("whole number"), "{error}");
                assert!(!error.contains("invalid digit") && !error.contains("-- -1"), "{error}");
            }
        }
    }

    #[test]
    fn column_lists_are_split_at_commas() {
        let args = Args::try_parse_from(["volley", "put", "a", "b", "--table", "t", "--shard-by", "x,y"]).unwrap();
        let CliCommand::Put(put) = args.command else { panic!("not put") };
        assert_eq!(crate::column_list::column_names(&put.shard_by), Some(vec!["x".into(), "y".into()]));
        assert_eq!(put.files.len(), 2);
    }
}
