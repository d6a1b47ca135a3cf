//! Access of package builds to an index with credentials, through the loopback proxy of [`clients`].

use std::sync::Arc;

use anyhow::anyhow;
use clients::index_proxy::{IndexProxy, Session};
use model::{BoxFuture, Problem, clock::SharedClock, problem::Code};
use python::{IndexAccess, IndexSession};

use crate::config::{ProcessEnvironment, Settings};

#[derive(Debug)]
struct Access {
    proxy: IndexProxy,
    clock: SharedClock,
}

/// The access to the configured index; `None` if its URL has no credentials.
pub(crate) fn access(
    settings: &Settings,
    environment: &ProcessEnvironment,
    clock: &SharedClock,
) -> anyhow::Result<Option<Arc<dyn IndexAccess>>> {
    let Some(url) = &settings.index_url else { return Ok(None) };
    let proxy = IndexProxy::of(url.expose(), &environment.for_tools(), clock.clone())
        .map_err(|why| anyhow!("The package index can't be used: {why}."))?;
    Ok(proxy.map(|proxy| Arc::new(Access { proxy, clock: clock.clone() }) as Arc<dyn IndexAccess>))
}

impl IndexAccess for Access {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn IndexSession>, Problem>> {
        Box::pin(async {
            // Twice 122 random bits.
            let token = format!("{}{}", self.clock.new_id().simple(), self.clock.new_id().simple());
            match self.proxy.open(&token).await {
                Ok(session) => Ok(Box::new(Open(session)) as Box<dyn IndexSession>),
                Err(error) => Err(Problem::new(
                    Code::PackageIndexProxyFailed,
                    "The package was not built.",
                    format!("The proxy to the package index can't listen: {error}."),
                )
                .not_rolled_out()
                .no_action("Holdfast retries. If it persists, the operator checks the limit of open files.")),
            }
        })
    }
}

#[derive(Debug)]
struct Open(Session);

impl IndexSession for Open {
    fn index_url(&self) -> &str {
        self.0.index_url()
    }

    fn without_session(&self, text: &str) -> String {
        self.0.without_proxy(text)
    }
}
