//! The meaning of a token's claims: upstream's model, and teams.

use std::collections::BTreeSet;

use model::{
    Problem,
    access::{refused, unknown_caller},
    name::excerpt,
    problem::Code,
};
use serde_json::Value;

use super::{APPLICATION_PREFIX, JOB_PREFIX, bearer::Claims};

/// The longest name of a user.
const USER_MAX_BYTES: usize = 200;

/// The most teams that count of a token: each is a value of a statement.
const TEAMS_MAX: usize = 500;

/// Upstream's prefix of each authority.
const AUTHORITY_PREFIX: &str = "SCOPE_";

/// Where authorities are when the operator names no claim.
const AUTHORITIES_CLAIMS: [&str; 2] = ["scope", "scp"];

/// Which claims count, and for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimRules {
    /// The claim with the user's name. A token without it stands for a team's OAuth application.
    pub user_claim: String,
    /// A claim that must have one of some values.
    pub custom_claim: Option<String>,
    /// These values; empty when any counts.
    pub custom_values: Vec<String>,
    /// The claim with the authorities: a list, or words in one text. Without it, `scope` or `scp`.
    pub authorities_claim: Option<String>,
    /// The authorities of which a caller needs one; empty when none is needed.
    pub authorized_roles: Vec<String>,
    /// The claim with the teams of a user; without it, users are not limited to teams.
    pub teams_claim: Option<String>,
    /// The authorities of those who are not limited to their teams.
    pub admin_roles: Vec<String>,
}

impl ClaimRules {
    /// Checks the authorities that every caller needs.
    ///
    /// # Errors
    /// Forbidden: the caller is known, and has no business here.
    pub(super) fn check(&self, claims: &Claims) -> Result<(), Problem> {
        if let Some(name) = &self.custom_claim
            && !self.custom_values.is_empty()
        {
            let given = claims.get(name).and_then(Value::as_str);
            if !given.is_some_and(|given| self.custom_values.iter().any(|value| value == given)) {
                return Err(refused(
                    Code::RoleMissing,
                    format!("The claim {} of the access token has no value that is accepted here.", excerpt(name)),
                )
                .fix("Log in with an account of the right organisation, or ask the operator of this service."));
            }
        }
        if !self.authorized_roles.is_empty() && !self.has_one_of(claims, &self.authorized_roles) {
            return Err(refused(
                Code::RoleMissing,
                "The access token has none of the roles that may use this service.",
            )
            .fix("Ask the operator of this service for the role."));
        }
        Ok(())
    }

    /// The user's name; `None` for a token that is not a user's.
    ///
    /// # Errors
    /// Unauthenticated for a name that can't be one.
    pub(super) fn user(&self, claims: &Claims) -> Result<Option<String>, Problem> {
        let name = match claims.get(&self.user_claim) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => String::new(),
        };
        if name.trim().is_empty() || name.len() > USER_MAX_BYTES {
            return Err(unknown_caller(
                Code::AccessTokenInvalid,
                format!("The claim {} of its access token is not the name of a user.", excerpt(&self.user_claim)),
            ));
        }
        // Such a name would look like another one in logs and audit events.
        if name.trim() != name || name.chars().any(is_invisible) {
            return Err(unknown_caller(
                Code::AccessTokenInvalid,
                format!(
                    "The claim {} of its access token begins or ends with a blank, or has control \
                            or invisible characters.",
                    excerpt(&self.user_claim)
                ),
            ));
        }
        let begins_with = |prefix: &str| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        if let Some(prefix) = [JOB_PREFIX, APPLICATION_PREFIX].into_iter().find(|prefix| begins_with(prefix)) {
            return Err(unknown_caller(
                Code::AccessTokenInvalid,
                format!(
                    "The claim {} of its access token begins with \"{prefix}\", which only the names of jobs and applications \
                 do here.",
                    excerpt(&self.user_claim)
                ),
            ));
        }
        Ok(Some(name))
    }

    /// The teams that a user is limited to.
    pub(super) fn teams(&self, claims: &Claims) -> Option<BTreeSet<String>> {
        let claim = self.teams_claim.as_ref()?;
        if self.has_one_of(claims, &self.admin_roles) {
            return None;
        }
        let names: Vec<&str> = match claims.get(claim) {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            // Names of teams have blanks in them.
            Some(Value::String(names)) => names.split(',').collect(),
            _ => Vec::new(),
        };
        Some(names.into_iter().map(str::trim).filter(|n| !n.is_empty()).take(TEAMS_MAX).map(str::to_owned).collect())
    }

    /// The token names no caller: it is neither a user's nor a team's.
    pub(super) fn nobody(&self) -> Problem {
        refused(
            Code::UserUnknown,
            format!(
                "The access token has no claim {}, so it is not a user's, and its subject is not a team's OAuth \
                 application.",
                excerpt(&self.user_claim)
            ),
        )
        .fix("Store the team's OAuth application, or ask the operator to set `auth.user_claim`.")
    }

    fn has_one_of(&self, claims: &Claims, roles: &[String]) -> bool {
        let own = self.authorities(claims);
        roles.iter().any(|role| {
            let bare = role.strip_prefix(AUTHORITY_PREFIX);
            own.iter().any(|authority| authority == role || Some(*authority) == bare)
        })
    }

    fn authorities<'a>(&self, claims: &'a Claims) -> Vec<&'a str> {
        let found = match &self.authorities_claim {
            Some(name) => claims.get(name),
            None => AUTHORITIES_CLAIMS.into_iter().find_map(|name| claims.get(name)),
        };
        match found {
            Some(Value::String(words)) => words.split_whitespace().collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// The client id that a token of an OAuth application has: what follows the first colon of its subject.
pub(super) fn client_id(claims: &Claims) -> Option<&str> {
    let subject = claims.get("sub")?.as_str()?;
    subject.split_once(':').map(|(_, id)| id).filter(|id| !id.is_empty())
}

/// Whether a character is a control or format character, or a separator of lines or paragraphs: Unicode's categories Cc,
/// Cf, Zl and Zp.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(of: Value) -> Claims {
        let Value::Object(claims) = of else { panic!("{of}") };
        claims
    }

    fn list(of: &[&str]) -> Vec<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn one_of_the_roles_is_enough_with_and_without_the_references_prefix() {
        for (claim, token, roles, allowed) in [
            (None, json!({"scope": "openid run"}), vec!["run"], true),
            (None, json!({"scp": ["run"]}), vec!["other", "SCOPE_run"], true),
            (None, json!({"scope": "openid", "scp": ["run"]}), vec!["run"], false),
            (None, json!({"scope": "SCOPE_run"}), vec!["run"], false),
            (None, json!({"scope": 7}), vec!["run"], false),
            (None, json!({}), vec![], true),
            (Some("perms"), json!({"perms": ["org/a:admin"]}), vec!["org/a:admin"], true),
            (Some("perms"), json!({"scope": "run"}), vec!["run"], false),
        ] {
            let rules = ClaimRules {
                authorities_claim: claim.map(str::to_owned),
                authorized_roles: list(&roles),
                ..ClaimRules::default()
            };
            assert_eq!(rules.check(&claims(token.clone())).is_ok(), allowed, "{token} {roles:?}");
        }
    }

    #[test]
    fn a_custom_claim_counts_when_it_has_allowed_values() {
        let rules = |values: &[&str]| ClaimRules {
            custom_claim: Some("org".into()),
            custom_values: list(values),
            ..ClaimRules::default()
        };
        assert!(rules(&["a", "b"]).check(&claims(json!({"org": "b"}))).is_ok());
        for token in [json!({}), json!({"org": "c"}), json!({"org": ["a"]})] {
            assert!(rules(&["a", "b"]).check(&claims(token)).is_err());
        }
        assert!(rules(&[]).check(&claims(json!({}))).is_ok());
    }

    #[test]
    fn teams_come_from_their_claim_and_an_admin_has_none() {
        let rules =
            ClaimRules { teams_claim: Some("groups".into()), admin_roles: list(&["admin"]), ..ClaimRules::default() };
        let teams = |token| rules.teams(&claims(token)).map(|teams| teams.into_iter().collect::<Vec<_>>());
        assert_eq!(teams(json!({"groups": ["b", "team one", 7, ""]})), Some(list(&["b", "team one"])));
        assert_eq!(teams(json!({"groups": "team one, b"})), Some(list(&["b", "team one"])));
        assert_eq!(teams(json!({})), Some(vec![]));
        assert_eq!(teams(json!({"scope": "admin"})), None);
        assert_eq!(ClaimRules::default().teams(&claims(json!({"groups": ["a"]}))), None);
    }

    #[test]
    fn a_user_has_a_name_without_blanks_around_it_and_without_invisible_characters() {
        let rules = ClaimRules { user_claim: "name".into(), ..ClaimRules::default() };
        let user = |name: &str| rules.user(&claims(json!({"name": name}))).map_err(|problem| problem.why);
        for name in ["Ann Lee", "安", "ann@example.org", "jöb:x"] {
            assert_eq!(user(name), Ok(Some(name.to_owned())));
        }
        for c in "\0\t\n\u{7f}\u{85}\u{ad}\u{600}\u{605}\u{61c}\u{6dd}\u{70f}\u{180e}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\
                  \u{2060}\u{206f}\u{feff}\u{fff9}\u{fffb}\u{110bd}\u{e0001}\u{e007f}"
            .chars()
        {
            let why = user(&format!("a{c}b")).unwrap_err();
            assert!(why.contains("invisible characters"), "{c:?}: {why}");
        }
        for name in [" job:x", "ann ", "\u{a0}ann", "ann\u{3000}"] {
            let why = user(name).unwrap_err();
            assert!(why.contains("begins or ends with a blank"), "{name:?}: {why}");
        }
        for name in ["", " ", "\u{2003}", &"x".repeat(USER_MAX_BYTES + 1)] {
            let why = user(name).unwrap_err();
            assert!(why.contains("not the name of a user"), "{name:?}: {why}");
        }
    }

    #[test]
    fn an_application_is_named_after_the_first_colon_of_the_subject() {
        for (subject, id) in
            [("client:app-1", Some("app-1")), ("a:b:c", Some("b:c")), ("app-1", None), ("client:", None), ("", None)]
        {
            assert_eq!(client_id(&claims(json!({"sub": subject}))), id);
        }
        assert_eq!(client_id(&claims(json!({"sub": 7}))), None);
    }
}
