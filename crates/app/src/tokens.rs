//! The short token of a deployed job, valid for the operations that the job needs while it runs.

use jiff::SignedDuration;
use model::{Problem, access::unknown_caller, clock::Clock, name::JobName, problem::Code};
use secrecy::SecretString;
pub use store::tokens::Access;
use store::{
    Db,
    keys::KeyRing,
    tokens::{Credential, holder},
};

/// How long a short token is valid.
pub const TOKEN_SECONDS: i64 = 900;

/// A short token, and the job that it was issued to.
#[derive(Debug)]
pub struct Exchanged {
    /// The token.
    pub token: SecretString,
    /// The job.
    pub job_name: JobName,
}

/// Exchanges the credential of a deployment for a short token. The credential is valid as long as the
/// deployment: until the job is deleted, or until the last execution ends after a newer deployment.
///
/// # Errors
/// Unauthenticated for anything but a valid credential.
pub async fn exchange(db: &Db, keys: &KeyRing, clock: &dyn Clock, credential: &str) -> Result<Exchanged, Problem> {
    let unknown = || {
        unknown_caller(Code::JobCredentialInvalid, "The refresh token is not the credential of a job that is deployed.")
            .fix("Deploy the job again; each execution gets its credential automatically.")
    };
    let credential = Credential::read(keys, credential).ok_or_else(unknown)?;
    let found = holder(&mut db.read().await?, &credential).await?;
    let job_name = found.ok_or_else(unknown)?;
    let expires_at = clock.now() + SignedDuration::from_secs(TOKEN_SECONDS);
    let access = Access { job_id: credential.job_id, job_name, expires_at };
    Ok(Exchanged { token: access.seal(keys)?, job_name: access.job_name })
}

/// Whether a bearer token was issued to a job here, and not by an issuer.
pub fn is_token_of_a_job(token: &str) -> bool {
    Access::is_one(token)
}

/// Reads a short token and checks that it is valid.
///
/// # Errors
/// Unauthenticated for one that was not issued here, or has expired.
pub fn read(keys: &KeyRing, clock: &dyn Clock, token: &str) -> Result<Access, Problem> {
    let access = Access::read(keys, token)
        .ok_or_else(|| unknown_caller(Code::JobCredentialInvalid, "Its job token was not issued here."))?;
    if access.expires_at <= clock.now() {
        return Err(unknown_caller(Code::AccessTokenExpired, "Its job token has expired."));
    }
    Ok(access)
}
