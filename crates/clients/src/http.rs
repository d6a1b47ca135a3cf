//! The HTTP client for external systems.

use std::time::Duration;

use reqwest::{Client, Response, redirect::Policy};

/// The time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client without redirects and with time limits. It ignores proxy variables of the environment.
pub(crate) fn client(timeout: Duration) -> Client {
    Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
        .no_proxy()
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .build()
        .expect("the platform's certificate verifier and these settings make a client")
}

/// A client for a service that the user of a command names: it follows the proxy variables of the environment, unless `direct`.
pub(crate) fn client_of_user(timeout: Duration, direct: bool) -> Client {
    let builder = Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
    let builder = if direct { builder.no_proxy() } else { builder };
    builder.build().expect("the platform's certificate verifier and these settings make a client")
}

/// The whole body, if it has at most `max_bytes`.
pub(crate) async fn body(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| describe(&error))? {
        if all.len() + part.len() > max_bytes {
            return Err(format!("the answer has more than {max_bytes} bytes"));
        }
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// Why a request failed, without the URL, which may hold a secret.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let why = if error.is_timeout() {
        "it did not answer in time"
    } else if error.is_connect() {
        "it can't be reached"
    } else {
        "the connection broke off"
    };
    why.to_owned()
}
