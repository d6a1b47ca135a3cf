//! The VDK release that Holdfast is tested with, and the default that it installs.

macro_rules! distribution {
    () => {
        "quickstart-vdk"
    };
}

macro_rules! version {
    () => {
        "0.2.1810444937"
    };
}

macro_rules! heartbeat {
    () => {
        "vdk-heartbeat==0.6.1220258461"
    };
}

macro_rules! setuptools {
    () => {
        "setuptools<81\n"
    };
}

/// The Python package that brings the `vdk` command, its plugins and the generated client (`taurus_datajob_api`).
pub const DISTRIBUTION: &str = distribution!();

/// The version of [`DISTRIBUTION`].
pub const VERSION: &str = version!();

/// [`DISTRIBUTION`] in its [`VERSION`] as a requirement.
pub const REQUIREMENT: &str = concat!(distribution!(), "==", version!());

/// VDK's own check of a whole installation, as a requirement. It creates, deploys, executes and deletes a job.
pub const HEARTBEAT: &str = heartbeat!();

/// The constraints with which [`REQUIREMENT`] installs and works, seen on 2026-11-22.
///
/// Without them it installs after minutes of backtracking and does not start: `vdk-server` wants any `kubernetes`, whose
/// newest wants pydantic 2, against `vdk-control-service-api`, which wants pydantic 1. VDK imports `pkg_resources` when
/// it runs, which setuptools 81 dropped.
pub const CONSTRAINTS: &str = concat!(
    setuptools!(),
    "\
kubernetes<32
vdk-control-cli==1.3.1711238791
vdk-control-service-api==1.0.13
vdk-control-api-auth==0.1.1431637373
vdk-core==0.3.1466514302
vdk-plugin-control-cli==0.1.1431637373
vdk-structlog==0.1.1431637373
vdk-server==0.1.1431637373
",
    heartbeat!(),
    "\n",
    distribution!(),
    "==",
    version!(),
    "\n"
);

/// The constraints that packages are built with: the sources of every VDK package import `pkg_resources` in their
/// `setup.py`.
pub const BUILD_CONSTRAINTS: &str = setuptools!();
