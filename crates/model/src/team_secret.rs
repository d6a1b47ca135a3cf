//! The names of the secrets with teams' OAuth applications in a cluster.
//!
//! Upstream's operators make the secret `team-oauth-<team>`, with the team's name in the form that names of objects have.
//! Several teams can have one form: the first known team keeps the plain name, and the others get a suffix, so that no team
//! ever gets the secret of another one.

use sha2::{Digest, Sha256};

use crate::name::TeamName;

/// The prefix of each name.
const PREFIX: &str = "team-oauth-";

/// The longest name of an object that upstream gives.
const NAME_MAX_BYTES: usize = 63;

/// The numbers of hexadecimal digits that a suffix may have, in the order in which they are tried.
const SUFFIX_DIGITS: [usize; 3] = [8, 16, 32];

/// Upstream's name: lower case, with one dash in place of each run of characters that names of objects can't have. `None`
/// when nothing of the team's name is left in it.
pub fn plain(team: &TeamName) -> Option<String> {
    if !team.as_str().contains(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let mut name = normalized(team);
    name.truncate(NAME_MAX_BYTES);
    if name.ends_with('-') {
        // Upstream's library replaces the last two characters by a letter then.
        name.truncate(name.len() - 2);
        name.push('a');
    }
    Some(name)
}

/// The names that a team can have, the preferred one first.
pub fn names(team: &TeamName) -> impl Iterator<Item = String> {
    let digest = hex::encode(Sha256::digest(team.as_str()));
    let base = normalized(team);
    let suffixed = SUFFIX_DIGITS.into_iter().map(move |digits| {
        let cut = base.len().min(NAME_MAX_BYTES - 1 - digits);
        format!("{}-{}", base[..cut].trim_end_matches('-'), &digest[..digits])
    });
    plain(team).into_iter().chain(suffixed)
}

fn normalized(team: &TeamName) -> String {
    let mut name = PREFIX.to_owned();
    let mut in_run = false;
    for c in team.as_str().chars() {
        let fits = c.is_ascii_alphanumeric() || c == '-';
        if fits || !in_run {
            name.push(if fits { c.to_ascii_lowercase() } else { '-' });
        }
        in_run = !fits;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(name: &str) -> TeamName {
        TeamName::parse(name).unwrap()
    }

    #[test]
    fn the_plain_name_is_upstreams() {
        for (name, secret) in [
            ("finance", "team-oauth-finance"),
            ("Finance", "team-oauth-finance"),
            ("Sales & Co", "team-oauth-sales-co"),
            ("a - b", "team-oauth-a---b"),
            ("-a", "team-oauth--a"),
            ("été1", "team-oauth--t-1"),
            ("finance!", "team-oauth-financa"),
            ("aé", "team-oauth-a"),
        ] {
            assert_eq!(plain(&team(name)).as_deref(), Some(secret), "{name}");
        }
        assert_eq!(plain(&team(&"x".repeat(100))).unwrap().len(), NAME_MAX_BYTES);
        for name in ["小", "--", "& &"] {
            assert_eq!(plain(&team(name)), None, "{name}");
        }
    }

    #[test]
    fn a_name_with_a_suffix_fits_an_object_and_differs_between_teams() {
        let with_suffix = |name: &str| names(&team(name)).nth(usize::from(plain(&team(name)).is_some())).unwrap();
        assert_eq!(with_suffix("Finance"), "team-oauth-finance-b696d755");
        assert_ne!(with_suffix("finance"), with_suffix("Finance"));
        assert_ne!(with_suffix("小"), with_suffix("大"));
        for name in ["小", "--", "finance!", "Sales & Co", &"x".repeat(100), &"-".repeat(100)] {
            for secret in names(&team(name)) {
                assert!(secret.len() <= NAME_MAX_BYTES && !secret.ends_with('-'), "{secret}");
                assert!(secret.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{secret}");
            }
        }
    }
}
