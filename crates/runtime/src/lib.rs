//! Where jobs run.
//!
//! Each place implements [`model::runtime::Runtime`]. [`local`] runs jobs as processes of this machine, [`kubernetes`] in a
//! cluster.

pub mod kubernetes;
pub mod local;
mod logs;
