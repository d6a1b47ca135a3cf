//! Carries accepted starts to their one final status.
//!
//! A round looks at every active row. What was handed over has a task of its own that follows it from stage to stage;
//! what was not waits for its deployment and for room. After a restart the same rounds find the same rows: a run that the
//! runtime still knows is followed, one that it never got is handed over again.

mod dispatch;
mod end;
mod follow;
mod follower;
mod round;
mod scheduled;

pub(crate) use self::round::run;
