//! Addresses: where a thing of this service is, and where an operator's templates say that logs and sources are.

use jiff::{SignedDuration, Timestamp};
use model::{execution::Execution, job::DataJob, name::ExecutionId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters that a URL contains unencoded.
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

/// A URL with names in braces, such as `{job_name}`, that are filled in for each job or execution. Text that a client chose
/// (team, operation id) is percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

/// How the URL of a log has times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DateFormat {
    /// Milliseconds since 1970.
    #[default]
    Unix,
    /// RFC 3339 in UTC.
    Iso,
}

/// Where the log of an execution can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsUrl {
    /// The URL.
    pub template: Template,
    /// How it has times.
    pub date_format: DateFormat,
    /// Added to the start.
    pub start_offset: SignedDuration,
    /// Added to the end, which is the present for an execution in progress.
    pub end_offset: SignedDuration,
}

impl Template {
    /// The names that the URL of a job's source may have.
    pub const OF_JOB: &'static [&'static str] = &["job_name", "team_name"];

    /// The names that the URL of an execution's log may have.
    pub const OF_EXECUTION: &'static [&'static str] =
        &["execution_id", "op_id", "job_name", "team_name", "start_time", "end_time"];

    /// Reads a template that may have these names. The error is half a sentence.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err("a { in it has no }.".into());
            };
            if !names.contains(&name) {
                return Err(format!("{{{name}}} is none of {{{}}}.", names.join("}, {")));
            }
            rest = after;
        }
        Ok(Self(text.to_owned()))
    }

    /// The text with its names.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL for a job.
    pub(crate) fn of_job(&self, job: &DataJob) -> String {
        self.filled(|part| match part {
            "job_name" => encoded(job.name.as_str()),
            "team_name" => encoded(job.team.as_str()),
            _ => String::new(),
        })
    }

    fn filled(&self, value: impl Fn(&str) -> String) -> String {
        let mut pieces = self.0.split('{');
        let mut address = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (name, rest) = piece.split_once('}').unwrap_or((piece, ""));
            address.push_str(&value(name));
            address.push_str(rest);
        }
        address
    }
}

impl LogsUrl {
    /// Whether it names more of an execution than its identifier and its job.
    pub(crate) fn has_outcome(&self) -> bool {
        ["{op_id}", "{start_time}", "{end_time}"].iter().any(|part| self.template.0.contains(part))
    }

    /// The URL for an execution.
    pub(crate) fn of_execution(&self, run: &Execution, now: Timestamp) -> String {
        let start = run.started_at.unwrap_or(run.submitted_at);
        let end = run.ended_at.unwrap_or(now);
        let time = |at: Timestamp, offset: SignedDuration| {
            let at = at.checked_add(offset).unwrap_or(at);
            match self.date_format {
                DateFormat::Unix => at.as_millisecond().to_string(),
                DateFormat::Iso => at.to_string(),
            }
        };
        self.template.filled(|part| match part {
            "job_name" => encoded(run.job_name.as_str()),
            "team_name" => encoded(run.team.as_str()),
            "execution_id" => encoded(run.id.as_str()),
            "op_id" => encoded(&run.op_id),
            "start_time" => time(start, self.start_offset),
            "end_time" => time(end, self.end_offset),
            _ => String::new(),
        })
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
        let template = parse("https://git.example/{team_name}/tree/{job_name}?a=1");
        assert_eq!(template.of_job(&job), "https://git.example/Team%20%C3%84%26b/tree/daily-sales?a=1");
        assert_eq!(parse("plain}").of_job(&job), "plain}");
    }

    #[test]
    fn a_template_with_an_unknown_name_is_refused() {
        for bad in ["{job}", "{", "a{job_name", "{}", "{ job_name }", "{execution_id}", "{{job_name}}"] {
            assert!(Template::parse(bad, Template::OF_JOB).is_err(), "{bad}");
        }
    }
}
