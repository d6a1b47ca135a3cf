//! The memory budget: the bytes that all requests of this process may hold together.
//!
//! Request bodies, archives that are being read, and rows of a response that is being built draw on it. A request that
//! would exceed it is rejected as overload, before the memory is allocated.

use std::sync::{Arc, Mutex, PoisonError};

use model::{Problem, problem::Code};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes per permit of the budget.
const UNIT_BYTES: usize = 1024;

/// Limits the bytes that all requests of this process hold at once. Clones share one budget.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total_mib: usize,
}

impl MemoryBudget {
    /// A budget of `total_mib` MiB.
    pub fn new(total_mib: usize) -> Self {
        let units = (total_mib.saturating_mul(1024 * 1024) / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), total_mib }
    }

    /// An empty reservation that grows as bytes arrive.
    pub fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), held: None, bytes: 0 }
    }

    /// Reserves `bytes` until the reservation is dropped.
    ///
    /// # Errors
    /// Overloaded when the requests in progress leave less than that.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Problem> {
        let mut reservation = self.reservation();
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// The bytes of the whole budget.
    pub fn total_bytes(&self) -> usize {
        self.total_mib.saturating_mul(1024 * 1024)
    }

    /// The bytes that are not reserved at the moment.
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits().saturating_mul(UNIT_BYTES)
    }
}

/// A part of the memory budget, returned when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    held: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Reservation {
    /// Reserves `bytes` more.
    ///
    /// # Errors
    /// Overloaded when the requests in progress leave less than that; what was reserved before stays reserved.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let total = self.bytes.saturating_add(bytes);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = total.div_ceil(UNIT_BYTES).saturating_sub(held);
        if missing > 0 {
            let more = u32::try_from(missing)
                .ok()
                .and_then(|units| Arc::clone(&self.budget.units).try_acquire_many_owned(units).ok())
                .ok_or_else(|| self.budget.exhausted())?;
            match &mut self.held {
                Some(held) => held.merge(more),
                None => self.held = Some(more),
            }
        }
        self.bytes = total;
        Ok(())
    }

    /// The bytes that are reserved.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The memory that one request holds: a reservation that its parts share. Clones are the same reservation, returned when
/// the last of them is dropped.
#[derive(Debug, Clone)]
pub struct RequestMemory {
    held: Arc<Mutex<Reservation>>,
    max_bytes: usize,
}

impl RequestMemory {
    /// Reserves `bytes` more until the request is over.
    ///
    /// # Errors
    /// Invalid when the request holds more than it may alone, overloaded when the requests in progress leave less than
    /// that.
    pub fn add(&self, bytes: usize) -> Result<(), Problem> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.bytes().saturating_add(bytes) > self.max_bytes {
            let max_mib = self.max_bytes / (1024 * 1024);
            return Err(Problem::new(
                Code::ResponseTooLarge,
                "The request was rejected.",
                format!("Its response is too large (limit {max_mib} MiB of memory)."),
            )
            .nothing_returned()
            .fix("Request smaller pages or fewer fields."));
        }
        held.grow(bytes)
    }
}

impl store::Meter for RequestMemory {
    fn add(&self, bytes: usize) -> Result<(), Problem> {
        RequestMemory::add(self, bytes)
    }
}

impl MemoryBudget {
    /// A reservation of no bytes that the parts of a request share, and that may grow to `max_bytes`.
    pub fn for_request(&self, max_bytes: usize) -> RequestMemory {
        RequestMemory { held: Arc::new(Mutex::new(self.reservation())), max_bytes }
    }

    fn exhausted(&self) -> Problem {
        Problem::new(
            Code::MemoryBudgetExhausted,
            "The request was rejected.",
            format!("The requests in progress use all of `memory_budget_mib` (limit {} MiB).", self.total_mib),
        )
        .nothing_changed()
        .fix("Retry in a few seconds.")
    }
}

#[cfg(test)]
mod tests {
    use model::problem::Kind;

    use super::*;

    #[test]
    fn reservations_of_all_requests_draw_on_one_budget_and_return_it() {
        let budget = MemoryBudget::new(1);
        let mut first = budget.reserve(600 * 1024).unwrap();
        let problem = budget.clone().reserve(500 * 1024).unwrap_err();
        assert_eq!(problem.kind, Kind::Overloaded);
        assert!(problem.why.contains("1 MiB"), "{}", problem.why);
        first.grow(424 * 1024).unwrap();
        assert_eq!(budget.free_bytes(), 0);
        assert!(first.grow(1).is_err());
        assert_eq!(first.bytes(), 1024 * 1024);
        drop(first);
        assert_eq!(budget.free_bytes(), 1024 * 1024);
    }

    #[test]
    fn the_parts_of_a_request_share_a_reservation_with_a_limit_of_its_own() {
        let budget = MemoryBudget::new(2);
        let request = budget.for_request(1024 * 1024);
        let part = request.clone();
        part.add(600 * 1024).unwrap();
        let too_large = request.add(500 * 1024).unwrap_err();
        assert_eq!((too_large.kind, too_large.why.contains("limit 1 MiB")), (Kind::Invalid, true), "{too_large}");
        let other = budget.reserve(1_448 * 1024).unwrap();
        assert_eq!(request.add(100 * 1024).unwrap_err().kind, Kind::Overloaded);
        drop((part, other));
        request.add(100 * 1024).unwrap();
        drop(request);
        assert_eq!(budget.free_bytes(), 2 * 1024 * 1024);
    }

    #[test]
    fn small_steps_add_up_without_rounding_each_of_them() {
        let budget = MemoryBudget::new(1);
        let mut reservation = budget.reservation();
        for _ in 0..1024 * 1024 {
            reservation.grow(1).unwrap();
        }
        assert!(reservation.grow(1).is_err());
    }

    #[test]
    fn a_reservation_beyond_every_limit_is_refused_without_overflow() {
        let budget = MemoryBudget::new(usize::MAX);
        assert!(budget.reserve(usize::MAX).is_err());
        let mut reservation = budget.reserve(1).unwrap();
        assert!(reservation.grow(usize::MAX).is_err());
        assert_eq!(reservation.bytes(), 1);
    }
}
