//! Callers and their permissions. Every operation takes the caller and checks it first, so that no transport can omit the
//! check.
//!
//! The rule ([`decide`]) is pure: a standing, an action and a team. The operator's authorization webhook is asked after it,
//! through [`RequestAuthorizer`], and never within a transaction. A [`Permit`] is the proof that both agreed; a job can't be looked up
//! without one.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    BoxFuture, Problem,
    name::{JobId, TeamName, excerpt},
    preconditions::Preconditions,
    problem::Code,
};

/// The caller of an operation.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's name, as it is recorded in `deployed_by`, `started_by` and the audit trail. Different callers have
    /// different names.
    pub user: String,
    /// A key for limits per caller: the issuer and the name for users and applications, the id for jobs. It is not for
    /// people, and does not depend on how many issuers there are.
    pub principal: String,
    /// The operation id (`X-OPID`) that links the request, its log lines and its effects.
    pub op_id: String,
    /// The preconditions and the idempotency key of the request.
    pub preconditions: Preconditions,
    /// The identity and the rights of the caller.
    pub identity: Identity,
    /// The authorization webhook of the operator, asked in addition to the rule.
    pub authorizer: Option<Arc<dyn RequestAuthorizer>>,
    /// Whether only one team may have jobs, because jobs of several could read each other's data where they run.
    pub one_team: bool,
}

/// The identity and the rights of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Authentication is off: every caller may do everything.
    AuthDisabled,
    /// Authentication is on, and the request has no credentials.
    Unauthenticated,
    /// A user who was authenticated.
    User {
        /// The teams that the user belongs to; `None` when users are not limited to teams, or this one isn't.
        teams: Option<BTreeSet<String>>,
    },
    /// The OAuth application of one team or more.
    Application {
        /// These teams; empty when the application belongs to none.
        teams: BTreeSet<String>,
    },
    /// A deployed job, limited to the operations that it needs while it runs.
    Job {
        /// The job.
        id: JobId,
        /// Whether it may start executions of its team's jobs and read how they ended.
        starts_jobs: bool,
    },
}

/// The operation that a caller requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Find the client id of a team, or the team of a client id. Open to everyone, as other services need it to let
    /// callers in.
    FindTeam,
    /// List jobs and runs of all teams that the caller may read, or learn what the service offers.
    List,
    /// Read a job, its deployment, sources, runs and history.
    Read,
    /// Create, change, move, deploy, cancel or delete.
    Change,
    /// Start an execution.
    Start,
    /// Read an execution, without its log.
    ReadExecution,
    /// List the executions of a job.
    ListExecutions,
    /// Read what the job itself needs while it runs: properties and secrets.
    ReadOwn,
    /// Replace what the job itself keeps: properties and secrets.
    ChangeOwn,
    /// Read the OAuth application of a team, with its secret.
    ReadCredentials,
    /// Replace the OAuth application of a team.
    ChangeCredentials,
}

impl Action {
    /// Whether a job needs it for the executions that it starts, with `auth.jobs_may_start_jobs`.
    fn is_for_children(self) -> bool {
        matches!(self, Self::Start | Self::ReadExecution | Self::ListExecutions)
    }

    /// Whether it changes something.
    pub fn changes(self) -> bool {
        matches!(self, Self::Change | Self::Start | Self::ChangeOwn | Self::ChangeCredentials)
    }
}

/// A question to the operator's authorization webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRequest<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The operation that the user requests.
    pub action: Action,
    /// The team; absent for a list of all teams.
    pub team: Option<&'a str>,
    /// The new team, if the job moves.
    pub new_team: Option<&'a str>,
    /// The job; absent for a team or a list.
    pub job: Option<&'a str>,
}

/// The operator's authorization webhook, for one request.
pub trait RequestAuthorizer: Send + Sync + std::fmt::Debug {
    /// Whether the user may do it.
    ///
    /// # Errors
    /// Forbidden, or another rejection of the webhook; Unavailable if the webhook can't be reached.
    fn ask<'a>(&'a self, access: &'a AccessRequest<'a>) -> BoxFuture<'a, Result<(), Problem>>;
}

/// The proof that a caller may do what it asked for with this job.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a> {
    team: &'a str,
    name: &'a str,
    own: Option<JobId>,
    of_team: bool,
}

impl Permit<'_> {
    /// The team that was asked about.
    pub fn team(&self) -> &str {
        self.team
    }

    /// The name of the job that was asked about.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The job whose token was sent, if the permit is valid for every job of its team.
    pub fn of_team_of(&self) -> Option<JobId> {
        self.own.filter(|_| self.of_team)
    }

    /// Whether it is valid for the job that was found under this name; `None` if no job was found.
    ///
    /// # Errors
    /// Forbidden for a job that requests another job, whether or not that job exists.
    pub fn covers(&self, found: Option<JobId>) -> Result<(), Problem> {
        if self.own.is_none() || self.own == found {
            return Ok(());
        }
        Err(refused(
            Code::JobTokenScopeExceeded,
            format!("The token of a job is valid only for that job, not for {}.", excerpt(self.name)),
        ))
    }
}

impl Caller {
    /// The name of callers while authentication is off.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// A caller when authentication is off.
    pub fn anonymous(op_id: impl Into<String>) -> Self {
        Self {
            user: Self::ANONYMOUS.into(),
            principal: Self::ANONYMOUS.into(),
            op_id: op_id.into(),
            preconditions: Preconditions::default(),
            identity: Identity::AuthDisabled,
            authorizer: None,
            one_team: false,
        }
    }

    /// An unauthenticated caller: the initial state of a request.
    pub fn unauthenticated(op_id: impl Into<String>) -> Self {
        Self { identity: Identity::Unauthenticated, ..Self::anonymous(op_id) }
    }

    /// Asks for permission to do something with a job.
    ///
    /// # Errors
    /// Unauthenticated, Forbidden, or a rejection of the authorization webhook.
    pub async fn may<'a>(&self, action: Action, team: &'a str, name: &'a str) -> Result<Permit<'a>, Problem> {
        decide(&self.identity, action, Some(team))?;
        self.ask(action, Some(team), None, Some(name)).await?;
        let (own, starts_jobs) = match self.identity {
            Identity::Job { id, starts_jobs } => (Some(id), starts_jobs),
            _ => (None, false),
        };
        Ok(Permit { team, name, own, of_team: starts_jobs && action.is_for_children() })
    }

    /// Asks for permission to change a job so that it belongs to `new_team` afterwards. Both teams need the permission.
    ///
    /// # Errors
    /// As [`Caller::may`].
    pub async fn may_move<'a>(&self, team: &'a str, name: &'a str, new_team: &str) -> Result<Permit<'a>, Problem> {
        decide(&self.identity, Action::Change, Some(team))?;
        decide(&self.identity, Action::Change, Some(new_team))?;
        self.ask(Action::Change, Some(team), Some(new_team), Some(name)).await?;
        Ok(Permit { team, name, own: None, of_team: false })
    }

    /// Asks for permission to do something with what belongs to a team itself.
    ///
    /// # Errors
    /// As [`Caller::may`].
    pub async fn may_with_team(&self, action: Action, team: &str) -> Result<(), Problem> {
        decide(&self.identity, action, Some(team))?;
        self.ask(action, Some(team), None, None).await
    }

    /// Asks for permission to list, and returns the teams that the list is limited to; `None` when it isn't.
    ///
    /// # Errors
    /// As [`Caller::may`].
    pub async fn may_list(&self) -> Result<Option<&BTreeSet<String>>, Problem> {
        decide(&self.identity, Action::List, None)?;
        self.ask(Action::List, None, None, None).await?;
        Ok(match &self.identity {
            Identity::User { teams } => teams.as_ref(),
            Identity::Application { teams } => Some(teams),
            Identity::AuthDisabled | Identity::Unauthenticated | Identity::Job { .. } => None,
        })
    }

    async fn ask(
        &self,
        action: Action,
        team: Option<&str>,
        new_team: Option<&str>,
        job: Option<&str>,
    ) -> Result<(), Problem> {
        match (&self.authorizer, &self.identity) {
            (Some(authorizer), Identity::User { .. }) if action != Action::FindTeam => {
                authorizer.ask(&AccessRequest { user: &self.user, action, team, new_team, job }).await
            }
            _ => Ok(()),
        }
    }
}

/// Decides whether a caller of this standing may do this with what belongs to this team.
///
/// The decision uses the team of the request, before anything is looked up. A request for another team is rejected whether
/// or not the job exists, so that its existence stays hidden. `None` stands for all teams; the result is then limited to those
/// of the caller.
///
/// # Errors
/// Unauthenticated for a stranger, Forbidden for a caller that is known and may not.
pub fn decide(identity: &Identity, action: Action, team: Option<&str>) -> Result<(), Problem> {
    if action == Action::FindTeam {
        return Ok(());
    }
    let teams = match identity {
        Identity::AuthDisabled | Identity::User { teams: None } => return Ok(()),
        Identity::Unauthenticated => return Err(unknown_caller(Code::AccessTokenMissing, "It has no access token.")),
        Identity::Job { .. } if matches!(action, Action::ReadOwn | Action::ChangeOwn | Action::ListExecutions) => {
            return Ok(());
        }
        Identity::Job { starts_jobs: true, .. } if action.is_for_children() => return Ok(()),
        Identity::Job { .. } => {
            return Err(refused(
                Code::JobTokenScopeExceeded,
                "The token of a job is valid only for the job's properties, secrets and list of executions.",
            )
            .fix("Use the token of a user, or of a team's OAuth application."));
        }
        Identity::User { teams: Some(teams) } | Identity::Application { teams } => teams,
    };
    match (team, identity) {
        (None, _) => Ok(()),
        (Some(team), _) if teams.contains(team) => Ok(()),
        (Some(team), Identity::Application { .. }) => Err(refused(
            Code::TeamPermissionDenied,
            format!("The OAuth application that sent it is not the one of the team {}.", excerpt(team)),
        )),
        (Some(team), _) => {
            Err(refused(Code::TeamPermissionDenied, format!("You do not belong to the team {}.", excerpt(team))))
        }
    }
}

/// Decides whether a team may have jobs beside another one, where only one team may.
///
/// # Errors
/// Forbidden.
pub fn decide_one_team(only: &TeamName, team: &TeamName) -> Result<(), Problem> {
    if only == team {
        return Ok(());
    }
    Err(Problem::new(
        Code::TeamNotIsolated,
        format!("The team {} can't have jobs here.", excerpt(team.as_str())),
        format!(
            "The team {} has jobs here, and local jobs of one operating-system user can read each other's data.",
            excerpt(only.as_str())
        ),
    )
    .nothing_changed()
    .fix("Run one service per team, or set `auth.teams_trust_each_other` to true."))
}

/// A request without valid credentials.
pub fn unknown_caller(code: Code, why: impl Into<String>) -> Problem {
    Problem::new(code, "The request was rejected: its sender is not known.", why)
        .follows("Nothing was read or changed.")
        .fix("Log in (`vdk login`), or send a valid access token as \"Authorization: Bearer <token>\".")
}

/// A request whose sender is known and lacks the permission.
pub fn refused(code: Code, why: impl Into<String>) -> Problem {
    Problem::new(code, "The request was rejected: its sender lacks the permission.", why)
        .follows("Nothing was read or changed.")
        .fix("Check the name of the team, or ask the operator for the permission.")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::problem::Kind;

    const ACTIONS: [Action; 11] = [
        Action::FindTeam,
        Action::List,
        Action::Read,
        Action::Change,
        Action::ReadOwn,
        Action::ChangeOwn,
        Action::ReadCredentials,
        Action::ChangeCredentials,
        Action::Start,
        Action::ReadExecution,
        Action::ListExecutions,
    ];

    fn teams(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// One letter an action: `.` allowed, `u` unauthenticated, `f` forbidden.
    fn row(identity: &Identity, team: Option<&str>) -> String {
        let cell = |action| match decide(identity, action, team) {
            Ok(()) => '.',
            Err(problem) if problem.kind == Kind::Unauthenticated => 'u',
            Err(problem) if problem.kind == Kind::Forbidden => 'f',
            Err(problem) => panic!("{problem}"),
        };
        ACTIONS.into_iter().map(cell).collect()
    }

    #[test]
    fn each_standing_may_what_the_table_says() {
        let job = |starts_jobs| Identity::Job { id: JobId(Uuid::from_u128(1)), starts_jobs };
        #[rustfmt::skip]
        let table = [
            //                                          find list read change own own cred cred start execution executions
            (Identity::AuthDisabled,                                     Some("a"), "........|..."),
            (Identity::Unauthenticated,                                   Some("a"), ".uuuuuuu|uuu"),
            (Identity::Unauthenticated,                                   None,      ".uuuuuuu|uuu"),
            (Identity::User { teams: None },                       Some("a"), "........|..."),
            (Identity::User { teams: Some(teams(&["a"])) },        Some("a"), "........|..."),
            (Identity::User { teams: Some(teams(&["a"])) },        Some("b"), ".fffffff|fff"),
            (Identity::User { teams: Some(teams(&["a"])) },        Some("A"), ".fffffff|fff"),
            (Identity::User { teams: Some(teams(&[])) },           Some("a"), ".fffffff|fff"),
            (Identity::User { teams: Some(teams(&[])) },           None,      "........|..."),
            (Identity::Application { teams: teams(&["a", "b"]) },  Some("b"), "........|..."),
            (Identity::Application { teams: teams(&["a"]) },       Some("b"), ".fffffff|fff"),
            (job(false),                                           Some("a"), ".fff..ff|ff."),
            (job(true),                                            Some("a"), ".fff..ff|..."),
        ];
        for (identity, team, expected) in table {
            assert_eq!(row(&identity, team), expected.replace('|', ""), "{identity:?} {team:?}");
        }
    }

    #[test]
    fn a_job_is_permitted_itself_and_learns_nothing_of_others() {
        let (own, other) = (JobId(Uuid::from_u128(1)), JobId(Uuid::from_u128(2)));
        let permit = Permit { team: "a", name: "other-job", own: Some(own), of_team: false };
        assert!(permit.covers(Some(own)).is_ok());
        let foreign = permit.covers(Some(other)).unwrap_err();
        assert_eq!(foreign, permit.covers(None).unwrap_err());
        assert_eq!(foreign.kind, Kind::Forbidden);
        let of_a_user = Permit { own: None, ..permit };
        assert!(of_a_user.covers(Some(other)).is_ok() && of_a_user.covers(None).is_ok());
    }
}
