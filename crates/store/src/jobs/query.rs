//! The vocabulary of lists of jobs.

use model::{execution::Status as ExecutionStatus, glob::Glob, rollout::Status as DeploymentStatus};

/// The sort order of a list of jobs. Equal values are sorted by name, and null values come last in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JobSort {
    /// By name.
    #[default]
    Name,
    /// By team.
    Team,
    /// By the first hundred characters of the description.
    Description,
    /// By the next tick; jobs of one schedule are together.
    NextRun,
    /// By whether it has contacts.
    Contacts,
    /// By the outcome of the rollout.
    DeploymentStatus,
    /// Enabled ones first, then disabled ones.
    DeploymentEnabled,
    /// By the Python version that it runs with.
    Python,
    /// By the status of the latest execution.
    LastExecutionStatus,
    /// By the end of the latest execution.
    LastExecutionTime,
    /// By the duration of the latest execution.
    LastExecutionDuration,
    /// By the count of successes.
    SuccessfulExecutions,
    /// By the count of failures.
    FailedExecutions,
}

/// Whether a job has a deployment that was reached, and whether ticks are on for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentFilter {
    /// Deployed and ticks on.
    Enabled,
    /// Deployed and ticks off.
    Disabled,
    /// Not deployed.
    NotDeployed,
}

/// The field of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The next tick, in seconds since 1970.
    NextRun,
    /// The end of the latest execution, in seconds since 1970.
    LastExecutionTime,
    /// The duration of the latest execution, in seconds.
    LastExecutionDuration,
    /// How many executions succeeded.
    SuccessfulExecutions,
    /// How many executions failed.
    FailedExecutions,
}

/// Where a search looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchField {
    /// In the name.
    Name,
    /// In the team.
    Team,
    /// In the description.
    Description,
    /// In the cron expression.
    Cron,
    /// In the digits of the next tick, in seconds since 1970; -1 where there is none.
    NextRun,
    /// In the Python version of the deployment.
    Python,
    /// The whole of `enabled`, `disabled` or `not_deployed`.
    DeploymentEnabled,
    /// The whole of the latest execution's status.
    LastExecutionStatus,
}

/// A text that one of several fields has to hold, in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The text.
    pub text: String,
    /// Where it is looked for.
    pub fields: Vec<SearchField>,
}

impl From<&str> for Search {
    /// A search in names.
    fn from(text: &str) -> Self {
        Self { text: text.into(), fields: vec![SearchField::Name] }
    }
}

/// A filter, an order and a page of jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Patterns of names; each must match.
    pub names: Vec<Glob>,
    /// Patterns of teams; each must match.
    pub teams: Vec<Glob>,
    /// The teams that the caller may read, by their exact names; empty when that is all.
    pub readable_teams: Vec<String>,
    /// Texts that the description contains, in any case.
    pub descriptions: Vec<String>,
    /// Texts that the Python version of the deployment contains.
    pub pythons: Vec<String>,
    /// Figures with the least and the most that they may be.
    pub ranges: Vec<(Measure, i64, i64)>,
    /// A text that one of several fields contains.
    pub search: Option<Search>,
    /// Deployed, and how.
    pub deployment: Option<DeploymentFilter>,
    /// The outcome of the rollout.
    pub deployment_status: Option<DeploymentStatus>,
    /// The status of the latest execution.
    pub last_execution_status: Option<ExecutionStatus>,
    /// The order.
    pub sort: JobSort,
    /// Whether the order is turned round.
    pub descending: bool,
    /// How many jobs the page has at most.
    pub limit: i64,
    /// How many jobs come before it.
    pub offset: i64,
}

impl Search {
    /// The fields that are words.
    pub(super) fn columns(&self) -> Vec<&'static str> {
        let column = |field: &SearchField| match field {
            SearchField::Name => Some("name"),
            SearchField::Team => Some("team"),
            SearchField::Description => Some("description"),
            SearchField::Cron => Some("cron"),
            SearchField::Python => Some("python"),
            SearchField::NextRun | SearchField::DeploymentEnabled | SearchField::LastExecutionStatus => None,
        };
        self.fields.iter().filter_map(column).collect()
    }

    pub(super) fn looks_for_a_number(&self) -> bool {
        self.fields.contains(&SearchField::NextRun)
            && !self.text.is_empty()
            && self.text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    }

    pub(super) fn status(&self) -> Option<ExecutionStatus> {
        let asked = self.fields.contains(&SearchField::LastExecutionStatus);
        asked.then(|| ExecutionStatus::parse(&self.text.to_ascii_uppercase())).flatten()
    }

    /// Whether it can be fulfilled by words alone.
    pub(super) fn is_of_words(&self) -> bool {
        let states = ["enabled", "disabled", "not_deployed"];
        !(self.columns().is_empty()
            || self.looks_for_a_number()
            || self.status().is_some()
            || self.fields.contains(&SearchField::DeploymentEnabled)
                && states.contains(&self.text.to_lowercase().as_str()))
    }
}

impl JobQuery {
    /// Whether there is no condition but (if `but_names`) on the name.
    pub(super) fn is_open(&self, but_names: bool) -> bool {
        let only = Self {
            names: if but_names { self.names.clone() } else { Vec::new() },
            sort: self.sort,
            descending: self.descending,
            limit: self.limit,
            offset: self.offset,
            ..Self::default()
        };
        *self == only
    }

    /// Whether there is a condition on something else than the state of a job; `with_pythons` says whether texts of Python
    /// versions count.
    pub(super) fn has_conditions_beside_state(&self, with_pythons: bool) -> bool {
        let mut patterns = self.names.iter().chain(&self.teams);
        patterns.any(|pattern| !pattern.is_any())
            || !self.readable_teams.is_empty()
            || !self.descriptions.is_empty()
            || !self.ranges.is_empty()
            || self.search.is_some()
            || with_pythons && !self.pythons.is_empty()
    }

    /// The one text that is looked for when nothing else is, with its columns.
    pub(super) fn only_words(&self) -> Option<(Vec<&'static str>, &str)> {
        let (mut rest, mut words) = (self.clone(), Vec::new());
        rest.descriptions.clear();
        rest.search = None;
        words.extend(self.descriptions.iter().map(|text| (vec!["description"], text.as_str())));
        if let Some(search) = &self.search {
            if !search.is_of_words() {
                return None;
            }
            words.push((search.columns(), search.text.as_str()));
        }
        (rest.is_open(false) && words.len() == 1).then(|| words.swap_remove(0))
    }
}
