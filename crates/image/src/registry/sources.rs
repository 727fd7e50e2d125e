//! The places that one image can be fetched from, in the order in which they are asked.

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
    /// Those of an image. Does not connect yet.
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

    /// Those that are left to ask.
    pub fn usable(&self) -> impl Iterator<Item = &Source> {
        self.list.iter().filter(|source| source.is_usable())
    }

    /// Notes that a source failed: a mirror is not asked again in this pull.
    pub fn pass_over(&self, source: &Source, error: PullError) -> PullError {
        if !self.is_last(source) {
            tracing::warn!(mirror = source.name(), error = %with_causes(&error), "a mirror failed, going on with the next");
            source.give_up();
        }
        error
    }

    pub fn is_last(&self, source: &Source) -> bool {
        self.list.last().is_some_and(|last| std::ptr::eq(last, source))
    }
}

/// The error when no source is left.
pub(super) fn nothing_left() -> PullError {
    PullError::invalid("registry", "no mirror and no registry is left to ask")
}
