//! What is held until the body of a reply has ended, or its client is gone: a place among calls in progress.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use http::Response;

/// An extension of a response; the listener moves it to the response's body.
#[derive(Clone)]
pub(crate) struct HeldByReply {
    _held: Arc<dyn Any + Send + Sync>,
}

/// Keeps a value until the body of the reply is dropped. May be called for several values.
pub fn hold_until_end<B>(reply: &mut Response<B>, held: impl Any + Send + Sync) {
    let earlier = take_held(reply);
    let held: Arc<dyn Any + Send + Sync> = match earlier {
        Some(earlier) => Arc::new((earlier, held)),
        None => Arc::new(held),
    };
    reply.extensions_mut().insert(HeldByReply { _held: held });
}

/// Takes what a reply holds out of its extensions.
pub(crate) fn take_held<B>(reply: &mut Response<B>) -> Option<HeldByReply> {
    reply.extensions_mut().remove()
}

impl fmt::Debug for HeldByReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldByReply")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_held_as_long_as_the_reply() {
        let (one, two) = (Arc::new(()), Arc::new(()));
        let mut reply = Response::new(());
        hold_until_end(&mut reply, one.clone());
        hold_until_end(&mut reply, two.clone());
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (2, 2));
        let held = take_held(&mut reply);
        drop(reply);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (2, 2));
        drop(held);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 1));
    }
}
