//! Addresses: where a thing of this service is, and where an operator's templates say that logs and sources are.

use jiff::Timestamp;
use model::{
    Problem,
    execution::Execution,
    job::DataJob,
    name::{ExecutionId, shown},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands for itself in an address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A text as one part of an address.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Where a job is.
pub(crate) fn job(team: &str, name: &str) -> String {
    format!("/data-jobs/for-team/{}/jobs/{}", encoded(team), encoded(name))
}

/// Where a run is.
pub(crate) fn execution(team: &str, name: &str, id: &ExecutionId) -> String {
    format!("{}/executions/{id}", job(team, name))
}

/// An address with parts in braces that are filled in for each job or run.
///
/// The parts are `{job_name}` and `{team_name}`, and for a run also `{execution_id}`, `{op_id}`, `{start_time}` and
/// `{end_time}` (milliseconds since 1970), `{start_time_iso}` and `{end_time_iso}` (RFC 3339). The end of a run that goes
/// on is the present. What is filled in is percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// The parts that a template may have.
    const PARTS: [&'static str; 8] =
        ["job_name", "team_name", "execution_id", "op_id", "start_time", "end_time", "start_time_iso", "end_time_iso"];

    /// Checks a template.
    ///
    /// # Errors
    /// Invalid when a brace is left open or a part is unknown.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let invalid = |why: String| Problem::invalid(format!("The address template {} is not valid.", shown(raw)), why);
        for opened in raw.split('{').skip(1) {
            let Some((part, _)) = opened.split_once('}') else {
                return Err(invalid("A brace is opened in it and not closed.".into()));
            };
            if !Self::PARTS.contains(&part) {
                return Err(invalid(format!(
                    "It has the part {{{part}}}; known are {{{}}}.",
                    Self::PARTS.join("}, {")
                )));
            }
        }
        Ok(Self(raw.to_owned()))
    }

    /// The address for a job.
    pub(crate) fn of_job(&self, job: &DataJob) -> String {
        self.filled(|part| match part {
            "job_name" => encoded(job.name.as_str()),
            "team_name" => encoded(job.team.as_str()),
            _ => String::new(),
        })
    }

    /// The address for a run.
    pub(crate) fn of_execution(&self, run: &Execution, now: Timestamp) -> String {
        let (start, end) = (run.started_at.unwrap_or(run.submitted_at), run.ended_at.unwrap_or(now));
        self.filled(|part| match part {
            "job_name" => encoded(run.job_name.as_str()),
            "team_name" => encoded(run.team.as_str()),
            "execution_id" => encoded(run.id.as_str()),
            "op_id" => encoded(&run.op_id),
            "start_time" => start.as_millisecond().to_string(),
            "end_time" => end.as_millisecond().to_string(),
            "start_time_iso" => encoded(&start.to_string()),
            "end_time_iso" => encoded(&end.to_string()),
            _ => String::new(),
        })
    }

    fn filled(&self, value: impl Fn(&str) -> String) -> String {
        let mut pieces = self.0.split('{');
        let mut address = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (part, rest) = piece.split_once('}').unwrap_or((piece, ""));
            address.push_str(&value(part));
            address.push_str(rest);
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use model::{
        job::JobConfig,
        name::{JobId, JobName, TeamName},
    };

    use super::*;

    #[test]
    fn a_template_is_filled_in_and_percent_encoded() {
        let job = DataJob {
            id: JobId("00000000-0000-0000-0000-000000000000".parse().unwrap()),
            name: JobName::parse("daily-sales").unwrap(),
            team: TeamName::parse("Team Ä&b").unwrap(),
            description: String::new(),
            config: JobConfig::default(),
        };
        let template = Template::parse("https://git.example/{team_name}/tree/{job_name}?a=1").unwrap();
        assert_eq!(template.of_job(&job), "https://git.example/Team%20%C3%84%26b/tree/daily-sales?a=1");
        assert_eq!(Template::parse("plain").unwrap().of_job(&job), "plain");
    }

    #[test]
    fn a_template_with_an_unknown_part_is_refused() {
        for bad in ["{job}", "{", "a{job_name", "{}", "{ job_name }"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
