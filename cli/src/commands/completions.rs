//! `volley completions`: scripts by which shells complete commands, flags and the names of tables.
//!
//! clap writes the scripts; what is added asks `volley __complete-tables` for names where an argument is a table.

use std::any::TypeId;
use std::io::Write;
use std::time::Duration;

use arrow_flight::FlightInfo;
use clap::{Arg, Command, CommandFactory, Parser, ValueHint};
use clap_complete::{Shell, generate};
use volley_client::Client;
use volley_common::escape::is_invisible;
use volley_common::{Result, TableName};

use super::ls;
use crate::args::Args;
use crate::client_login_args::LoginChoice;
use crate::cluster_choice::ClusterChoice;
use crate::output;

/// How long a shell waits for names.
const LIMIT: Duration = Duration::from_millis(300);
/// More names are no help.
const MAX_NAMES: usize = 500;
/// A hint of clap that no argument of `volley` has, for arguments that are tables.
const TABLE_HINT: ValueHint = ValueHint::EmailAddress;
/// What zsh calls for that hint.
const ZSH_HINT: &str = "_email_addresses";
/// The flags by which a cluster is reached, which count for the names of its tables too.
const CONNECTION_FLAGS: [&str; 8] =
    ["--cluster", "--context", "--tls-ca", "--tls-cert", "--tls-key", "--tls-server-name", "--token-file", "--user"];

/// Prints the script of a shell.
///
/// # Errors
/// UNAVAILABLE: standard output cannot be written.
pub fn run(shell: Shell) -> Result<()> {
    output::exact_line(script(shell).trim_end())
}

fn script(shell: Shell) -> String {
    let mut command = shown(Args::command());
    let (names, flags) = (commands_of_tables(&command), flags_of_tables(&command));
    let mut script = Vec::new();
    generate(shell, &mut command, "volley", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let names = names.join("|");
    match shell {
        Shell::Bash => script + &BASH.replace("COMMANDS", &names).replace("FLAGS", &flags.join("|")),
        Shell::Zsh => with_zsh_function(&script.replace(ZSH_HINT, "_volley_tables")),
        Shell::Fish => script + &fish(&names, &flags),
        Shell::PowerShell => script.replace(
            "    $completions.Where{",
            &format!("{}    $completions.Where{{", POWERSHELL.replace("COMMANDS", &names)),
        ),
        _ => script,
    }
}

/// The command line without what is hidden, with [`TABLE_HINT`] at arguments that are tables.
fn shown(command: Command) -> Command {
    let hinted = |arg: Arg| if is_table(&arg) { arg.value_hint(TABLE_HINT) } else { arg };
    let args: Vec<Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().map(hinted).collect();
    let below: Vec<Command> =
        command.get_subcommands().filter(|one| !one.is_hide_set()).cloned().map(|one| one.mut_args(hinted)).collect();
    Command::new("volley").args(args).subcommands(below)
}

fn is_table(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<TableName>()
}

/// The commands with an argument that is a table, without a flag.
fn commands_of_tables(command: &Command) -> Vec<String> {
    let has_table = |one: &&Command| one.get_positionals().any(is_table) || one.get_name() == "ls";
    let names = command.get_subcommands().filter(has_table).flat_map(Command::get_name_and_visible_aliases);
    names.map(String::from).collect()
}

/// The flags whose value is a table: `--table`.
fn flags_of_tables(command: &Command) -> Vec<String> {
    let flags = command.get_subcommands().flat_map(Command::get_opts).filter(|flag| is_table(flag));
    let mut flags: Vec<String> = flags.filter_map(Arg::get_long).map(|long| format!("--{long}")).collect();
    flags.sort_unstable();
    flags.dedup();
    flags
}

/// After clap's function of bash, which completes what is no table.
const BASH: &str = r#"
_volley_or_tables() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" word is_table="" name
    _volley "$@"
    [[ "$cur" == -* ]] && return 0
    case "$prev" in
        FLAGS) is_table=1 ;;
        -*) ;;
        *)
            for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
                case "$word" in COMMANDS) is_table=1; break ;; esac
            done
            ;;
    esac
    [[ -n "$is_table" ]] || return 0
    while IFS= read -r name; do
        COMPREPLY+=("$name")
    done < <("${COMP_WORDS[0]}" __complete-tables --prefix="$cur" -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
    return 0
}
complete -F _volley_or_tables -o bashdefault -o default volley
"#;

/// Before the end of clap's script of zsh, which calls its function.
const ZSH: &str = r#"(( $+functions[_volley_tables] )) ||
_volley_tables() {
    local -a tables
    tables=(${(f)"$(volley __complete-tables --prefix="$PREFIX" -- "${words[@]}" 2>/dev/null)"})
    compadd -a tables
}

"#;

fn with_zsh_function(script: &str) -> String {
    let end = "if [ \"$funcstack[1]\" = \"_volley\" ]; then";
    script.replace(end, &format!("{ZSH}{end}"))
}

/// Names in fish: of commands, and of values of flags.
fn fish(names: &str, flags: &[String]) -> String {
    let tables = "(volley __complete-tables --prefix=(commandline -ct) -- (commandline -opc) 2>/dev/null)";
    let mut script = String::new();
    for name in names.split('|') {
        script += &format!("complete -c volley -n \"__fish_volley_using_subcommand {name}\" -f -a \"{tables}\"\n");
    }
    for flag in flags.iter().map(|flag| flag.trim_start_matches('-')) {
        script += &format!("complete -c volley -l {flag} -x -a \"{tables}\"\n");
    }
    script
}

/// Before clap's script of PowerShell sorts what it has found.
const POWERSHELL: &str = r#"    if ($command -match '^volley;(COMMANDS)$' -and -not $wordToComplete.StartsWith('-')) {
        $words = @($commandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
        $tables = @(volley __complete-tables "--prefix=$wordToComplete" '--' @words 2>$null)
        $completions += @($tables | ForEach-Object { [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, $_) })
    }

"#;

/// Prints the names of tables that begin with `prefix`, one a line, and ends the process: whatever fails, or takes longer than
/// 300 ms, gives no names and no error. `words` are those of the command line that is completed.
pub async fn tables(prefix: &str, words: &[String]) -> ! {
    if let Ok(Some(names)) = tokio::time::timeout(LIMIT, names(prefix, words)).await {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        let mut out = std::io::stdout().lock();
        // A shell that has gone away needs no names.
        let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
    }
    // A thread that resolves a host name may take longer.
    std::process::exit(0)
}

async fn names(prefix: &str, words: &[String]) -> Option<Vec<String>> {
    let line = ["volley".to_string()].into_iter().chain(connection_flags(words)).chain(["ls".to_string()]);
    let args = Args::try_parse_from(line).ok()?;
    let choice = ClusterChoice::of(&args).ok()?;
    let mut login = args.login;
    login.context = choice.login;
    // A shell asks for no password.
    if matches!(login.chosen(&choice.cluster).ok()?, LoginChoice::User(_, None)) {
        return None;
    }
    let login = login.login(&choice.cluster, &choice.tls).await.ok()?;
    let client = Client::connect_as(&choice.cluster, choice.tls, login).await.ok()?;
    let tables = client.list(prefix).await.ok()?;
    Some(shell_names(&tables))
}

/// The flags of a command line that name a cluster and a login, with their values.
fn connection_flags(words: &[String]) -> Vec<String> {
    let mut flags = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let flag = word.split('=').next().unwrap_or_default();
        if !CONNECTION_FLAGS.contains(&flag) {
            continue;
        }
        match flag == word {
            true => flags.extend(words.next().map(|value| format!("{flag}={value}"))),
            false => flags.push(word.clone()),
        }
    }
    flags
}

/// The names of tables that mean nothing else to any shell.
fn shell_names(tables: &[FlightInfo]) -> Vec<String> {
    tables.iter().map(ls::name).filter(|name| is_plain(name)).take(MAX_NAMES).collect()
}

/// Whether a shell may insert a name as it is: somebody may have named a table `$(reboot)`, and bash would run that.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| (c.is_alphanumeric() || "/._-+=:".contains(c)) && !is_invisible(c);
    !name.starts_with(['-', '=']) && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn scripts_ask_for_tables_where_an_argument_is_one() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            let asks = script.contains("__complete-tables");
            assert_eq!(asks, *shell != Shell::Elvish, "{shell}");
            for word in ["rotate-keys", "--shard-by"] {
                let word = if *shell == Shell::Fish { word.trim_start_matches('-') } else { word };
                assert!(script.contains(word), "{shell}: {word}");
            }
            for word in [ZSH_HINT, "COMMANDS", "FLAGS"] {
                assert!(!script.contains(word), "{shell}: {word}");
            }
        }
        assert!(script(Shell::Zsh).contains(":_volley_tables"));
    }

    #[test]
    fn commands_of_tables_are_found_by_their_arguments() {
        let command = shown(Args::command());
        let names = commands_of_tables(&command);
        for name in ["get", "info", "explain", "drop", "restore", "head", "cp", "diff", "ls", "tables"] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        assert!(!names.iter().any(|name| name == "put"));
        assert!(flags_of_tables(&command).contains(&"--table".to_string()));
    }

    #[test]
    fn names_that_a_shell_would_run_are_left_out() {
        for name in ["sales/orders-2.v1", "größe", "a=b", "a:b"] {
            assert!(is_plain(name), "{name}");
        }
        for name in
            ["$(reboot)", "t;reboot", "`id`", "a&b", "a|b", "~", "a'b", "a\"b", "a b", "{a,b}", "*", "!1", "-rf", "#t"]
        {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn flags_of_the_connection_are_kept() {
        let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
        let flags = connection_flags(&words("--context prod get --limit 3 --tls-ca=ca.crt --cluster"));
        assert_eq!(flags, ["--context=prod", "--tls-ca=ca.crt"]);
    }
}
