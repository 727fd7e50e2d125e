//! The reader of objects of all kinds: any bytes are read or refused, with places inside the input, in bounded time and
//! memory.
#![no_main]

use microkube_manifest::Input;
use microkube_manifest::kinds::{read_documents, read_objects};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));

/// Reads the bytes. Panics if a problem's place is outside them, or if an object is refused or another one when it is
/// read again.
fn check(text: &[u8]) {
    let input = Input {
        source: "fuzz.yaml",
        text,
    };
    let documents = read_documents(&[input]);
    match read_objects(&[input]) {
        Ok(objects) => {
            let documents = documents.expect("the objects are valid");
            assert_eq!(objects.len(), documents.len());
            for (mut object, document) in objects.into_iter().zip(documents) {
                let value = object.to_value();
                let again = object.kind().read(&value).expect("a read object can be read again");
                assert!(again == object && document.kind().kind == object.kind().kind);
                assert!(object.validate_update(&again).is_empty());
                object.set_defaults();
                assert!(again == object, "defaults are set once");
                object.prepare_for_create();
                assert!(object.validate().is_empty());
            }
        }
        Err(error) => {
            let lines = text.split(|byte| matches!(byte, b'\n' | b'\r')).count();
            for problem in error.files.iter().flat_map(|file| &file.problems) {
                assert!(!problem.message.is_empty());
                if let Some(at) = problem.location {
                    assert!((1..=lines + 1).contains(&at.line) && at.column >= 1, "{problem:?}");
                }
            }
            assert!(!error.to_string().is_empty());
        }
    }
}
