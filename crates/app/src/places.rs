//! Places for expensive work: how much of it is in progress at once, and how much of that one principal may have.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{Problem, clock::SharedClock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many places there are, and how long a request waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceLimits {
    /// The work, as a plural: "uploads".
    pub what: &'static str,
    /// Places over all principals.
    pub at_once_max: usize,
    /// Requests that wait for a place.
    pub waiting_max: usize,
    /// How long one of them waits.
    pub wait_max: Duration,
}

/// Places that are taken in the order of the requests. A principal has at most half of them, and its further requests
/// wait for its own places first, so that they are not in the way of others. Clones share the places.
#[derive(Debug, Clone)]
pub struct Places {
    limits: PlaceLimits,
    clock: SharedClock,
    all: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    by_principal: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A place, released when it is dropped.
#[derive(Debug)]
pub struct Place {
    _own: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    /// Places with these limits.
    pub fn new(limits: PlaceLimits, clock: SharedClock) -> Self {
        Self {
            limits,
            clock,
            all: Arc::new(Semaphore::new(limits.at_once_max)),
            waiting: Arc::new(Semaphore::new(limits.waiting_max)),
            by_principal: Arc::default(),
        }
    }

    /// Waits for a place. Without a principal (authentication is off) only the number of places counts.
    ///
    /// # Errors
    /// Overloaded if too many requests wait already, or none becomes free in time.
    pub async fn take(&self, principal: Option<&str>) -> Result<Place, Problem> {
        let own = principal.map(|principal| self.of(principal));
        if let Some(place) = self.try_take(own.as_ref()) {
            return Ok(place);
        }
        let PlaceLimits { what, waiting_max, wait_max, .. } = self.limits;
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(overloaded(format!("Too many {what} are waiting (limit {waiting_max}).")));
        };
        let place = async {
            let own = match own {
                Some(own) => Some(own.acquire_owned().await.ok()?),
                None => None,
            };
            Some(Place { _own: own, _of_all: Arc::clone(&self.all).acquire_owned().await.ok()? })
        };
        let place = self.clock.timeout(wait_max, place).await.ok().flatten();
        place.ok_or_else(|| {
            overloaded(format!(
                "No place among the {what} in progress became free within {} seconds (limit {}).",
                wait_max.as_secs(),
                self.limits.at_once_max
            ))
        })
    }

    /// One of the places of this principal, which does not count among all; `None` when it has none left.
    pub fn take_own(&self, principal: &str) -> Option<OwnedSemaphorePermit> {
        self.of(principal).try_acquire_owned().ok()
    }

    fn try_take(&self, own: Option<&Arc<Semaphore>>) -> Option<Place> {
        let own = match own {
            Some(own) => Some(Arc::clone(own).try_acquire_owned().ok()?),
            None => None,
        };
        Some(Place { _own: own, _of_all: Arc::clone(&self.all).try_acquire_owned().ok()? })
    }

    /// The places of one principal. Principals without a request in progress are forgotten when a new one comes.
    fn of(&self, principal: &str) -> Arc<Semaphore> {
        let mut all = self.by_principal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get(principal) {
            return Arc::clone(own);
        }
        all.retain(|_, own| Arc::strong_count(own) > 1);
        let own = Arc::new(Semaphore::new((self.limits.at_once_max / 2).max(1)));
        all.insert(principal.to_owned(), Arc::clone(&own));
        own
    }
}

fn overloaded(why: String) -> Problem {
    Problem::overloaded("The request was not carried out.", why)
        .follows("Nothing was changed.")
        .fix("Try again in a few seconds.")
}

#[cfg(test)]
mod tests {
    use model::problem::Kind;

    use clock::SystemClock;

    use super::*;

    fn places(at_once_max: usize, waiting_max: usize) -> Places {
        let limits = PlaceLimits { what: "uploads", at_once_max, waiting_max, wait_max: Duration::from_secs(1) };
        Places::new(limits, Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn one_principal_has_half_of_the_places_and_its_waiting_requests_are_not_before_those_of_others() {
        let places = places(2, 10);
        let first = places.take(Some("ann")).await.unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let places = places.clone();
                tokio::spawn(async move { places.take(Some("ann")).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let of_another = places.take(Some("ben")).await.unwrap();
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        drop((first, of_another));
        for waiting in waiting {
            drop(waiting.await.unwrap().unwrap());
        }
        assert_eq!(places.all.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_request_that_waits_too_long_or_behind_too_many_is_overload() {
        let places = places(1, 1);
        let _held = places.take(None).await.unwrap();
        let (first, second) = tokio::join!(places.take(None), places.take(None));
        let late = first.unwrap_err();
        assert_eq!(late.kind, Kind::Overloaded);
        assert!(late.why.contains("within 1 seconds"), "{}", late.why);
        let too_many = second.unwrap_err();
        assert!(too_many.why.contains("waiting (limit 1)"), "{}", too_many.why);
    }

    #[tokio::test]
    async fn principals_without_a_request_are_forgotten() {
        let places = places(4, 1);
        for number in 0..100 {
            drop(places.take(Some(&format!("user {number}"))).await.unwrap());
        }
        assert_eq!(places.by_principal.lock().unwrap().len(), 1);
    }
}
