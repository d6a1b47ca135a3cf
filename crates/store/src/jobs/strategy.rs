//! How a page of jobs is found, decided from the query and from counts.
//!
//! A page costs the page. Each order has an index; where conditions narrow the list to few jobs, those are found first
//! and sorted, and where they leave many, the index of the order is scanned until the page is full. Which of both is
//! decided by counting, up to a limit: neither database can know it of conditions that are bound later. By name, jobs of
//! one state are scanned along that state's own index, for states and names may go together; so may words and names.

use model::glob::Glob;

use super::query::{JobQuery, JobSort};
use crate::dialect::Dialect;

/// Jobs that are found and sorted rather than met along an order.
pub(super) const FOUND_MAX: i64 = 1000;

/// How many times less than all jobs are a part of them: fewer are quicker sorted than met by chance.
const PART: i64 = 3;

/// The fewest characters that an index of trigrams helps with.
pub(super) const TRIGRAM_CHARS: usize = 3;

/// How the jobs of a page are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// By the indexes of the conditions; then they are sorted.
    FilterThenSort,
    /// Along the index of the order; the conditions are checked on the way.
    ScanOrder,
    /// By the one text of the search, and sorted by the names that are beside the texts.
    WordsByName,
}

/// The counts of a query that are known so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All jobs that it finds.
    pub(super) total: Option<i64>,
    /// The jobs that it finds, as far as one more than [`FOUND_MAX`].
    pub(super) probed: Option<i64>,
    /// All jobs.
    pub(super) all: Option<i64>,
}

/// A decision about a strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// This one.
    Take(Strategy),
    /// It depends on [`Counts::probed`].
    Probe,
    /// It depends on [`Counts::all`].
    CountAll,
}

/// Decides how to find a page, or which count is needed first.
pub(super) fn decide(query: &JobQuery, dialect: Dialect, counts: Counts) -> Decision {
    if query.names.iter().any(Glob::is_exact) {
        return Decision::Take(Strategy::FilterThenSort);
    }
    if query.is_open(query.sort == JobSort::Name) {
        return Decision::Take(Strategy::ScanOrder);
    }
    let Some(found) = counts.total.or(counts.probed) else { return Decision::Probe };
    if found <= FOUND_MAX {
        return Decision::Take(Strategy::FilterThenSort);
    }
    // A search is often for a part of the name: along the order of names, half of all jobs may come before the first.
    match counts.total {
        Some(total) if has_words_by_name(query, dialect) => match counts.all {
            None => Decision::CountAll,
            Some(all) if total * PART <= all => Decision::Take(Strategy::WordsByName),
            Some(_) => Decision::Take(Strategy::ScanOrder),
        },
        _ => Decision::Take(Strategy::ScanOrder),
    }
}

/// Whether the query orders by name and filters by search words alone, so that the index of words serves it.
fn has_words_by_name(query: &JobQuery, dialect: Dialect) -> bool {
    let by_name = query.sort == JobSort::Name;
    let mut words = query.only_words().into_iter().filter(|_| by_name);
    words.any(|(_, text)| dialect == Dialect::Postgres || has_trigrams(text))
}

/// Whether a text is long enough for an index of trigrams.
pub(super) fn has_trigrams(text: &str) -> bool {
    text.to_lowercase().chars().count() >= TRIGRAM_CHARS
}

/// Which conditions on the state of a job may use their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each index is used or not, whatever becomes of the others")]
pub(super) struct StateIndexes {
    /// That of the Python version.
    pub(super) python: bool,
    /// That of the latest execution's status.
    pub(super) last_execution: bool,
    /// That of the rollout's status.
    pub(super) rollout: bool,
    /// That of enabled deployments.
    pub(super) enabled: bool,
}

/// Which conditions on the state of a job may use their index; `pythons` is how many Python versions the query is about,
/// where that is known.
///
/// The index of each state has its jobs in the order of their names: along that order one state is scanned, and the
/// others are checked on the way. Otherwise half of all jobs may share a state, and any other condition serves better.
pub(super) fn state_indexes(query: &JobQuery, strategy: Strategy, pythons: Option<usize>) -> StateIndexes {
    let scans = strategy == Strategy::ScanOrder;
    let along_names = scans && query.sort == JobSort::Name;
    let mut free = along_names || !scans && !query.has_conditions_beside_state(pythons.is_none());
    let python = free && !(scans && pythons != Some(1));
    if pythons.is_some_and(|pythons| !scans || pythons == 1) {
        free = false;
    }
    let mut next = |asked: bool| {
        let is_free = free;
        free &= !(asked && along_names);
        is_free
    };
    StateIndexes {
        python,
        last_execution: next(query.last_execution_status.is_some()),
        rollout: next(query.deployment_status.is_some()),
        enabled: next(query.deployment.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use model::{execution::Status as ExecutionStatus, rollout::Status as DeploymentStatus};

    use super::{super::query::DeploymentFilter, *};

    fn query(sort: JobSort, change: impl FnOnce(&mut JobQuery)) -> JobQuery {
        let mut query = JobQuery { sort, limit: 50, ..JobQuery::default() };
        change(&mut query);
        query
    }

    #[test]
    fn few_jobs_are_sorted_and_many_are_met_along_the_order() {
        use Decision::{CountAll, Probe, Take};
        use Strategy::{FilterThenSort, ScanOrder, WordsByName};
        let counts = |total: Option<i64>, probed: Option<i64>, all: Option<i64>| Counts { total, probed, all };
        let none = Counts::default();
        let (few, many) = (counts(None, Some(1000), None), counts(None, Some(1001), None));
        let (total_few, total_many) = (counts(Some(1000), None, None), counts(Some(5000), None, None));
        let (part, most) = (counts(Some(5000), None, Some(15_000)), counts(Some(5000), None, Some(14_999)));
        let everything = || query(JobSort::Name, |_| {});
        let prefix = || query(JobSort::Name, |q| q.names = vec!["daily*".into()]);
        let prefix_by_end = || query(JobSort::LastExecutionTime, |q| q.names = vec!["daily*".into()]);
        let exact = || query(JobSort::LastExecutionTime, |q| q.names = vec!["daily*".into(), "daily-1".into()]);
        let failed = || query(JobSort::Name, |q| q.last_execution_status = Some(ExecutionStatus::UserError));
        let words = |text: &str| query(JobSort::Name, |q| q.descriptions = vec![text.into()]);
        let words_by_end = || query(JobSort::LastExecutionTime, |q| q.descriptions = vec!["sales".into()]);
        let (sqlite, postgres) = (Dialect::Sqlite, Dialect::Postgres);
        for (case, query, dialect, counts, decision) in [
            ("all, by an order", everything(), sqlite, none, Take(ScanOrder)),
            ("all, by another order", query(JobSort::Team, |_| {}), postgres, none, Take(ScanOrder)),
            ("names begin so, by name", prefix(), sqlite, none, Take(ScanOrder)),
            ("names begin so, by another order", prefix_by_end(), sqlite, none, Probe),
            ("the same, few", prefix_by_end(), sqlite, few, Take(FilterThenSort)),
            ("the same, many", prefix_by_end(), sqlite, many, Take(ScanOrder)),
            ("one name", exact(), sqlite, none, Take(FilterThenSort)),
            ("one name, whatever was counted", exact(), postgres, total_many, Take(FilterThenSort)),
            ("a state", failed(), postgres, none, Probe),
            ("a state, counted for the caller, few", failed(), postgres, total_few, Take(FilterThenSort)),
            ("a state, counted for the caller, many", failed(), postgres, total_many, Take(ScanOrder)),
            ("words", words("sales"), sqlite, none, Probe),
            ("words, few", words("sales"), sqlite, total_few, Take(FilterThenSort)),
            ("words, many, not counted in all", words("sales"), sqlite, many, Take(ScanOrder)),
            ("words, many", words("sales"), sqlite, total_many, CountAll),
            ("words, many, yet a part of all", words("sales"), sqlite, part, Take(WordsByName)),
            ("words, many, and most of all", words("sales"), sqlite, most, Take(ScanOrder)),
            ("words by another order, many", words_by_end(), sqlite, total_many, Take(ScanOrder)),
            ("words too short for SQLite's index, many", words("sa"), sqlite, total_many, Take(ScanOrder)),
            ("the same on PostgreSQL", words("sa"), postgres, total_many, CountAll),
        ] {
            assert_eq!(decide(&query, dialect, counts), decision, "{case}");
        }
    }

    #[test]
    fn one_state_is_scanned_along_names_and_others_serve_where_nothing_else_does() {
        use Strategy::{FilterThenSort, ScanOrder};
        let all_states = |sort| {
            query(sort, |q| {
                q.last_execution_status = Some(ExecutionStatus::UserError);
                q.deployment_status = Some(DeploymentStatus::UserError);
                q.deployment = Some(DeploymentFilter::Enabled);
            })
        };
        let enabled = || query(JobSort::Name, |q| q.deployment = Some(DeploymentFilter::Enabled));
        let with_team = || {
            query(JobSort::Name, |q| {
                q.teams = vec!["sales".into()];
                q.deployment = Some(DeploymentFilter::Enabled);
            })
        };
        let with_any_team = || {
            query(JobSort::Name, |q| {
                q.teams = vec!["*".into()];
                q.deployment = Some(DeploymentFilter::Enabled);
            })
        };
        let python = || query(JobSort::Name, |q| q.pythons = vec!["3.1".into()]);
        for (case, query, strategy, pythons, indexes) in [
            ("found", all_states(JobSort::Name), FilterThenSort, None, [true, true, true, true]),
            ("along names", all_states(JobSort::Name), ScanOrder, None, [false, true, false, false]),
            ("along names, one state", enabled(), ScanOrder, None, [false, true, true, true]),
            ("along another order", all_states(JobSort::Team), ScanOrder, None, [false, false, false, false]),
            ("found beside a team", with_team(), FilterThenSort, None, [false, false, false, false]),
            ("found beside any team", with_any_team(), FilterThenSort, None, [true, true, true, true]),
            ("found, of versions", python(), FilterThenSort, Some(2), [true, false, false, false]),
            ("along names, of one version", python(), ScanOrder, Some(1), [true, false, false, false]),
            ("along names, of several versions", python(), ScanOrder, Some(2), [false, true, true, true]),
            ("found, of unknown versions", python(), FilterThenSort, None, [false, false, false, false]),
        ] {
            let StateIndexes { python, last_execution, rollout, enabled } = state_indexes(&query, strategy, pythons);
            assert_eq!([python, last_execution, rollout, enabled], indexes, "{case}");
        }
    }
}
