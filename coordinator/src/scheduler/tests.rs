//! What the scheduler decides, on catalogs made by hand, and in a small world where its decisions come true.
#![allow(clippy::unwrap_used)]

mod helpers;
mod placing;
mod reconcile;
mod repair;
mod world;
