//! Whether the service may listen where it is told to.

use model::Problem;

use super::types::{Listen, RuntimeName};

/// Refuses an address that other machines can reach, when those who call from there could do harm.
///
/// `authentication` says whether callers are asked who they are.
pub(crate) fn check_exposure(
    listen: Listen,
    runtime: RuntimeName,
    authentication: bool,
    insecure: bool,
) -> Result<(), Problem> {
    let Listen(address) = listen;
    if insecure || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let why = match (authentication, runtime) {
        (true, RuntimeName::Kubernetes) => return Ok(()),
        (false, RuntimeName::Kubernetes) => {
            "Other machines may reach this address, and without authentication everyone who does could run code in the \
             cluster and read what jobs keep secret."
        }
        (false, RuntimeName::Local) => {
            "Other machines may reach this address, and without authentication everyone who does could run code on this \
             machine and read what jobs keep secret."
        }
        (true, RuntimeName::Local) => {
            "Other machines may reach this address, and the local runtime runs every job as the same user: whoever may \
             deploy one job could read the data and the secrets of all."
        }
    };
    Err(Problem::forbidden(format!("The service does not listen on {address}."), why)
        .follows("It was not started, and nothing was changed.")
        .fix(format!(
            "Leave `listen` at 127.0.0.1:{}, or accept the risk with --insecure (HOLDFAST_INSECURE=true, or insecure = \
             true in holdfast.toml).",
            address.port()
        )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_is_refused_unless_insecure() {
        for (address, authentication, insecure, refused) in [
            ("127.0.0.1:8092", false, false, false),
            ("127.9.9.9:0", false, false, false),
            ("[::1]:8092", false, false, false),
            ("[::ffff:127.0.0.1]:8092", false, false, false),
            ("0.0.0.0:8092", false, false, true),
            ("[::]:8092", false, false, true),
            ("10.0.0.7:8092", false, false, true),
            ("[::ffff:10.0.0.7]:8092", false, false, true),
            ("10.0.0.7:8092", true, false, true),
            ("10.0.0.7:8092", false, true, false),
            ("0.0.0.0:8092", true, true, false),
        ] {
            let checked =
                check_exposure(Listen(address.parse().unwrap()), RuntimeName::Local, authentication, insecure);
            assert_eq!(checked.is_err(), refused, "{address} {authentication} {insecure}");
        }
    }

    #[test]
    fn the_refusal_says_what_why_what_follows_and_what_to_do() {
        let listen = Listen("0.0.0.0:8092".parse().unwrap());
        let problem = check_exposure(listen, RuntimeName::Local, false, false).unwrap_err();
        assert_eq!(problem.what, "The service does not listen on 0.0.0.0:8092.");
        assert!(problem.why.contains("without authentication"));
        assert_eq!(problem.consequences, "It was not started, and nothing was changed.");
        assert!(problem.countermeasures.contains("127.0.0.1:8092") && problem.countermeasures.contains("--insecure"));
        let problem = check_exposure(listen, RuntimeName::Local, true, false).unwrap_err();
        assert!(problem.why.contains("the local runtime"));
        assert!(check_exposure(listen, RuntimeName::Kubernetes, true, false).is_ok());
        assert!(check_exposure(listen, RuntimeName::Kubernetes, false, false).is_err());
    }
}
