//! Values whose end may wait for the disk.

use tokio::runtime::Handle;

/// A value that is dropped on a blocking thread, because that may wait for the disk: the last close of a large file
/// frees all its pages.
pub struct BlockingDrop<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> BlockingDrop<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        BlockingDrop(Some(value))
    }

    /// The value.
    pub fn get(&self) -> &T {
        self.0.as_ref().expect("the value is there until the drop")
    }

    /// Takes the value out.
    pub fn into_inner(mut self) -> T {
        self.0.take().expect("the value is there until the drop")
    }
}

impl<T: Send + 'static> Drop for BlockingDrop<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
            Err(_) => drop(value),
        }
    }
}
