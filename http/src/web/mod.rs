//! The web page: `/ui`. Pages are rendered here, from the replies of Flight calls as their visitor; scripts only add what follows the
//! cluster live (docs/adr/0023-web-page.md).
//!
//! | module | what it has |
//! |---|---|
//! | [`assets`] | style sheet, script and picture, which are compiled in |
//! | [`visitor`] | who visits: the session's cookie, the secret of forms |
//! | [`form`] | the fields of a form that is sent, which has the secret of its page |
//! | [`shell`] | what surrounds each page, and its headers |
//! | [`page_error`], [`error_pages`] | errors, and their pages |
//! | [`login`] | logging in and out |
//! | [`cluster`], [`tables`], [`table`], [`activity`], [`sql`], [`who`] | the pages |
//! | [`live`] | fragments of pages by server-sent events |
//! | [`charts`], [`query_plan`], [`shard_map`] | pictures |
//! | [`health_reasons`] | why a cluster is not green, and what to do |
//! | [`rows`] | rows as cells of text |
//! | [`code_samples`] | programs that read a table |
//! | [`figures`] | numbers and times for people |

mod activity;
mod assets;
mod charts;
mod cluster;
mod code_samples;
mod error_pages;
mod figures;
mod form;
mod health_reasons;
mod live;
mod login;
mod page_error;
mod query_plan;
mod rows;
mod shard_map;
mod shell;
mod sql;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod visitor;
mod who;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::Redirect;
use axum::routing::{get, post};

use self::visitor::{LOGIN, START};
use crate::state::HttpState;

/// The routes of all pages.
pub(crate) fn routes(state: &HttpState) -> Router<HttpState> {
    Router::new()
        .route("/", get(async || Redirect::to(START)))
        .route("/ui", get(async || Redirect::to(START)))
        .route("/ui/", get(async || Redirect::to(START)))
        .route("/ui/assets/{name}", get(assets::get))
        .route(LOGIN, get(login::form).post(login::log_in))
        .route("/ui/logout", post(login::log_out))
        .route(START, get(cluster::page))
        .route("/ui/tables", get(tables::page))
        .route("/ui/tables/{*table}", get(table::page))
        .route("/ui/activity", get(activity::page))
        .route("/ui/sql", get(sql::page).post(sql::run))
        .route("/ui/sql/download", post(sql::download))
        .route("/ui/who", get(who::page))
        .route("/ui/who/revoke", post(who::revoke))
        .route("/ui/live/cluster", get(live::cluster))
        .route("/ui/live/activity", get(live::activity))
        .route("/ui/{*path}", get(error_pages::no_such_page))
        .layer(from_fn_with_state(state.clone(), error_pages::present))
}
