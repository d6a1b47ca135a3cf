//! The runs of a job on a page of jobs, packed into one text. A row for each run would cost more than all else; JSON would cost
//! twice as much on PostgreSQL.
//!
//! Words and numbers end with a space, a text begins with its length in bytes and a colon, and `~` stands for what is absent.
//! Each member costs, so a run ends where nothing more is wanted.

use std::str::FromStr;

use model::{
    execution::{Execution, Status, Type},
    name::{JobName, TeamName},
};

use super::row::{Detail, REVISION, Revisions, execution_id};
use crate::{
    codec::{self, instant, instant_opt},
    error::{Result, StoreError, corrupt},
    meter::{RowBytes, bytes_of},
};

/// Memory of an unpacked execution, without its texts.
const UNPACKED_RUN_BYTES: usize = 512;

/// The fewest bytes of a packed execution.
const PACKED_RUN_BYTES_MIN: usize = 64;

/// An expression that packs a run as `e` of a job as `j`.
pub(super) fn members(detail: Detail) -> String {
    let word = |name: &str| format!("{name} || ' '");
    let number = |name: &str| format!("coalesce({name} || ' ', '~')");
    let text = |name: &str| format!("coalesce(octet_length({name}) || ':' || {name}, '~')");
    let mut members = vec![
        word("e.execution_id"),
        word("e.type"),
        word("e.status"),
        text("e.op_id"),
        word("e.submitted_at"),
        number("e.started_at"),
        number("e.ended_at"),
        text("e.message"),
    ];
    if detail >= Detail::Run {
        members.push(text("e.started_by"));
    }
    if detail >= Detail::Revision {
        members.extend([number("e.scheduled_tick"), number("e.cancel_requested_at"), text(REVISION)]);
    }
    if detail >= Detail::Whole {
        members.push(text("e.arguments"));
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
        let runs = self.runs.as_ref().map_or(0, |runs| runs.len() / PACKED_RUN_BYTES_MIN + 1);
        runs * UNPACKED_RUN_BYTES
            + bytes_of([Some(&self.job_id), Some(&self.name), Some(&self.team), self.runs.as_ref()])
    }
}

impl PackedRow {
    pub(super) fn unpack(self, detail: Detail, revisions: &mut Revisions, into: &mut Vec<Execution>) -> Result<()> {
        let Some(runs) = self.runs else { return Ok(()) };
        let job_id = codec::job_id(&self.job_id)?;
        let job_name = JobName::parse(&self.name).map_err(|_| corrupt("a job name"))?;
        let team = TeamName::parse(&self.team).map_err(|_| corrupt("a team name"))?;
        let mut members = Members(&runs);
        while !members.0.is_empty() {
            let mut run = Execution {
                id: execution_id(members.word()?)?,
                job_id,
                job_name: job_name.clone(),
                team: team.clone(),
                kind: Type::parse(members.word()?).ok_or_else(|| corrupt("an execution type"))?,
                status: Status::parse(members.word()?).ok_or_else(|| corrupt("an execution status"))?,
                op_id: members.text()?.unwrap_or_default().to_owned(),
                submitted_at: instant(members.number()?.ok_or_else(damaged)?)?,
                started_at: instant_opt(members.number()?)?,
                ended_at: instant_opt(members.number()?)?,
                message: members.text()?.map(str::to_owned),
                started_by: String::new(),
                arguments: None,
                scheduled_tick: None,
                cancel_requested_at: None,
                revision: None,
            };
            if detail >= Detail::Run {
                members.text()?.unwrap_or_default().clone_into(&mut run.started_by);
            }
            if detail >= Detail::Revision {
                run.scheduled_tick = instant_opt(members.number()?)?;
                run.cancel_requested_at = instant_opt(members.number()?)?;
                run.revision = revisions.parse(members.text()?)?;
            }
            if detail >= Detail::Whole {
                run.arguments = members.text()?.map(str::to_owned);
            }
            into.push(run);
        }
        Ok(())
    }
}

fn damaged() -> StoreError {
    corrupt("the executions of a job")
}

/// The rest of a packed text.
struct Members<'a>(&'a str);

impl<'a> Members<'a> {
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
        let rest = self.0.strip_prefix('~');
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
