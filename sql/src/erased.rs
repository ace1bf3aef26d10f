//! Shared values of DataFusion's types, behind a pointer that hides the type.
//!
//! The compiler proves of every future that threads may pass it on, and of every value in it that they may share it. For a session, a plan
//! or an expression that leads through hundreds of types, down to the syntax of SQL. In methods of `async_trait` and in generic functions
//! it proves that again each time, which takes seconds for each. Of what is hidden it knows at once.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A shared value that is only read.
pub(crate) struct Erased<T>(Arc<dyn Deref<Target = T> + Send + Sync>);

impl<T: Send + Sync + 'static> Erased<T> {
    pub(crate) fn new(value: T) -> Self {
        // A box, because a value does not dereference to itself.
        Erased(Arc::new(Box::new(value)))
    }
}

impl<T> Deref for Erased<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Erased<T> {
    fn clone(&self) -> Self {
        Erased(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Erased<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
