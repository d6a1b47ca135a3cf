//! The memory that a request takes from the budget.

use std::sync::{Arc, Mutex, PoisonError};

use app::memory::{MemoryBudget, Reservation};
use axum::extract::Request;
use model::Problem;

/// The memory that is reserved for a request until it is answered. Clones share one reservation.
#[derive(Debug, Clone)]
pub(crate) struct RequestMemory(Arc<Mutex<Reservation>>);

impl RequestMemory {
    pub(crate) fn new(budget: &MemoryBudget) -> Self {
        Self(Arc::new(Mutex::new(budget.reservation())))
    }

    /// The reservation of this request. Without one around it, a reservation of its own.
    pub(crate) fn of(budget: &MemoryBudget, request: &Request) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_else(|| Self::new(budget))
    }

    /// Reserves `bytes` more.
    pub(crate) fn grow(&self, bytes: usize) -> Result<(), Problem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).grow(bytes)
    }
}
