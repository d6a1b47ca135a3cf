//! The runs of a job on a page of jobs, packed into one text. A row for each run would cost more than all else; JSON would cost
//! twice as much on PostgreSQL.
//!
//! Words and numbers end with a space, a text begins with its length in bytes and a colon, and `~` is an absent value.
//! Each member costs, so a run ends where nothing more is wanted. It begins with its identifier: without the name of its job and
//! a dash, or after a slash where it does not begin so. A full stop after it means that it succeeded, with the usual message.
//!
//! Triggers of the database pack the newest runs of each job in the same form, into `newest_executions`.

use std::str::FromStr;

use jiff::Timestamp;
use model::{
    execution::{Execution, Status, Type},
    name::{ExecutionId, JobId, JobName, TeamName},
};

use super::row::{Detail, REVISION, Revisions, execution_id};
use crate::{
    codec::{self, instant, instant_opt},
    error::{Result, StoreError, corrupt},
    meter::{RowBytes, bytes_of},
};

/// Memory of an unpacked execution, without its texts.
const UNPACKED_RUN_BYTES: usize = 512;

/// The fewest bytes of a packed execution that does not end with a full stop.
const PACKED_RUN_BYTES_MIN: usize = 24;

/// Stands for the revision of the execution before.
const SAME: char = '=';

/// The message of most executions that succeeded.
const SUCCESS: &str = "Success";

/// An expression that packs a run as `e` of a job as `j`. With the revision, `e.generation_before` is the generation of the
/// execution before, if that one refers to its revision.
pub(super) fn members(detail: Detail) -> String {
    let word = |name: &str| format!("{name} || ' '");
    let number = |name: &str| format!("coalesce({name} || ' ', '~')");
    let text = |name: &str| format!("coalesce(octet_length({name}) || ':' || {name}, '~')");
    let id = "case when substr(e.execution_id, 1, length(j.name) + 1) = j.name || '-'
        then substr(e.execution_id, length(j.name) + 2) else '/' || e.execution_id end";
    let outcome = format!(
        "case when e.status = 'SUCCEEDED' and e.message = '{SUCCESS}' then '.' else ' ' || {} || {} end",
        word("e.status"),
        text("e.message")
    );
    let mut members = vec![id.to_owned(), outcome];
    if detail >= Detail::Outcome {
        members.extend([
            word("e.type"),
            text("e.op_id"),
            word("e.submitted_at"),
            number("e.started_at"),
            number("e.ended_at"),
        ]);
    }
    if detail >= Detail::Run {
        members.push(text("e.started_by"));
    }
    if detail >= Detail::Revision {
        // Most executions in a row have one revision. It is looked up and sent once.
        members.push(format!(
            "case when e.revision is null and e.generation = e.generation_before then '{SAME}' else {} end",
            text(REVISION)
        ));
    }
    if detail >= Detail::Whole {
        members.extend([number("e.scheduled_tick"), number("e.cancel_requested_at"), text("e.arguments")]);
    }
    members.join(" || ")
}

/// The runs of a job.
#[derive(sqlx::FromRow)]
pub(super) struct PackedRow {
    job_id: String,
    name: String,
    team: String,
    runs: Option<String>,
}

impl RowBytes for PackedRow {
    fn text_bytes(&self) -> usize {
        unpacked_bytes(self.runs.as_deref()) + bytes_of([Some(&self.job_id), Some(&self.name), Some(&self.team)])
    }
}

/// Memory of packed executions and of what becomes of them.
pub(crate) fn unpacked_bytes(packed: Option<&str>) -> usize {
    packed.map_or(0, |packed| {
        let runs_max = packed.matches('.').count() + packed.len() / PACKED_RUN_BYTES_MIN + 1;
        packed.len() + runs_max * UNPACKED_RUN_BYTES
    })
}

impl PackedRow {
    pub(super) fn unpack(self, detail: Detail, limit: i64) -> Result<OfJob> {
        let job_id = codec::job_id(&self.job_id)?;
        let job_name = JobName::parse(&self.name).map_err(|_| corrupt("a job name"))?;
        let team = TeamName::parse(&self.team).map_err(|_| corrupt("a team name"))?;
        let executions = unpack(self.runs.as_deref(), (job_id, &job_name, &team), detail, limit)?;
        Ok(OfJob { job_id, job_name, team, executions })
    }
}

/// A job and a page of its executions.
#[derive(Debug, Clone, PartialEq)]
pub struct OfJob {
    /// The job.
    pub job_id: JobId,
    /// Its name.
    pub job_name: JobName,
    /// Its team.
    pub team: TeamName,
    /// The executions.
    pub executions: Vec<Execution>,
}

/// The first packed executions of a job, at most `limit`; absent when it has none.
pub(crate) fn unpack(
    packed: Option<&str>,
    (job_id, job_name, team): (JobId, &JobName, &TeamName),
    detail: Detail,
    limit: i64,
) -> Result<Vec<Execution>> {
    let (mut runs, mut revisions, mut last_revision) = (Vec::new(), Revisions::default(), None);
    let mut members = Members(packed.unwrap_or_default());
    let limit = usize::try_from(limit).unwrap_or(0);
    while !members.0.is_empty() && runs.len() < limit {
        let id = members.execution_id(job_name)?;
        let (status, message) = members.outcome()?;
        let mut run = Execution {
            id,
            job_id,
            job_name: job_name.clone(),
            team: team.clone(),
            kind: Type::Manual,
            status,
            message,
            op_id: String::new(),
            submitted_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            ended_at: None,
            started_by: String::new(),
            arguments: None,
            scheduled_tick: None,
            cancel_requested_at: None,
            revision: None,
        };
        if detail >= Detail::Outcome {
            run.kind = Type::parse(members.word()?).ok_or_else(|| corrupt("an execution type"))?;
            members.text()?.unwrap_or_default().clone_into(&mut run.op_id);
            run.submitted_at = instant(members.number()?.ok_or_else(damaged)?)?;
            run.started_at = instant_opt(members.number()?)?;
            run.ended_at = instant_opt(members.number()?)?;
        }
        if detail >= Detail::Run {
            members.text()?.unwrap_or_default().clone_into(&mut run.started_by);
        }
        if detail >= Detail::Revision {
            if !members.skip(SAME) {
                last_revision = revisions.parse(members.text()?)?;
            }
            run.revision.clone_from(&last_revision);
        }
        if detail >= Detail::Whole {
            run.scheduled_tick = instant_opt(members.number()?)?;
            run.cancel_requested_at = instant_opt(members.number()?)?;
            run.arguments = members.text()?.map(str::to_owned);
        }
        runs.push(run);
    }
    Ok(runs)
}

fn damaged() -> StoreError {
    corrupt("the executions of a job")
}

/// The rest of a packed text.
struct Members<'a>(&'a str);

impl<'a> Members<'a> {
    fn execution_id(&mut self, job_name: &JobName) -> Result<ExecutionId> {
        let end = self.0.find(['.', ' ']).ok_or_else(damaged)?;
        let (id, rest) = self.0.split_at(end);
        self.0 = rest;
        if let Some(whole) = id.strip_prefix('/') {
            return execution_id(whole);
        }
        let whole = [job_name.as_str(), "-", id].concat();
        ExecutionId::from_text(whole).ok_or_else(|| corrupt("an execution id"))
    }

    fn outcome(&mut self) -> Result<(Status, Option<String>)> {
        if self.skip('.') {
            return Ok((Status::Succeeded, Some(SUCCESS.to_owned())));
        }
        if !self.skip(' ') {
            return Err(damaged());
        }
        let status = Status::parse(self.word()?).ok_or_else(|| corrupt("an execution status"))?;
        Ok((status, self.text()?.map(str::to_owned)))
    }

    fn word(&mut self) -> Result<&'a str> {
        let (word, rest) = self.0.split_once(' ').ok_or_else(damaged)?;
        self.0 = rest;
        Ok(word)
    }

    fn number(&mut self) -> Result<Option<i64>> {
        if self.skip_absent() {
            return Ok(None);
        }
        i64::from_str(self.word()?).map(Some).map_err(|_| damaged())
    }

    fn text(&mut self) -> Result<Option<&'a str>> {
        if self.skip_absent() {
            return Ok(None);
        }
        let (bytes, rest) = self.0.split_once(':').ok_or_else(damaged)?;
        let (text, rest) =
            usize::from_str(bytes).ok().and_then(|bytes| rest.split_at_checked(bytes)).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(Some(text))
    }

    fn skip_absent(&mut self) -> bool {
        self.skip('~')
    }

    fn skip(&mut self, sign: char) -> bool {
        let rest = self.0.strip_prefix(sign);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_may_hold_whatever_ends_a_member() {
        let mut members = Members("a-1 ~-5 5:~ü: 0:~");
        assert_eq!(members.word().unwrap(), "a-1");
        assert_eq!(members.number().unwrap(), None);
        assert_eq!(members.number().unwrap(), Some(-5));
        assert_eq!(members.text().unwrap(), Some("~ü: "));
        assert_eq!(members.text().unwrap(), Some(""));
        assert_eq!(members.text().unwrap(), None);
        assert!(members.word().is_err() && members.text().is_err());
        // Within a character, and beyond the end.
        for damaged in ["1:ü", "9:a", "x:a"] {
            assert!(Members(damaged).text().is_err(), "{damaged}");
        }
    }
}
