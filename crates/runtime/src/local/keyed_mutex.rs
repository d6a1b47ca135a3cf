//! One at a time for each key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

/// Locks by name, within this process.
#[derive(Debug, Default)]
pub(super) struct KeyedMutex(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl KeyedMutex {
    pub(super) async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        let one = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, one| Arc::strong_count(one) > 1);
            Arc::clone(all.entry(key.to_owned()).or_default())
        };
        one.lock_owned().await
    }
}
