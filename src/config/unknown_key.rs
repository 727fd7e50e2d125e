//! Messages about unknown keys, with the nearest known key.

use microkube_manifest::suggest::{nearest, shorten};

use super::settings::{SECTIONS, SETTINGS, Setting};

/// The message about an unknown key at the top of the file.
pub(super) fn in_file(key: &str) -> String {
    let hint = match (nearest(key, &SECTIONS), setting_named(key)) {
        (Some(section), _) => format!("did you mean {section:?}?"),
        (None, Some(setting)) => elsewhere(setting),
        (None, None) => format!("expected one of {}", SECTIONS.join(", ")),
    };
    format!("unknown key {:?}; {hint}", shorten(key))
}

/// The message about an unknown key in a section.
pub(super) fn in_section(section: &str, key: &str) -> String {
    let keys: Vec<&str> = SETTINGS
        .iter()
        .filter(|setting| setting.section == section)
        .map(|setting| setting.key)
        .collect();
    let hint = match (nearest(key, &keys), setting_named(key)) {
        (Some(known), _) => format!("did you mean {known:?}?"),
        (None, Some(setting)) if setting.section == section => format!("did you mean {:?}?", setting.key),
        (None, Some(setting)) => elsewhere(setting),
        (None, None) => format!("expected one of {}", keys.join(", ")),
    };
    format!("{section}: unknown key {:?}; {hint}", shorten(key))
}

fn elsewhere(setting: &Setting) -> String {
    format!("did you mean {:?} in {:?}?", setting.key, setting.section)
}

/// The setting with this variable, path or key, or else with the nearest key.
fn setting_named(key: &str) -> Option<&'static Setting> {
    let by = |is_it: &dyn Fn(&Setting) -> bool| SETTINGS.iter().find(|setting| is_it(setting));
    let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    by(&|setting| setting.variable == key || setting.path() == key || setting.key == key).or_else(|| {
        let key = nearest(key, &keys)?;
        by(&|setting| setting.key == key)
    })
}
