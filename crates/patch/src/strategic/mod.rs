//! Strategic merge patch: apimachinery's `pkg/util/strategicpatch`, on the schema of a kind.
//!
//! A patch has the form of the object. Maps are merged, `null` removes a field, and lists are merged or replaced as the
//! schema says. Directives in a patch:
//!
//! | directive | effect |
//! |---|---|
//! | `$patch: replace` in a map | the map is replaced by the rest of the patch |
//! | `$patch: delete` in a map | the map becomes empty |
//! | `$patch: delete` in an item of a list | the items with the same merge key are removed |
//! | `$patch: replace` in an item of a list | the list is replaced by the other items |
//! | `$deleteFromPrimitiveList/f: […]` | these values are removed from the list `f` |
//! | `$setElementOrder/f: […]` | the items of the list `f` get this order |
//! | `$retainKeys: […]` | all other fields of the map are removed |
//!
//! Differences from apimachinery:
//!
//! - Content that a patch adds contains no directives and no `null` in its maps afterwards, including new items of
//!   lists and content after `$patch: replace`. apimachinery leaves some, and the API server then refuses them as
//!   unknown fields.
//! - Values that would make Go panic (a merge key that is a map, a list that begins with `null`) are errors. An order
//!   for an empty list has no effect.
//! - Results are deterministic: `$deleteFromPrimitiveList` acts before the list of the same name is merged.
//! - A patch contains the order of a list of primitive values only if the list changes. apimachinery compares it with
//!   the sorted original, so it also sends the order of an unsorted list that is unchanged.
//! - A patch contains a map that is replaced as a whole only if the map changes.
//! - Unknown fields are merged or replaced by their type. The validation refuses them.

mod apply;
mod conflict;
mod diff;
mod directive;
mod key;
mod list;
mod three_way;

pub use apply::apply;
pub use conflict::conflict;
pub use diff::diff;
pub use three_way::three_way;
