//! Places limit expensive work: how much is in progress at once, and the share of one principal.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{Problem, clock::SharedClock, problem::Code};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The number of places, and how long a request waits for one.
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

/// One place in this many is reserved for principals without a place, at least one.
const RESERVED_SHARE: usize = 8;

/// Places that are taken in the order of the requests. Clones share the places.
///
/// A principal has at most half of them. Its further requests wait for its own places first, so that they do not delay
/// others. The last eighth of the places is reserved for principals without a place, so that two principals can't take all of
/// them.
#[derive(Debug, Clone)]
pub struct Places {
    limits: PlaceLimits,
    clock: SharedClock,
    shared: Arc<Semaphore>,
    /// For principals that have no place.
    reserved: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    by_principal: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A place, released when it is dropped.
#[derive(Debug)]
pub struct Place {
    _own: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

/// Why there is no place at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The principal has half of the places.
    OfPrincipal,
    /// Others have the places, except for those that are reserved for principals without a place.
    OfAll,
}

impl Places {
    /// Places with these limits.
    pub fn new(limits: PlaceLimits, clock: SharedClock) -> Self {
        let reserved = (limits.at_once_max / RESERVED_SHARE).max(1).min(limits.at_once_max);
        Self {
            limits,
            clock,
            shared: Arc::new(Semaphore::new(limits.at_once_max - reserved)),
            reserved: Arc::new(Semaphore::new(reserved)),
            waiting: Arc::new(Semaphore::new(limits.waiting_max)),
            by_principal: Arc::default(),
        }
    }

    /// Waits for a place. Without a principal (authentication is off) only the number of places counts.
    ///
    /// # Errors
    /// Overloaded if too many requests wait already, or none becomes free in time.
    pub async fn take(&self, principal: Option<&str>) -> Result<Place, Problem> {
        if let Ok(place) = self.try_take(principal) {
            return Ok(place);
        }
        let PlaceLimits { what, waiting_max, wait_max, .. } = self.limits;
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(overloaded(format!("Too many {what} are waiting (limit {waiting_max}).")));
        };
        let own = principal.map(|principal| self.of(principal));
        let place = async {
            let own = match own {
                Some(own) => Some(own.acquire_owned().await.ok()?),
                None => None,
            };
            let of_all = if self.is_first(own.as_ref()) {
                tokio::select! {
                    biased;
                    shared = Arc::clone(&self.shared).acquire_owned() => shared.ok()?,
                    reserved = Arc::clone(&self.reserved).acquire_owned() => reserved.ok()?,
                }
            } else {
                Arc::clone(&self.shared).acquire_owned().await.ok()?
            };
            Some(Place { _own: own, _of_all: of_all })
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

    /// A place, if one is free now.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn try_take(&self, principal: Option<&str>) -> Result<Place, NoPlace> {
        let own = match principal.map(|principal| self.of(principal)) {
            Some(own) => Some(own.try_acquire_owned().map_err(|_| NoPlace::OfPrincipal)?),
            None => None,
        };
        let reserved = self.is_first(own.as_ref()).then_some(&self.reserved);
        let of_all =
            [&self.shared].into_iter().chain(reserved).find_map(|all| Arc::clone(all).try_acquire_owned().ok());
        Ok(Place { _own: own, _of_all: of_all.ok_or(NoPlace::OfAll)? })
    }

    /// Whether a permit of a principal is the only one that it has. Without principals, every request is treated as the first.
    fn is_first(&self, own: Option<&OwnedSemaphorePermit>) -> bool {
        own.is_none_or(|own| own.semaphore().available_permits() + 1 == self.most_of_one())
    }

    /// How many places one principal may have.
    fn most_of_one(&self) -> usize {
        (self.limits.at_once_max / 2).max(1)
    }

    /// The places of one principal. Principals without a request in progress are removed when a new one arrives.
    fn of(&self, principal: &str) -> Arc<Semaphore> {
        let mut all = self.by_principal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get(principal) {
            return Arc::clone(own);
        }
        all.retain(|_, own| Arc::strong_count(own) > 1);
        let own = Arc::new(Semaphore::new(self.most_of_one()));
        all.insert(principal.to_owned(), Arc::clone(&own));
        own
    }
}

fn overloaded(why: String) -> Problem {
    Problem::new(Code::NoPlaceFree, "The request was rejected.", why).nothing_changed().fix("Retry in a few seconds.")
}

#[cfg(test)]
mod tests {
    use model::problem::Kind;

    use clock::SystemClock;

    use super::*;

    impl Places {
        fn free(&self) -> usize {
            self.shared.available_permits() + self.reserved.available_permits()
        }
    }

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
        assert_eq!(places.free(), 2);
    }

    #[tokio::test]
    async fn two_principals_leave_places_to_others_and_those_get_one_each() {
        let places = places(16, 10);
        let mut held = Vec::new();
        for principal in ["ann", "ben"] {
            loop {
                match places.try_take(Some(principal)) {
                    Ok(place) => held.push((principal, place)),
                    Err(why) => {
                        let expected = if principal == "ann" { NoPlace::OfPrincipal } else { NoPlace::OfAll };
                        assert_eq!(why, expected);
                        break;
                    }
                }
            }
        }
        let count = |of: &str| held.iter().filter(|(principal, _)| *principal == of).count();
        assert_eq!((count("ann"), count("ben"), places.free()), (8, 6, 2));
        let waiting = places.take(Some("ben"));
        tokio::pin!(waiting);
        assert!(places.clock.timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        let eve = places.take(Some("eve")).await.unwrap();
        assert_eq!(places.try_take(Some("eve")).unwrap_err(), NoPlace::OfAll);
        let kim = places.take(Some("kim")).await.unwrap();
        // The next one waits for any of the places.
        let lee = places.take(Some("lee"));
        tokio::pin!(lee);
        assert!(places.clock.timeout(Duration::from_millis(20), &mut lee).await.is_err());
        drop(eve);
        let lee = lee.await.unwrap();
        assert!(places.clock.timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        held.truncate(13);
        drop(waiting.await.unwrap());
        let last = places.try_take(Some("ben")).unwrap();
        let sam = places.take(Some("sam"));
        tokio::pin!(sam);
        assert!(places.clock.timeout(Duration::from_millis(20), &mut sam).await.is_err());
        drop(last);
        let sam = sam.await.unwrap();
        drop((kim, lee, sam, held));
        assert_eq!(places.free(), 16);
    }

    #[tokio::test]
    async fn without_principals_all_places_are_used() {
        for at_once_max in [1, 2, 16] {
            let places = places(at_once_max, 1);
            let held: Vec<_> = (0..at_once_max).map(|_| places.try_take(None).unwrap()).collect();
            assert_eq!(places.try_take(None).unwrap_err(), NoPlace::OfAll);
            drop(held);
            drop(places.try_take(Some("ann")).unwrap());
        }
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
