//! URL paths that the layers around the handlers treat differently from others.

/// The metrics endpoint. It answers under any load.
pub(crate) const METRICS_PATH: &str = "/data-jobs/debug/prometheus";

/// The endpoint where a job exchanges its credential for a short-lived access token. It reads forms.
pub const TOKEN_PATH: &str = "/data-jobs/oauth2/token";
