//! Addresses: where a thing of this service is, and where an operator's templates say that logs and sources are.

use jiff::Timestamp;
use model::{execution::Execution, job::DataJob, name::ExecutionId};
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

/// An address with names in double braces, such as `{{job_name}}`, that are filled in for each job or run, percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// The names that the address of a job's source may have.
    pub const OF_JOB: &'static [&'static str] = &["job_name", "team_name"];

    /// The names that the address of a run's log may have. Times are milliseconds since 1970, those with `_iso` RFC 3339;
    /// the end of a run that goes on is the present.
    pub const OF_EXECUTION: &'static [&'static str] =
        &["execution_id", "op_id", "job_name", "team_name", "start_time", "end_time", "start_time_iso", "end_time_iso"];

    /// Reads a template that may have these names. The error is half a sentence.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                return Err("a {{ in it has no }}.".into());
            };
            if !names.contains(&name) {
                return Err(format!("{{{{{name}}}}} is none of {{{{{}}}}}.", names.join("}}, {{")));
            }
            rest = after;
        }
        Ok(Self(text.to_owned()))
    }

    /// The text with its names.
    pub fn as_str(&self) -> &str {
        &self.0
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
        let mut pieces = self.0.split("{{");
        let mut address = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
            address.push_str(&value(name));
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
        let parse = |text| Template::parse(text, Template::OF_JOB).unwrap();
        let template = parse("https://git.example/{{team_name}}/tree/{{job_name}}?a=1");
        assert_eq!(template.of_job(&job), "https://git.example/Team%20%C3%84%26b/tree/daily-sales?a=1");
        assert_eq!(parse("plain{}").of_job(&job), "plain{}");
    }

    #[test]
    fn a_template_with_an_unknown_name_is_refused() {
        for bad in ["{{job}}", "{{", "a{{job_name", "{{}}", "{{ job_name }}", "{{execution_id}}"] {
            assert!(Template::parse(bad, Template::OF_JOB).is_err(), "{bad}");
        }
    }
}
