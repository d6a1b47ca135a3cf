//! Whether the service may listen on an address.

use model::{Problem, problem::Code};

use super::types::{Listen, RuntimeName};

/// Which callers are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// All callers: authentication is off.
    Unauthenticated,
    /// Callers with a token for any service, because `auth.audiences` is not set.
    OfAnyAudience,
    /// Callers with a token for one of `auth.audiences`.
    Authenticated,
}

/// Rejects an address that other machines can reach, if callers from there could do harm.
///
/// `callers` are the admitted callers.
pub(crate) fn check_exposure(
    listen: Listen,
    runtime: RuntimeName,
    callers: Callers,
    insecure: bool,
) -> Result<(), Problem> {
    let Listen(address) = listen;
    if insecure || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let why = match (callers, runtime) {
        (Callers::Authenticated, RuntimeName::Kubernetes) => return Ok(()),
        (Callers::OfAnyAudience, RuntimeName::Kubernetes) => {
            return Err(Problem::new(
                Code::ListenWithoutAudiences,
                format!("Refusing to listen on {address}."),
                "Others can reach it, and without auth.audiences a token for any other \
                    service would be accepted.",
            )
            .follows("The service was not started.")
            .fix(
                "Set auth.audiences to the \"aud\" of your tokens, or to [\"*\"] to \
                    accept any.",
            ));
        }
        (Callers::Unauthenticated, RuntimeName::Kubernetes) => {
            "Other machines can reach it, and without authentication each of them could run code in the cluster and read \
             the secrets of jobs."
        }
        (Callers::Unauthenticated, RuntimeName::Local) => {
            "Other machines can reach it, and without authentication each of them could run code on this machine and read \
             the secrets of jobs."
        }
        (Callers::OfAnyAudience | Callers::Authenticated, RuntimeName::Local) => {
            "Other machines can reach it, and the local runtime runs every job as the same user: a user who may deploy one \
             job could read the data and the secrets of all."
        }
    };
    Err(Problem::new(Code::ListenUnsafe, format!("Refusing to listen on {address}."), why)
        .follows("The service was not started.")
        .fix(format!("Keep `listen` on 127.0.0.1:{}, or accept the risk with --insecure.", address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_is_refused_unless_insecure() {
        use Callers::{Authenticated, Unauthenticated};
        for (address, callers, insecure, refused) in [
            ("127.0.0.1:8092", Unauthenticated, false, false),
            ("127.9.9.9:0", Unauthenticated, false, false),
            ("[::1]:8092", Unauthenticated, false, false),
            ("[::ffff:127.0.0.1]:8092", Unauthenticated, false, false),
            ("0.0.0.0:8092", Unauthenticated, false, true),
            ("[::]:8092", Unauthenticated, false, true),
            ("10.0.0.7:8092", Unauthenticated, false, true),
            ("[::ffff:10.0.0.7]:8092", Unauthenticated, false, true),
            ("10.0.0.7:8092", Authenticated, false, true),
            ("10.0.0.7:8092", Unauthenticated, true, false),
            ("0.0.0.0:8092", Authenticated, true, false),
        ] {
            let checked = check_exposure(Listen(address.parse().unwrap()), RuntimeName::Local, callers, insecure);
            assert_eq!(checked.is_err(), refused, "{address} {callers:?} {insecure}");
        }
    }

    #[test]
    fn tokens_for_any_service_count_beyond_loopback_only_when_the_operator_says_so() {
        let check = |address: &str, callers, insecure| {
            check_exposure(Listen(address.parse().unwrap()), RuntimeName::Kubernetes, callers, insecure)
        };
        let problem = check("0.0.0.0:8092", Callers::OfAnyAudience, false).unwrap_err();
        assert!(
            problem.code == Code::ListenWithoutAudiences && problem.why.contains("without auth.audiences"),
            "{problem}"
        );
        assert!(problem.countermeasures.contains("[\"*\"]"), "{problem}");
        assert!(check("127.0.0.1:8092", Callers::OfAnyAudience, false).is_ok());
        assert!(check("0.0.0.0:8092", Callers::OfAnyAudience, true).is_ok());
        assert!(check("0.0.0.0:8092", Callers::Authenticated, false).is_ok());
    }

    #[test]
    fn the_refusal_says_what_why_what_follows_and_what_to_do() {
        let listen = Listen("0.0.0.0:8092".parse().unwrap());
        let problem = check_exposure(listen, RuntimeName::Local, Callers::Unauthenticated, false).unwrap_err();
        assert_eq!(problem.what, "Refusing to listen on 0.0.0.0:8092.");
        assert!(problem.why.contains("without authentication"));
        assert_eq!(problem.consequences, "The service was not started.");
        assert!(problem.countermeasures.contains("127.0.0.1:8092") && problem.countermeasures.contains("--insecure"));
        let problem = check_exposure(listen, RuntimeName::Local, Callers::Authenticated, false).unwrap_err();
        assert!(problem.why.contains("the local runtime"));
        assert!(check_exposure(listen, RuntimeName::Kubernetes, Callers::Unauthenticated, false).is_err());
    }
}
