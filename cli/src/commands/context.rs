//! `volley context`: the contexts of the user, without their tokens.

use serde_json::{Value, json};
use volley_common::{Error, Result};

use crate::args::contexts::ContextCommand;
use crate::contexts::{ClusterContext, ContextFile, ContextStore};
use crate::output::{self, cell};

/// Runs the command.
pub fn run(command: &ContextCommand, json: bool) -> Result<()> {
    let store = ContextStore::of_user()?;
    match command {
        ContextCommand::Ls => {
            let contexts = list(&store.read()?);
            if json { output::json(&contexts) } else { output::line(table(&contexts)) }
        }
        ContextCommand::Show { name } => {
            let context = shown(&store.read()?, name.as_deref())?;
            if json { output::json(&context) } else { output::line(output::render(&context)) }
        }
        ContextCommand::Use { name } => {
            let context = store.update(|file| {
                file.context(name)?;
                file.current = Some(name.clone());
                shown(file, Some(name.as_str()))
            })?;
            let text = || format!("{name} is the current context: {}", cell("cluster", &context["cluster"]));
            if json { output::json(&context) } else { output::line(text()) }
        }
        ContextCommand::Remove { name } => {
            let removed = store.update(|file| removed(file, name))?;
            if json { output::json(&removed) } else { output::line(removed_text(&removed)) }
        }
    }
}

/// A context as programs see it.
fn row(name: &str, context: &ClusterContext, file: &ContextFile) -> Value {
    let ways = [
        (context.token.is_some(), "token"),
        (context.token_file.is_some(), "token file"),
        (context.tls_cert.is_some(), "certificate"),
    ];
    let login = ways.iter().find(|(has, _)| *has).map_or("none", |(_, way)| *way);
    json!({
        "context": name, "current": file.current.as_deref() == Some(name), "cluster": context.cluster, "user": context.user,
        "login": login, "token_id": context.token_id, "token_expires_ms": context.token_expires_ms,
        "token_file": context.token_file, "tls_ca": context.tls_ca, "tls_cert": context.tls_cert, "tls_key": context.tls_key,
        "tls_server_name": context.tls_server_name, "plaintext_login": context.plaintext_login,
    })
}

fn list(file: &ContextFile) -> Value {
    file.contexts.iter().map(|(name, context)| row(name, context, file)).collect()
}

/// One context, by default the current one.
fn shown(file: &ContextFile, name: Option<&str>) -> Result<Value> {
    let name = name.or(file.current.as_deref()).ok_or_else(|| {
        Error::not_found("there is no current context: `volley context use NAME` selects one, `volley login` makes one")
    })?;
    Ok(row(name, file.context(name)?, file))
}

fn removed(file: &mut ContextFile, name: &str) -> Result<Value> {
    let removed = shown(file, Some(name))?;
    file.contexts.remove(name);
    if file.current.as_deref() == Some(name) {
        file.current = None;
    }
    Ok(removed)
}

fn removed_text(context: &Value) -> String {
    let of = |key: &str| cell(key, &context[key]);
    let token = match of("token_id") {
        id if id.is_empty() => String::new(),
        id => format!("; its token stays valid: `volley token revoke {id}` ends it"),
    };
    format!("removed the context {}{token}", of("context"))
}

fn table(contexts: &Value) -> String {
    let contexts: Vec<&Value> = contexts.as_array().into_iter().flatten().collect();
    if contexts.is_empty() {
        return "no contexts: `volley login --context NAME --cluster ADDRESS` makes one".into();
    }
    let mut table = output::table(&["", "context", "cluster", "user", "login", "until (UTC)"]);
    for context in contexts {
        let of = |key: &str| cell(key, &context[key]);
        let current = if context["current"] == true { "*" } else { "" };
        let until = output::time(&context["token_expires_ms"]);
        table.add_row([current.to_string(), of("context"), of("cluster"), of("user"), of("login"), until]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use volley_common::identity::Secret;

    use super::*;

    fn file() -> ContextFile {
        let prod = ClusterContext {
            cluster: vec!["grpc+tls://a:1".into(), "grpc+tls://b:1".into()],
            token: Some(Secret::new("volley_secret")),
            token_id: Some("00ab00ab00ab00ab".into()),
            token_expires_ms: Some(1_700_000_000_123),
            user: Some("ana".into()),
            ..ClusterContext::default()
        };
        let contexts = [("dev", ClusterContext::default()), ("prod", prod)];
        ContextFile {
            current: Some("prod".into()),
            contexts: contexts.map(|(name, context)| (name.to_string(), context)).into(),
        }
    }

    #[test]
    fn contexts_are_shown_without_tokens() {
        let contexts = list(&file());
        let text = table(&contexts);
        for word in ["*", "prod", "grpc+tls://a:1, grpc+tls://b:1", "ana", "2023-11-14 22:13:20", "dev", "none"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert!(!format!("{contexts}{text}").contains("secret"));
        assert!(table(&json!([])).contains("volley login"));
    }

    #[test]
    fn removed_context_is_no_longer_current() {
        let mut file = file();
        let text = removed_text(&removed(&mut file, "prod").unwrap());
        assert!(text.contains("`volley token revoke 00ab00ab00ab00ab`"), "{text}");
        assert_eq!((file.current.as_deref(), file.contexts.len()), (None, 1));
        assert!(shown(&file, None).unwrap_err().message.contains("no current context"));
        assert_eq!(removed_text(&removed(&mut file, "dev").unwrap()), "removed the context dev");
        assert!(removed(&mut file, "dev").is_err());
    }
}
