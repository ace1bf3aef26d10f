//! Tests `volley login`, `context` and `logout` at a cluster without users; tests/python/test_contexts.py has one with users.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{DevProcess, one_error, volley};

/// The settings of a user.
struct UserSettings {
    folder: TempDir,
}

impl UserSettings {
    fn new() -> Self {
        UserSettings { folder: TempDir::new().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("volley/contexts.toml")
    }

    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = volley(args);
        command.env("XDG_CONFIG_HOME", self.folder.path()).envs(variables.iter().copied());
        command.output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args, &[]);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    fn error(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        one_error(self.run(args, variables), args)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn commands_use_the_context_of_a_login() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let settings = UserSettings::new();
    let login = settings.ok(&["login", "--context", "here", "--cluster", &dev.address]);
    let text = format!("here is the current context: {}, which has no users, as nobody\n", dev.address);
    assert_eq!(login, text);
    assert_eq!((mode(&settings.file()), mode(settings.file().parent().unwrap())), (0o600, 0o700));
    assert_eq!(settings.json(&["ls"]), serde_json::json!([]));

    // A second one, of the same cluster.
    assert_eq!(settings.json(&["login", "--context", "again", "--cluster", &dev.address])["open"], true);
    assert_eq!(settings.json(&["context", "use", "here"])["current"], true);
    let contexts = settings.json(&["context", "ls"]);
    let names: Vec<_> =
        contexts.as_array().unwrap().iter().map(|one| (one["context"].as_str(), one["current"].as_bool())).collect();
    assert_eq!(names, [(Some("again"), Some(false)), (Some("here"), Some(true))]);
    assert_eq!(contexts[0]["cluster"], serde_json::json!([dev.address]));
    assert!(settings.ok(&["context", "show"]).contains(&dev.address));
    assert!(settings.ok(&["ls", "--context", "again"]).contains("no tables"));
    assert_eq!(settings.ok(&["logout"]), "logged out of here\n");
    assert_eq!(settings.ok(&["context", "remove", "again"]), "removed the context again\n");

    let error = settings.error(&["ls"], &[("VOLLEY_CONTEXT", "again")]);
    assert!(error.contains("no context \"again\": there are here;"), "{error}");
    let error = settings.error(&["ls"], &[("VOLLEY_CONTEXT", "here"), ("VOLLEY_CLUSTER", &dev.address)]);
    assert!(error.contains("VOLLEY_CLUSTER and VOLLEY_CONTEXT are both set"), "{error}");
    let error = settings.error(&["ls", "--context", "here", "--cluster", &dev.address], &[]);
    assert!(error.contains("--cluster and --context"), "{error}");
    let error = settings.error(&["logout", "--cluster", &dev.address], &[]);
    assert!(error.contains("--context NAME"), "{error}");

    fs::set_permissions(settings.file(), Permissions::from_mode(0o644)).unwrap();
    let error = settings.error(&["ls"], &[]);
    assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
    // A cluster that is named needs no context.
    let ls = ["ls", "--cluster", &dev.address];
    assert!(settings.ok(&ls).contains("no tables"));
    dev.stop();
}

#[test]
fn failed_login_stores_nothing() {
    let settings = UserSettings::new();
    let error = settings.error(&["login", "--context", "x", "--cluster", "127.0.0.1:1"], &[]);
    assert!(error.contains("127.0.0.1:1") && !settings.file().exists(), "{error}");
    assert!(settings.ok(&["context", "ls"]).contains("no contexts"));
    assert!(settings.error(&["context", "use", "x"], &[]).contains("no context yet"));
    assert!(!settings.file().exists());
    let output = settings.run(&["context", "use", "a/b"], &[]);
    assert_eq!(output.status.code(), Some(2), "the name of a context is checked with the command line");
}
