//! Records when each of the Pod's conditions last changed (`lastTransitionTime`). `conditions` decides their values.

use k8s_openapi::api::core::v1::PodCondition;
use serde::{Deserialize, Serialize};

use super::interface::{Time, timestamp};

/// The current value of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionState {
    pub kind: &'static str,
    pub is_true: bool,
    pub reason: Option<&'static str>,
    pub message: Option<String>,
}

/// When each condition last changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Conditions {
    since: Vec<(String, bool, Time)>,
}

impl Conditions {
    /// Records changes.
    pub fn observe(&mut self, now: Time, states: &[ConditionState]) {
        self.since = states
            .iter()
            .map(|state| (state.kind.to_owned(), state.is_true, self.since(now, state)))
            .collect();
    }

    /// Whether the condition was true when it was last observed.
    pub fn is_true(&self, kind: &str) -> bool {
        self.since.iter().any(|(known, is_true, _)| known == kind && *is_true)
    }

    fn since(&self, now: Time, state: &ConditionState) -> Time {
        self.since
            .iter()
            .find(|(kind, is_true, _)| kind == state.kind && *is_true == state.is_true)
            .map_or(now, |(.., since)| *since)
    }

    /// The conditions as the status shows them, each with the generation of the Pod for which it was observed.
    pub fn shown(
        &self,
        now: Time,
        states: &[ConditionState],
        generation_of: impl Fn(&str) -> Option<i64>,
    ) -> Vec<PodCondition> {
        states
            .iter()
            .map(|state| PodCondition {
                type_: state.kind.to_owned(),
                status: if state.is_true { "True" } else { "False" }.to_owned(),
                reason: state.reason.map(str::to_owned),
                message: state.message.clone(),
                last_transition_time: timestamp(self.since(now, state)),
                observed_generation: generation_of(state.kind),
                ..PodCondition::default()
            })
            .collect()
    }
}

impl ConditionState {
    pub fn of(kind: &'static str, is_true: bool) -> Self {
        Self {
            kind,
            is_true,
            reason: None,
            message: None,
        }
    }

    pub fn because(mut self, reason: &'static str, message: Option<String>) -> Self {
        self.reason = Some(reason);
        self.message = message;
        self
    }
}
