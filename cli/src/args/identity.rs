//! The command line of `volley user`, `token`, `grant`, `revoke` and `quota`.

use clap::{Subcommand, ValueEnum};
use volley_common::wire::catalog::Role;

use super::values::{byte_size, grantee, lifetime, prefix, principal_name, whole};
use crate::column_list::ColumnList;
use crate::secret_arguments::UserNameParser;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user. The password is prompted for twice, or read by --password-stdin.
    Add(UserAddArgs),
    /// Set a password: your own, or as an administrator that of another user.
    Passwd {
        /// The user [default: yourself].
        #[arg(value_parser = UserNameParser)]
        name: Option<String>,
        /// Read the new password from the first line of the standard input.
        #[arg(long)]
        password_stdin: bool,
        /// Revoke the user's service tokens too, as after a theft. A change of your own password does that anyway.
        #[arg(long)]
        revoke_tokens: bool,
    },
    /// Set the groups of a user; without --group it is in none.
    Groups {
        /// The user.
        #[arg(value_parser = principal_name)]
        name: String,
        /// A group. Repeatable.
        #[arg(long = "group", value_name = "GROUP", value_parser = principal_name)]
        groups: Vec<String>,
    },
    /// Remove a user with its tokens.
    Rm {
        /// The user.
        #[arg(value_parser = principal_name)]
        name: String,
        /// Do not ask. Only a terminal is asked.
        #[arg(long, short)]
        yes: bool,
    },
    /// List the users.
    Ls,
}

#[derive(Debug, clap::Args)]
pub struct UserAddArgs {
    /// The new user.
    #[arg(value_parser = UserNameParser)]
    pub name: String,
    /// A group that the user is in. Repeatable.
    #[arg(long = "group", value_name = "GROUP", value_parser = principal_name)]
    pub groups: Vec<String>,
    /// The user has no password, and logs in with tokens only.
    #[arg(long, conflicts_with = "password_stdin")]
    pub no_password: bool,
    /// Read the password from the first line of the standard input.
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token and print it, alone, on the standard output. It is shown only once.
    Create {
        #[command(flatten)]
        owner: TokenOwnerArgs,
        /// How long it is valid: a number with s, m, h, d or w, at most 3650d.
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime)]
        ttl: u64,
        /// What it is for, to tell it from others.
        #[arg(long, value_parser = principal_name)]
        name: Option<String>,
    },
    /// List tokens, without their secrets.
    Ls {
        #[command(flatten)]
        owner: TokenOwnerArgs,
    },
    /// Revoke a token.
    Revoke {
        /// The id, as `volley token ls` shows it.
        id: String,
    },
}

/// The user of tokens. These commands have a --user of their own, so that the one who logs in is named in another way.
#[derive(Debug, clap::Args)]
pub struct TokenOwnerArgs {
    /// The user whose tokens they are; of others only for administrators [default: yourself].
    #[arg(id = "owner", long = "user", value_name = "NAME", value_parser = UserNameParser)]
    pub user: Option<String>,
    /// The user to log in as: what --user before the command means.
    #[arg(long, value_name = "NAME", help_heading = "Login")]
    #[allow(dead_code, reason = "it has the id of the login's flag, and clap copies its value there")]
    login_user: Option<String>,
}

/// The roles that can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Lists and reads tables.
    Reader,
    /// Also creates tables and writes to them.
    Writer,
    /// Also drops and restores tables, and grants these three roles.
    Owner,
    /// Status, statistics and drains of the cluster, and no data; only on /.
    Operator,
    /// Everything; only on /.
    Admin,
}

impl RoleArg {
    /// The role's name in actions.
    pub fn as_str(self) -> &'static str {
        let role = match self {
            RoleArg::Reader => Role::Reader,
            RoleArg::Writer => Role::Writer,
            RoleArg::Owner => Role::Owner,
            RoleArg::Operator => Role::Operator,
            RoleArg::Admin => Role::Admin,
        };
        role.name()
    }
}

/// A role on a prefix for somebody.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The role.
    #[arg(value_enum)]
    pub role: RoleArg,
    /// Whole components of the tables' names: sales means sales and sales/eu, not sales_old. / is the whole cluster.
    #[arg(value_parser = prefix)]
    pub prefix: String,
    /// Who has the role.
    #[arg(long, value_name = "user:NAME|group:NAME", value_parser = grantee)]
    pub to: String,
}

#[derive(Debug, clap::Args)]
pub struct GrantArgs {
    #[command(flatten)]
    pub grant: RevokeArgs,
    /// Only these columns; the others are neither shown nor read. Separated by commas, or repeated; a name with a comma is
    /// quoted: '"a,b",c'.
    #[arg(long = "column", alias = "columns", value_name = "COLUMN,...")]
    pub columns: Vec<ColumnList>,
}

#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Set the quota of a prefix. What is not given is not limited.
    Set {
        /// Whole components of the tables' names; / is the whole cluster.
        #[arg(value_parser = prefix)]
        prefix: String,
        /// Bytes of the newest versions of all tables below the prefix, one copy each: a number, or one with a unit as in 10GiB.
        #[arg(long, value_name = "SIZE", value_parser = byte_size, required_unless_present = "tables")]
        bytes: Option<u64>,
        /// Number of tables below the prefix.
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
        tables: Option<u32>,
    },
    /// Remove the quota of a prefix.
    Rm {
        /// The prefix.
        #[arg(value_parser = prefix)]
        prefix: String,
    },
    /// List the quotas, and how much of them is used by the newest versions of the tables. Copies, old versions and writes that are
    /// not committed do not count.
    Ls {
        /// Only those of this prefix and below it.
        #[arg(value_parser = prefix)]
        prefix: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, CliCommand};

    fn parsed(line: &str) -> Result<Args, String> {
        Args::try_parse_from(line.split(' ')).map_err(|e| e.to_string())
    }

    #[test]
    fn user_of_a_token_is_not_the_one_who_logs_in() {
        let users = |line: &str| {
            let args = parsed(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let CliCommand::Token(TokenCommand::Create { owner, ttl, .. }) = args.command else { panic!("{line}") };
            assert_eq!(ttl, 30 * 86_400);
            (args.login.login_user, owner.user)
        };
        let of = |login: Option<&str>, owner: Option<&str>| (login.map(String::from), owner.map(String::from));
        assert_eq!(users("volley token create"), of(None, None));
        assert_eq!(users("volley token create --user bob"), of(None, Some("bob")));
        assert_eq!(users("volley --user root token create --user bob"), of(Some("root"), Some("bob")));
        assert_eq!(users("volley token create --user bob --login-user root"), of(Some("root"), Some("bob")));
        assert_eq!(users("volley --user root token create"), of(Some("root"), None));
    }

    #[test]
    fn user_who_logs_in_is_named_before_or_after_commands() {
        for line in ["volley --user root ls", "volley ls --user root", "volley user add ana --user root"] {
            assert_eq!(parsed(line).map(|args| args.login.login_user), Ok(Some("root".into())), "{line}");
        }
        let issue = parsed("volley certs issue d --user ana").map(|args| args.login.login_user);
        assert_eq!(issue, Ok(None), "a certificate's user does not log in");
    }

    #[test]
    fn grants_name_role_prefix_and_grantee() {
        let args =
            parsed("volley grant reader sales/ --to group:a --column x --columns y,\"z,z\"").map(|args| args.command);
        let Ok(CliCommand::Grant(GrantArgs { grant, columns })) = args else { panic!("no grant") };
        assert_eq!((grant.role.as_str(), grant.prefix.as_str(), grant.to.as_str()), ("reader", "sales", "group:a"));
        let columns = crate::column_list::column_names(&columns);
        assert_eq!(columns, Some(vec!["x".into(), "y".into(), "z,z".into()]));
    }

    #[test]
    fn invalid_command_line_names_the_argument() {
        let error = |line: &str| parsed(line).expect_err(line);
        assert!(error("volley user add").contains("<NAME>"));
        assert!(error("volley user add a --no-password --password-stdin").contains("--password-stdin"));
        for line in [
            "volley user add a --password s3cret",
            "volley ls --password=s3cret",
            "volley --password -s3cret ls",
            "volley user add a:s3cret",
            "volley token create --user a:s3cret",
        ] {
            let error = error(line);
            assert!(error.contains("VOLLEY_PASSWORD") && !error.contains("s3cret"), "{line}: {error}");
        }
        assert!(parsed("volley ls --password").is_ok_and(|args| args.login.password.is_some()), "the login refuses it");
        assert!(error("volley token create --ttl 30").contains("--ttl"));
        assert!(error("volley token create --ttl 3651d").contains("at most 3650d"));
        assert!(error("volley grant king / --to user:a").contains("king"));
        assert!(error("volley grant reader / --to a").contains("group:NAME"));
        assert!(error("volley grant reader sales").contains("--to"));
        assert!(error("volley revoke reader /a --to user:a").contains("/ is the whole cluster"));
        assert!(error("volley quota set sales").contains("--bytes"));
        assert!(error("volley quota set sales --bytes ten").contains("GiB"));
        assert!(error("volley quota set sales --tables -1").contains("whole number"));
    }
}
