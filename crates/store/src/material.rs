//! The stored inputs of builds.

use model::{
    BoxFuture, Problem,
    build::Stored,
    lock::{Lock, LockKey},
    name::JobId,
    source::SourceVersion,
};

use crate::{Db, locks, sources};

impl Stored for Db {
    fn source<'a>(
        &'a self,
        job_id: JobId,
        version: &'a SourceVersion,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Problem>> {
        Box::pin(async move { Ok(sources::archive(&mut self.read().await?, job_id, version).await?) })
    }

    fn lock<'a>(&'a self, key: &'a LockKey) -> BoxFuture<'a, Result<Option<Lock>, Problem>> {
        Box::pin(async move { Ok(locks::find(&mut self.read().await?, key).await?) })
    }
}
