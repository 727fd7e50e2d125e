//! The sources of one image, in the order in which they are tried.

use std::sync::Arc;

use microkube_base::causes::with_causes;

use super::environment::Environment;
use super::limits::Limits;
use super::source::Source;
use crate::credentials::PullSecret;
use crate::error::PullError;
use crate::reference::ImageReference;

/// Mirrors, then the registry itself.
#[derive(Debug)]
pub(super) struct Sources {
    /// Never empty.
    list: Vec<Source>,
    limits: Limits,
}

impl Sources {
    /// Finds the sources of an image. Does not connect yet.
    pub fn new(
        reference: &ImageReference,
        environment: &Arc<Environment>,
        secrets: &[PullSecret],
    ) -> Result<Self, PullError> {
        let mut list = Vec::new();
        for place in environment.settings.places(reference)? {
            list.push(Source::new(place, environment, secrets)?);
        }
        Ok(Self {
            list,
            limits: environment.limits.clone(),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The sources that have not failed.
    pub fn usable(&self) -> impl Iterator<Item = &Source> {
        self.list.iter().filter(|source| source.is_usable())
    }

    /// Records that a source failed: a failed mirror is not used again in this pull.
    pub fn pass_over(&self, source: &Source, error: PullError) -> PullError {
        if !self.is_last(source) {
            tracing::warn!(mirror = source.name(), error = %with_causes(&error), "a mirror failed, trying the next one");
            source.give_up();
        }
        error
    }

    pub fn is_last(&self, source: &Source) -> bool {
        self.list.last().is_some_and(|last| std::ptr::eq(last, source))
    }
}

/// The error if no source is left.
pub(super) fn nothing_left() -> PullError {
    PullError::invalid("registry", "no mirror or registry left to try")
}
