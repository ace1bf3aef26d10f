//! Pure decisions about single requests: from the catalog and a client's request to a plan.
//!
//! | module | what it plans |
//! |---|---|
//! | [`endpoints`] | the endpoints of a read: parts, locations, tickets |
//! | [`write_targets`] | the nodes that the parts of a write go to |
//! | [`table_options`] | the spec and placement of a table, from a client's options |
//! | [`catalog_limits`], [`capacity`] | none: the limits of requests, and of what the catalog holds |

pub mod capacity;
pub mod catalog_limits;
pub mod endpoints;
pub mod table_options;
pub mod write_targets;
