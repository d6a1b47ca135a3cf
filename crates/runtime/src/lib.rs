//! Where jobs run.
//!
//! Each place implements [`model::runtime::Runtime`]. [`local`] runs jobs as processes of this machine.

pub mod local;
