//! Entry points for the fuzz targets, which need private functions.

use jiff::Timestamp;

use crate::journal;
use crate::read;
use crate::resource::{Generation, Resource};
use crate::revisions::{self, Stem};
use crate::rules;
use crate::version::ResourceVersion;

/// Parses the input as a file name, and as the file of the ConfigMap `a`. An object that can be read can be written,
/// read again, and changed by the rules.
pub fn object_file(data: &[u8]) {
    journal::parse_lines(data);
    if let Ok(name) = std::str::from_utf8(data)
        && let Some((stem, revision)) = revisions::parse(name)
    {
        assert_eq!(stem.file_name(revision), name);
    }
    let resource = Resource {
        group: "".into(),
        version: "v1".into(),
        kind: "ConfigMap".into(),
        plural: "configmaps".into(),
        namespaced: true,
        generation: Generation::OfSpecAndAnnotations,
    };
    let Ok(object) = read::object_in(data, &resource, Some("default"), &Stem::of("a")) else {
        return;
    };
    let object = object.at(ResourceVersion(7));
    let file = object.to_file().expect("what can be read can be written");
    // The object may differ: parsing changes the last digit of some numbers.
    let again = read::object_in(&file, &resource, Some("default"), &Stem::of("a"));
    again.expect("what is written can be read");
    for grace_seconds in [0, 30] {
        rules::delete(&object, grace_seconds, Timestamp::UNIX_EPOCH);
    }
    // An update with the same object can fail only because of its apiVersion.
    let _ = rules::update(&resource, &object, object.clone());
}
