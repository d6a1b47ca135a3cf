//! Carries accepted starts to their one final status.
//!
//! Each round lists the active executions. A dispatched one has a task of its own that follows it from stage to stage; the
//! others wait for their deployment and for a free place. After a restart the same query finds the same executions: those that
//! the runtime knows are followed, and those that it never got are sent again.

mod dispatch;
mod end;
mod follow;
mod follower;
mod round;
mod scheduled;

pub(crate) use self::round::run;
