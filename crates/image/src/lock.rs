//! One lock for VDK and the job.

use std::sync::Arc;

use model::{
    Problem,
    lock::{Lock, LockInputs},
};
use python::Tools;

/// Resolves requirements into locks.
#[derive(Debug)]
pub struct Locker {
    tools: Arc<Tools>,
}

impl Locker {
    /// A locker that resolves with these tools.
    pub fn new(tools: Arc<Tools>) -> Self {
        Self { tools }
    }

    /// The lock of `inputs`: every package of VDK and the job, pinned, with hashes.
    pub async fn lock(&self, inputs: &LockInputs) -> Result<Lock, Problem> {
        let _ = (&self.tools, inputs);
        Err(Problem::internal("The packages were not resolved.", "This part is not built yet."))
    }
}
