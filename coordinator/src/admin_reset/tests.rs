//! Resets of an administrator by a file: whom it makes administrator, and that it does so once.
#![allow(clippy::unwrap_used)]

use tempfile::TempDir;
use volley_common::wire::catalog::{RemoveUser, Role};

use super::*;
use crate::service::identity::PasswordChange;
use crate::service::testing::{ROOT_PASSWORD, ServicesFixture};

/// A cluster with users, and the file of a coordinator.
struct ResetFixture {
    users: ServicesFixture,
    dir: TempDir,
}

impl ResetFixture {
    async fn new(content: &str) -> Self {
        let fixture = ResetFixture { users: ServicesFixture::closed().await, dir: TempDir::new().unwrap() };
        fixture.write(content);
        fixture
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("admin")
    }

    fn write(&self, content: &str) {
        std::fs::write(self.path(), content).unwrap();
    }

    /// The file as a coordinator finds it that has just started.
    fn file(&self) -> AdminResetFile {
        AdminResetFile::new(self.users.services.raft.clone(), self.path(), AuditLog::off())
    }

    async fn start(&self) -> Result<ResetOutcome> {
        let outcome = self.file().apply().await;
        self.users.follow_catalog();
        outcome
    }

    async fn login(&self, user: &str, password: &str) -> Result<Secret> {
        // From another address each time: failures slow down logins.
        let address = format!("192.0.2.{}", rand::random_range(1..=250));
        let issued = self.users.services.login.login(user, &Secret::new(password), &address).await?;
        self.users.follow_catalog();
        Ok(issued.token)
    }

    fn accepts(&self, token: &Secret) -> bool {
        self.users.services.authenticator.access_of_token(token, None).is_ok()
    }
}

fn applied(user: &str) -> Result<ResetOutcome> {
    Ok(ResetOutcome::Applied { user: user.into() })
}

fn was_applied(outcome: Result<ResetOutcome>, user: &str) -> bool {
    matches!(outcome.unwrap(), ResetOutcome::AppliedBefore { user: of, at_ms } if of == user && at_ms > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn file_gives_an_administrator_a_new_password() {
    let fixture = ResetFixture::new("root:the new password\n").await;
    let before = fixture.login("root", ROOT_PASSWORD).await.unwrap();
    assert_eq!(fixture.start().await, applied("root"));
    assert!(!fixture.accepts(&before), "sessions of before have ended");
    let after = fixture.login("root", "the new password").await.unwrap();
    assert!(fixture.accepts(&after));
    assert_eq!(fixture.login("root", ROOT_PASSWORD).await.unwrap_err().code, Code::Unauthenticated);
    fixture.users.access("root").require_cluster(Role::Admin).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn file_is_applied_once_whatever_happens_to_the_user() {
    let fixture = ResetFixture::new("rescue:the new password").await;
    assert_eq!(fixture.start().await, applied("rescue"));
    fixture.users.access("rescue").require_cluster(Role::Admin).unwrap();
    assert!(was_applied(fixture.start().await, "rescue"), "a restart");
    let root = fixture.users.access("root");
    let (user, password) = ("rescue".to_string(), Secret::new("a later password"));
    let change = PasswordChange { user, password, old_password: None, revoke_tokens: None };
    fixture.users.services.identity.set_password(&root, change).await.unwrap();
    assert!(was_applied(fixture.start().await, "rescue"), "its password was changed");
    fixture.login("rescue", "a later password").await.unwrap();
    fixture.users.apply(Op::RemoveUser(RemoveUser { name: "rescue".into() })).await;
    assert!(was_applied(fixture.start().await, "rescue"), "it was removed");
    assert!(fixture.users.services.raft.view().user("rescue").is_none());
    fixture.write("rescue:yet another one");
    assert_eq!(fixture.start().await, applied("rescue"));
    fixture.write("rescue:the new password");
    assert!(was_applied(fixture.start().await, "rescue"), "of an old copy of the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_with_unknown_outcome_is_not_repeated() {
    let fixture = ResetFixture::new("root:the new password").await;
    let file = fixture.file();
    assert_eq!(file.apply().await, applied("root"));
    assert_eq!(file.apply().await, applied("root"));
    assert_eq!(fixture.users.services.raft.view().administrator_resets().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_file_changes_nothing_and_is_not_shown() {
    let fixture = ResetFixture::new("hunter2").await;
    for content in ["hunter2", "root:hunter2", "root:hunter2hunter2\nroot:hunter2"] {
        fixture.write(content);
        let error = fixture.start().await.unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("reset_admin_file"), "{error}");
        assert!(!error.message.contains("hunter2"), "{error}");
    }
    std::fs::remove_file(fixture.path()).unwrap();
    assert_eq!(fixture.start().await.unwrap_err().code, Code::InvalidArgument);
    fixture.login("root", ROOT_PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn running_coordinator_applies_its_file_and_ends_the_task() {
    let fixture = ResetFixture::new("root:the new password").await;
    let config = CoordinatorConfig { reset_admin_file: Some(fixture.path()), ..CoordinatorConfig::default() };
    let (raft, stop) = (fixture.users.services.raft.clone(), CancellationToken::new());
    run(raft.clone(), Arc::new(config), AuditLog::off(), stop.clone()).await;
    fixture.login("root", "the new password").await.unwrap();
    // Without the setting, and at the stop, it ends at once.
    run(raft.clone(), Arc::new(CoordinatorConfig::default()), AuditLog::off(), stop.clone()).await;
    stop.cancel();
    std::fs::remove_file(fixture.path()).unwrap();
    let config = CoordinatorConfig { reset_admin_file: Some(fixture.path()), ..CoordinatorConfig::default() };
    run(raft, Arc::new(config), AuditLog::off(), stop).await;
}
