//! The layers of this machine, and the gaps without them.

use serde::{Deserialize, Serialize};

use crate::Layers;

/// Whether a layer is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// It is.
    Enforced,
    /// It is not, for this reason.
    Unavailable(String),
}

impl Layer {
    /// Whether it is in force.
    pub fn is_enforced(&self) -> bool {
        matches!(self, Self::Enforced)
    }

    fn missing(&self) -> Option<&str> {
        match self {
            Self::Enforced => None,
            Self::Unavailable(why) => Some(why),
        }
    }
}

/// Which layers this machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    /// User and mount namespaces.
    pub namespaces: Layer,
    /// Landlock, for files.
    pub landlock: Layer,
    /// Landlock, for signals.
    pub signals: Layer,
    /// The system call filter (seccomp).
    pub calls: Layer,
}

impl Support {
    /// No layer, for this reason.
    pub fn none(why: &str) -> Self {
        let missing = || Layer::Unavailable(why.to_owned());
        Self { namespaces: missing(), landlock: missing(), signals: missing(), calls: missing() }
    }

    /// The layers that can be asked for.
    pub fn layers(&self) -> Layers {
        Layers {
            namespaces: self.namespaces.is_enforced(),
            landlock: self.landlock.is_enforced(),
            calls: self.calls.is_enforced(),
        }
    }

    /// Whether the content of hidden folders is out of reach.
    pub fn hides_files(&self) -> bool {
        self.namespaces.is_enforced() || self.landlock.is_enforced()
    }

    /// The layers in force, for people. `None` when hidden folders can be read.
    pub fn describe(&self) -> Option<String> {
        let all =
            [(&self.namespaces, "namespaces"), (&self.landlock, "Landlock"), (&self.calls, "a filter of system calls")];
        let named: Vec<&str> = all.iter().filter(|(layer, _)| layer.is_enforced()).map(|(_, name)| *name).collect();
        self.hides_files().then(|| named.join(", "))
    }

    /// The attacks on the service and between executions that a missing layer allows. One sentence each.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        if !self.hides_files() {
            let why = self.landlock.missing().unwrap_or_default();
            gaps.push(format!("Local jobs can read and change the service's data, because {why}."));
        }
        if let Some(why) = self.namespaces.missing() {
            gaps.push(format!(
                "Local jobs can change modes, owners and times of the service's files, because {why}. Holdfast restores \
                 the modes."
            ));
        }
        if let Some(why) = self.landlock.missing() {
            gaps.push(format!(
                "Local jobs can change memory scores and control groups of the service's processes, because {why}."
            ));
        }
        if let Some(why) = self.signals.missing() {
            gaps.push(format!("Local jobs can end the service and other executions by signals, because {why}."));
        }
        if let Some(why) = self.calls.missing() {
            gaps.push(format!("Local jobs can change limits and priorities of the service, because {why}."));
        }
        gaps
    }
}
