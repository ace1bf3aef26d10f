use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

type WaitingFuture = Pin<Box<dyn Future<Output = FairPermit>>>;

fn caller(name: &str) -> CallerKey {
    CallerKey::Principal(name.into())
}

/// The permit, if the request has been granted.
fn poll(waiting: &mut WaitingFuture) -> Option<FairPermit> {
    match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

/// A request that waits in the queue.
fn request(semaphore: &Arc<FairSemaphore>, name: &str, permits: usize) -> WaitingFuture {
    let (semaphore, key) = (semaphore.clone(), caller(name));
    let mut waiting: WaitingFuture = Box::pin(async move { semaphore.acquire(key, permits).await });
    assert!(poll(&mut waiting).is_none(), "{name} should wait");
    waiting
}

/// The names of the callers whose requests are granted, one after the other.
fn served(mut queue: Vec<(&'static str, WaitingFuture)>, first: FairPermit) -> Vec<&'static str> {
    let mut order = Vec::new();
    let mut held = Some(first);
    while !queue.is_empty() {
        drop(held.take());
        let at = queue.iter_mut().position(|(_, waiting)| {
            held = poll(waiting);
            held.is_some()
        });
        order.push(queue.remove(at.expect("somebody is served")).0);
    }
    order
}

#[test]
fn callers_are_served_in_turn_however_many_each_has_waiting() {
    let semaphore = FairSemaphore::new(1);
    let first = semaphore.try_acquire(1).unwrap();
    let names = ["a", "a", "a", "a", "b", "c", "b"];
    let queue = names.map(|name| (name, request(&semaphore, name, 1)));
    assert_eq!(semaphore.waiting(), 7);
    assert_eq!(served(queue.into(), first), ["a", "b", "c", "a", "b", "a", "a"]);
    let state = semaphore.state.lock();
    assert_eq!((state.free, state.count), (1, 0));
    assert!(state.waiting.is_empty() && state.turns.is_empty(), "memory of callers that have gone");
}

#[test]
fn requests_of_one_caller_are_served_in_order() {
    let semaphore = FairSemaphore::new(2);
    let first = semaphore.try_acquire(2).unwrap();
    let mut large = request(&semaphore, "a", 2);
    let mut small = request(&semaphore, "a", 1);
    drop(first);
    let permit = poll(&mut large).unwrap();
    assert!(poll(&mut small).is_none());
    drop(permit);
    assert!(poll(&mut small).is_some());
}

#[test]
fn nobody_passes_a_request_whose_turn_it_is() {
    let semaphore = FairSemaphore::new(4);
    let mut first = semaphore.try_acquire(4).unwrap();
    let mut large = request(&semaphore, "a", 4);
    let mut small = request(&semaphore, "b", 1);
    drop(first.split(2).unwrap());
    assert!(semaphore.try_acquire(1).is_none(), "the free permits are for those that wait");
    assert!(poll(&mut large).is_none() && poll(&mut small).is_none());
    drop(first);
    let permit = poll(&mut large).unwrap();
    assert_eq!(permit.permits(), 4);
    drop(permit);
    assert!(poll(&mut small).is_some());
}

#[test]
fn request_that_is_dropped_makes_way_for_the_others() {
    let semaphore = FairSemaphore::new(4);
    let mut first = semaphore.try_acquire(4).unwrap();
    let large = request(&semaphore, "a", 4);
    let mut small = request(&semaphore, "b", 1);
    drop(first.split(2).unwrap());
    drop(large);
    assert!(poll(&mut small).is_some());
    assert_eq!(semaphore.waiting(), 0);
    drop((small, first));
    assert!(semaphore.try_acquire(4).is_some());
}

#[test]
fn granted_request_that_is_dropped_gives_its_permits_back() {
    let semaphore = FairSemaphore::new(1);
    let first = semaphore.try_acquire(1).unwrap();
    let granted = request(&semaphore, "a", 1);
    let mut next = request(&semaphore, "b", 1);
    drop(first);
    assert!(poll(&mut next).is_none(), "it is the turn of the other");
    drop(granted);
    assert!(poll(&mut next).is_some());
}

#[test]
fn request_for_more_than_there_is_takes_all() {
    let semaphore = FairSemaphore::new(3);
    let mut all: WaitingFuture = Box::pin({
        let semaphore = semaphore.clone();
        async move { semaphore.acquire(caller("a"), 7).await }
    });
    assert_eq!(poll(&mut all).unwrap().permits(), 3);
    assert!(semaphore.try_acquire(4).is_none());
}

#[tokio::test]
async fn many_tasks_share_the_permits() {
    let semaphore = FairSemaphore::new(3);
    let tasks: Vec<_> = (0..200)
        .map(|at| {
            let semaphore = semaphore.clone();
            tokio::spawn(async move {
                let permit = semaphore.acquire(caller(&format!("{}", at % 7)), 1 + at % 3).await;
                tokio::task::yield_now().await;
                drop(permit);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(semaphore.try_acquire(3).unwrap().permits(), 3);
}
