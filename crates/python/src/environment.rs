//! The environment of a lock.

use std::path::Path;

use model::{Problem, lock::Lock};

use crate::{Interpreter, Tools};

impl Tools {
    /// Makes a virtual environment at `at`, its final path, with exactly the packages of `lock`.
    ///
    /// What was at `at` is replaced. The caller sees to it that nobody else uses the folder, and marks it complete.
    pub async fn create_environment(
        &self,
        interpreter: &Interpreter,
        lock: &Lock,
        vdk_requirement: &str,
        at: &Path,
    ) -> Result<(), Problem> {
        let _ = (interpreter, lock, vdk_requirement, at);
        Err(Problem::internal("The environment was not made.", "This part is not built yet."))
    }
}
