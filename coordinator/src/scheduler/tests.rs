//! Tests of the scheduler's decisions on hand-made catalogs, and a simulation that executes them.
#![allow(clippy::unwrap_used)]

mod helpers;
mod rebalance;
mod reconcile;
mod repair;
mod simulation;
