//! Walks through the keys and values of a configuration file, in the order in which `serde_yaml` visits them.
//!
//! They are numbered in this order. A [`Walk`] collects settings and faults by number, or fails at a number.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::expectation::Plain;
use super::settings::{SECTIONS, SETTINGS, Setting};
use super::unknown_key;

/// More problems than this are only counted.
const MAX_PROBLEMS: usize = 20;

/// A key or a value, by the number of keys and values before it.
pub(super) type Number = usize;

/// A setting that is in the file.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    /// The value as the text of the variable.
    pub(super) text: String,
    /// Its key.
    pub(super) key: Number,
}

/// A problem.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: Number,
    pub(super) message: String,
    /// The first of two equal keys.
    pub(super) first: Option<Number>,
}

/// One reading of a text.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) given: Vec<Given>,
    pub(super) faults: Vec<Fault>,
    /// How many more there are.
    pub(super) omitted: usize,
    /// Keys and values so far.
    count: Number,
    stop_at: Option<Number>,
}

impl Walk {
    /// A walk that fails at this key or value. The error contains its position.
    pub(super) fn until(number: Number) -> Self {
        Self {
            stop_at: Some(number),
            ..Self::default()
        }
    }

    /// Reads a whole file.
    pub(super) fn file(&mut self, text: &str) -> Result<(), serde_yaml::Error> {
        let mut documents = serde_yaml::Deserializer::from_str(text);
        if let Some(document) = documents.next() {
            let (at, value) = Part::File.of(self).deserialize(document)?;
            if !matches!(value, Plain::Mapping | Plain::Null) {
                let sections = SECTIONS.join(", ");
                self.fault(at, || {
                    format!("expected a mapping with the keys {sections}, found {value}")
                });
            }
        }
        if let Some(document) = documents.next() {
            let (at, _) = Part::Value.of(self).deserialize(document)?;
            self.fault(at, || "a second YAML document; the file must have only one".to_owned());
        }
        Ok(())
    }

    /// Counts a key or a value.
    fn next<E: Error>(&mut self) -> Result<Number, E> {
        let number = self.count;
        self.count += 1;
        if self.stop_at == Some(number) {
            return Err(E::custom("found"));
        }
        Ok(number)
    }

    fn fault(&mut self, at: Number, describe: impl FnOnce() -> String) {
        self.add_fault(at, None, describe);
    }

    fn add_fault(&mut self, at: Number, first: Option<Number>, describe: impl FnOnce() -> String) {
        if self.faults.len() < MAX_PROBLEMS {
            let message = describe();
            self.faults.push(Fault { at, message, first });
        } else {
            self.omitted += 1;
        }
    }

    fn sections<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let mut seen = Keys::default();
        while let Some((at, key)) = map.next_key_seed(Part::Value.of(self))? {
            let section = key
                .as_text()
                .and_then(|key| SECTIONS.into_iter().find(|section| *section == key));
            let Some(section) = section else {
                self.fault(at, || match &key {
                    Plain::Text(key) => unknown_key::in_file(key),
                    other => format!("expected a key, found {other}"),
                });
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Some(first) = seen.first(section, at) {
                self.add_fault(at, Some(first), || format!("duplicate key {section:?}"));
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let (at, value) = map.next_value_seed(Part::Section(section).of(self))?;
            // All keys of a section may be commented out.
            if !matches!(value, Plain::Mapping | Plain::Null) {
                self.fault(at, || format!("{section}: expected a mapping, found {value}"));
            }
        }
        Ok(())
    }

    fn settings<'de, A: MapAccess<'de>>(&mut self, section: &str, map: &mut A) -> Result<(), A::Error> {
        let mut seen = Keys::default();
        while let Some((key_at, key)) = map.next_key_seed(Part::Value.of(self))? {
            let known = |key: &str| {
                SETTINGS
                    .iter()
                    .find(|setting| setting.section == section && setting.key == key)
            };
            let Some(setting) = key.as_text().and_then(known) else {
                self.fault(key_at, || match &key {
                    Plain::Text(key) => unknown_key::in_section(section, key),
                    other => format!("{section}: expected a key, found {other}"),
                });
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Some(first) = seen.first(setting.key, key_at) {
                self.add_fault(key_at, Some(first), || {
                    format!("{section}: duplicate key {:?}", setting.key)
                });
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let (at, value) = map.next_value_seed(Part::Value.of(self))?;
            match setting.expectation.of_file(&value) {
                Ok(text) => self.given.push(Given {
                    setting,
                    text,
                    key: key_at,
                }),
                Err(what) => self.fault(at, || format!("{}: {what}", setting.path())),
            }
        }
        Ok(())
    }
}

/// The known keys of a mapping so far.
#[derive(Debug, Default)]
struct Keys(Vec<(&'static str, Number)>);

impl Keys {
    /// The same key before this one.
    fn first(&mut self, key: &'static str, at: Number) -> Option<Number> {
        let first = self.0.iter().find(|(known, _)| *known == key).map(|(_, first)| *first);
        if first.is_none() {
            self.0.push((key, at));
        }
        first
    }
}

/// How to read a part of the text.
#[derive(Debug, Clone, Copy)]
enum Part {
    File,
    Section(&'static str),
    /// A key, or a value of one setting.
    Value,
}

impl Part {
    fn of(self, walk: &mut Walk) -> PartReader<'_> {
        PartReader { part: self, walk }
    }
}

/// Reads a part: its number, and its value.
struct PartReader<'w> {
    part: Part,
    walk: &'w mut Walk,
}

impl PartReader<'_> {
    fn is<E: Error>(self, value: Plain) -> Result<(Number, Plain), E> {
        Ok((self.walk.next()?, value))
    }
}

impl<'de> DeserializeSeed<'de> for PartReader<'_> {
    type Value = (Number, Plain);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PartReader<'_> {
    type Value = (Number, Plain);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("YAML")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        self.is(Plain::Null)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        self.is(Plain::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.is(Plain::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        let (shown, whole) = (value.to_string(), Some(value));
        self.is(Plain::Number { shown, whole })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Self::Value, E> {
        let (shown, whole) = (value.to_string(), None);
        self.is(Plain::Number { shown, whole })
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Self::Value, E> {
        let (shown, whole) = (value.to_string(), None);
        self.is(Plain::Number { shown, whole })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        let (shown, whole) = (format!("{value:?}"), None);
        self.is(Plain::Number { shown, whole })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        self.is(Plain::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let number = self.walk.next()?;
        let mut elements = Vec::new();
        while let Some(element) = list.next_element::<serde_yaml::Value>()? {
            elements.push(element.as_str().map(str::to_owned));
        }
        Ok((number, Plain::List(elements)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let number = self.walk.next()?;
        match self.part {
            Part::File => self.walk.sections(&mut map)?,
            Part::Section(section) => self.walk.settings(section, &mut map)?,
            Part::Value => while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {},
        }
        Ok((number, Plain::Mapping))
    }

    /// `serde_yaml` presents a value with a local tag (`!name`) as a variant of an enum.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Self::Value, A::Error> {
        let number = self.walk.next()?;
        let (tag, value) = tagged.variant::<String>()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok((number, Plain::Tagged(format!("!{tag}"))))
    }
}
