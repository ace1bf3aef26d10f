//! A stack for what recurses once for each level of an expression.
//!
//! DataFusion walks expressions on a stack that grows, but it finds their types and names by plain recursion: a thousand levels take
//! some 8 MB without optimization. A thread of the node has 2 MiB, and the process ends where these do not suffice.

/// Enough for any expression that the limits of texts permit.
const STACK_BYTES: usize = 32 << 20;
/// With so much left of the stack of a thread it gets no other one.
const ENOUGH_BYTES: usize = 16 << 20;

/// Does the work, on a stack of its own unless that of the thread is large.
pub(super) fn on_large_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(ENOUGH_BYTES, STACK_BYTES, work)
}
