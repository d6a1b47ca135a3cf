//! CPU and memory of executions.

use serde::{Deserialize, Serialize};

use crate::{Problem, problem::Code};

/// CPU and memory that a deployment asks for and may not exceed. Absent amounts are the operator's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// CPU set aside, in cores.
    pub cpu_request: Option<f64>,
    /// CPU at most, in cores.
    pub cpu_limit: Option<f64>,
    /// Memory set aside, in mebibytes.
    #[serde(rename = "memory_request")]
    pub memory_request_mi: Option<i32>,
    /// Memory at most, in mebibytes.
    #[serde(rename = "memory_limit")]
    pub memory_limit_mi: Option<i32>,
}

impl Resources {
    /// Checks that every amount is positive and no request is above its limit.
    ///
    /// # Errors
    /// [`crate::problem::Kind::Invalid`] for an amount out of range, [`crate::problem::Kind::Conflict`] for a request above its
    /// limit.
    pub fn validated(self) -> Result<Self, Problem> {
        let refuse = |why: String| {
            Err(Problem::new(Code::ResourcesInvalid, "The resources are not valid.", why)
                .nothing_changed()
                .fix("Send an amount within this range."))
        };
        // One of the two may be that of the present deployment.
        let exceeds = |why: String| {
            Err(Problem::new(Code::ResourceRequestAboveLimit, "The resources were not changed.", why)
                .nothing_changed()
                .fix("Send request and limit together, with the request not above the limit."))
        };
        for (name, value) in [("cpu_request", self.cpu_request), ("cpu_limit", self.cpu_limit)] {
            if let Some(cores) = value
                && !(cores.is_finite() && cores > 0.0 && cores <= 1024.0)
            {
                return refuse(format!("{name} is {cores} cores; it must be above 0 and at most 1024."));
            }
        }
        for (name, value) in [("memory_request", self.memory_request_mi), ("memory_limit", self.memory_limit_mi)] {
            if let Some(mi) = value
                && !(1..=16 * 1024 * 1024).contains(&mi)
            {
                return refuse(format!("{name} is {mi} MiB; it must be 1 to 16777216."));
            }
        }
        if let (Some(request), Some(limit)) = (self.cpu_request, self.cpu_limit)
            && request > limit
        {
            return exceeds(format!("cpu_request ({request}) is above cpu_limit ({limit})."));
        }
        if let (Some(request), Some(limit)) = (self.memory_request_mi, self.memory_limit_mi)
            && request > limit
        {
            return exceeds(format!("memory_request ({request} MiB) is above memory_limit ({limit} MiB)."));
        }
        Ok(self)
    }

    /// These amounts, with what is absent taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu_request: self.cpu_request.or(other.cpu_request),
            cpu_limit: self.cpu_limit.or(other.cpu_limit),
            memory_request_mi: self.memory_request_mi.or(other.memory_request_mi),
            memory_limit_mi: self.memory_limit_mi.or(other.memory_limit_mi),
        }
    }
}
