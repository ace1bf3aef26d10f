//! Tests of the file of contexts, and of who may read it.

use super::*;

fn store() -> (tempfile::TempDir, ContextStore) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("config/volley");
    (home, ContextStore { folder })
}

fn context(address: &str) -> ClusterContext {
    ClusterContext { cluster: vec![address.into()], ..ClusterContext::default() }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn contexts_are_read_as_they_were_written() {
    let (_home, store) = store();
    assert_eq!(store.read().unwrap(), ContextFile::default());
    let prod = ClusterContext {
        cluster: vec!["grpc+tls://a:1".into(), "grpc+tls://b:1".into()],
        tls_ca: Some("/etc/ca.crt".into()),
        token: Some(Secret::new("volley_1_secret")),
        token_id: Some("1".into()),
        token_expires_ms: Some(1_700_000_000_000),
        user: Some("ana".into()),
        plaintext_login: true,
        ..ClusterContext::default()
    };
    let written = store.update(|file| {
        file.current = Some("prod".into());
        file.contexts.insert("prod".into(), prod.clone());
        file.contexts.insert("v1.test".into(), context("grpc://c:1"));
        Ok(file.clone())
    });
    let read = store.read().unwrap();
    assert_eq!(read, written.unwrap());
    assert_eq!(read.context("prod").unwrap(), &prod);
    assert!(!format!("{read:?}").contains("secret"), "{read:?}");
    let text = fs::read_to_string(store.path()).unwrap();
    for line in ["current = \"prod\"", "[contexts.prod]", "token = \"volley_1_secret\"", "plaintext_login = true"] {
        assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
    }
    assert_eq!((mode(&store.path()), mode(&store.folder)), (0o600, 0o700));
}

#[test]
fn failed_change_leaves_the_file_as_it_was() {
    let (_home, store) = store();
    let add = |file: &mut ContextFile| file.contexts.insert("a".into(), context("grpc://a:1"));
    store.update(|file| Ok(add(file))).unwrap();
    let refused: Result<()> = store.update(|file| {
        file.contexts.clear();
        Err(Error::invalid("no"))
    });
    assert_eq!(refused, Err(Error::invalid("no")));
    assert_eq!(store.read().unwrap().contexts.len(), 1);
    assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn file_that_others_can_read_is_refused() {
    let (_home, store) = store();
    store.update(|_| Ok(())).unwrap();
    for bits in [0o640, 0o604, 0o620] {
        fs::set_permissions(store.path(), Permissions::from_mode(bits)).unwrap();
        let error = store.read().unwrap_err().message;
        assert!(error.contains(&format!("mode {bits:04o}")) && error.contains("chmod 600"), "{error}");
        assert!(store.update(|_| Ok(())).is_err(), "{bits:o}");
    }
    fs::set_permissions(store.path(), Permissions::from_mode(0o400)).unwrap();
    assert!(store.read().is_ok());
}

#[test]
fn folder_that_others_can_read_is_closed() {
    let (_home, store) = store();
    fs::create_dir_all(&store.folder).unwrap();
    fs::set_permissions(&store.folder, Permissions::from_mode(0o755)).unwrap();
    store.update(|_| Ok(())).unwrap();
    assert_eq!(mode(&store.folder), 0o700);
}

#[test]
fn link_to_the_file_stays_a_link() {
    let (home, store) = store();
    fs::create_dir_all(&store.folder).unwrap();
    let target = home.path().join("dotfiles.toml");
    fs::write(&target, "").unwrap();
    fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&target, store.path()).unwrap();
    store.update(|file| Ok(file.current.replace("a".into()))).unwrap();
    assert!(fs::symlink_metadata(store.path()).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("current = \"a\""));
}

#[test]
fn bad_file_is_named_by_line_without_its_content() {
    let (_home, store) = store();
    store.update(|_| Ok(())).unwrap();
    for text in [
        "current = \"a\"\n[contexts.a]\ntoken = volley_secret\n",
        "\n\n[contexts.a]\ncluster = []\nnext = \"volley_secret\"\n",
    ] {
        fs::write(store.path(), text).unwrap();
        let error = store.read().unwrap_err().message;
        assert!(error.contains("contexts.toml, line ") && !error.contains("secret"), "{error}");
    }
    fs::write(store.path(), "[contexts.a]\ncluster = []\nnext = 1\n").unwrap();
    assert!(store.read().unwrap_err().message.contains("`next`"), "what a later version wrote is not lost");
}

#[test]
fn folder_comes_from_absolute_paths_only() {
    let found = |config: &str, home: &str| {
        let variable = |name: &str| Some(OsString::from(if name == "HOME" { home } else { config }));
        ContextStore::found_by(variable).map(|store| store.path().display().to_string())
    };
    assert_eq!(found("/c", "/h").as_deref(), Some("/c/volley/contexts.toml"));
    assert_eq!(found("c", "/h").as_deref(), Some("/h/.config/volley/contexts.toml"));
    assert_eq!(found("", ""), None);
}

#[test]
fn missing_context_lists_the_others() {
    let mut file = ContextFile::default();
    assert!(file.context("x").unwrap_err().message.contains("no context yet"));
    file.contexts.insert("a".into(), context("grpc://a:1"));
    assert!(file.context("x").unwrap_err().message.contains("there are a;"));
}

#[test]
fn names_are_plain_words() {
    for name in ["prod", "v1.test_2-x"] {
        assert_eq!(context_name(name).as_deref(), Ok(name));
    }
    for name in ["", "-a", "a b", "a/b", "ä", &"a".repeat(65)] {
        assert!(context_name(name).is_err(), "{name}");
    }
}
