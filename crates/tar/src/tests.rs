//! Headers and extension records in the forms that various programs write.

use super::header::number;
use super::*;

fn reader(records: &[[u8; RECORD]]) -> TarReader<std::io::Cursor<Vec<u8>>> {
    TarReader::new(std::io::Cursor::new(records.concat()))
}

fn header(name: &str, kind: u8, size: &str) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..name.len()].copy_from_slice(name.as_bytes());
    record[124..124 + size.len()].copy_from_slice(size.as_bytes());
    record[156] = kind;
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    record[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    record[155] = b' ';
    record
}

fn block(text: &[u8]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..text.len()].copy_from_slice(text);
    record
}

#[test]
fn numbers_may_be_octal_or_base_256() {
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"   17 \0 "), Some(0o17));
    assert_eq!(number(b"\0\0\0"), Some(0));
    assert_eq!(number(b"12x\0"), None);
    assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Some(258));
    assert_eq!(number(&[0xff; 12]), Some(-1));
    assert_eq!(number(&[0xbf; 12]), None, "more than 64 bits");
}

#[test]
fn old_archives_end_directories_with_a_slash() {
    let mut reader = reader(&[header("dir/", 0, "0")]);
    assert_eq!(reader.next_entry().unwrap().unwrap().kind, Kind::Directory);
    assert_eq!(
        reader.next_entry().unwrap(),
        None,
        "without an end marker the stream's end ends the archive"
    );
}

#[test]
fn long_names_replace_short_ones() {
    let long = [b"long/name".as_slice(), &[0]].concat();
    let mut reader = reader(&[
        header("x", b'L', "12"),
        block(&long),
        header("short", b'0', "3"),
        block(b"abc"),
    ]);
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(
        (entry.path.as_slice(), entry.stored_bytes),
        (b"long/name".as_slice(), 3)
    );
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    assert_eq!(body, b"abc");
}

#[test]
fn pax_sizes_override_the_headers() {
    let records = b"10 size=3\n21 mtime=1.000000001\n";
    let mut reader = reader(&[
        header("x", b'x', "37"),
        block(records),
        header("f", b'0', "0"),
        block(b"abc"),
        header("g", b'0', "0"),
    ]);
    let entry = reader.next_entry();
    // Octal 37 is 31 bytes: exactly the two records.
    let entry = entry.unwrap().unwrap();
    assert_eq!(
        (entry.stored_bytes, entry.mtime_seconds, entry.mtime_nanoseconds),
        (3, 1, 1)
    );
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"g");
}

/// A tar stream: a PAX header with these records, then `file`.
fn with_pax(records: &[(&str, &str)], mut file: [u8; RECORD]) -> TarReader<std::io::Cursor<Vec<u8>>> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let digits = (1..)
            .find(|digits| (rest.len() + digits).to_string().len() == *digits)
            .unwrap();
        body.push_str(&format!("{}{rest}", rest.len() + digits));
    }
    file[108..115].copy_from_slice(b"0000037");
    file[116..123].copy_from_slice(b"0000040");
    file[136..147].copy_from_slice(b"07346545000");
    file[148..156].fill(b' ');
    let sum: u32 = file.iter().map(|byte| u32::from(*byte)).sum();
    file[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let size = format!("{:o}", body.len());
    reader(&[header("x", b'x', &size), block(body.as_bytes()), file, block(b"abc")])
}

#[test]
fn an_empty_pax_value_restores_the_header_field() {
    for records in [
        [("uid", ""), ("gid", ""), ("size", "")].as_slice(),
        &[("mtime", ""), ("atime", ""), ("ctime", "")],
        &[("path", ""), ("linkpath", "")],
        &[
            ("uid", "5"),
            ("size", "9"),
            ("mtime", "7.5"),
            ("path", "other"),
            ("uid", ""),
            ("size", ""),
            ("mtime", ""),
            ("path", ""),
        ],
        &[
            ("GNU.sparse.major", ""),
            ("GNU.sparse.name", ""),
            ("GNU.sparse.realsize", ""),
            ("GNU.sparse.map", ""),
        ],
        &[
            ("GNU.sparse.size", "9"),
            ("GNU.sparse.map", "0,9"),
            ("GNU.sparse.size", ""),
            ("GNU.sparse.map", ""),
        ],
        &[("comment", "")],
    ] {
        let mut reader = with_pax(records, header("f", b'0', "3"));
        let entry = reader
            .next_entry()
            .unwrap_or_else(|error| panic!("{records:?}: {error}"))
            .unwrap();
        assert_eq!(
            (entry.path.as_slice(), entry.stored_bytes),
            (b"f".as_slice(), 3),
            "{records:?}"
        );
        assert_eq!((entry.uid, entry.gid), (31, 32), "{records:?}");
        assert_eq!(
            (entry.mtime_seconds, entry.mtime_nanoseconds),
            (1_000_000_000, 0),
            "{records:?}"
        );
        assert_eq!(entry.sparse, None, "{records:?}");
    }
}

#[test]
fn an_extended_attribute_may_have_an_empty_value() {
    let mut reader = with_pax(&[("SCHILY.xattr.user.empty", "")], header("f", b'0', "3"));
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(entry.xattrs, [(b"user.empty".to_vec(), Vec::new())]);
}

#[test]
fn an_invalid_pax_number_is_refused() {
    for record in [
        ("uid", "x"),
        ("size", "-1"),
        ("mtime", "."),
        ("GNU.sparse.realsize", " "),
    ] {
        let error = with_pax(&[record], header("f", b'0', "3")).next_entry().unwrap_err();
        assert!(error.to_string().contains(record.0), "{error}");
    }
}

/// An entry in the old GNU format for sparse files: four parts in the header, 21 in each record that follows it.
fn old_gnu_sparse(parts: &[Segment], real_size: u64) -> Vec<[u8; RECORD]> {
    let put = |record: &mut [u8; RECORD], at: usize, number: u64| {
        record[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    };
    let put_parts = |record: &mut [u8; RECORD], at: usize, parts: &[Segment]| {
        for (index, part) in parts.iter().enumerate() {
            put(record, at + index * 24, part.offset);
            put(record, at + index * 24 + 12, part.length);
        }
    };
    let (first, rest) = parts.split_at(parts.len().min(4));
    let stored: u64 = parts.iter().map(|part| part.length).sum();
    let mut record = header("sparse", b'S', &format!("{stored:o}"));
    record[257..265].copy_from_slice(b"ustar  \0");
    put_parts(&mut record, 386, first);
    record[482] = u8::from(!rest.is_empty());
    put(&mut record, 483, real_size);
    record[148..156].fill(b' ');
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut records = vec![record];
    for (index, parts) in rest.chunks(21).enumerate() {
        let mut record = [0; RECORD];
        put_parts(&mut record, 0, parts);
        record[504] = u8::from((index + 1) * 21 < rest.len());
        records.push(record);
    }
    records
}

#[test]
fn old_gnu_sparse_maps_may_span_any_number_of_records() {
    for count in [0, 2, 4, 5, 25, 26, 60] {
        let part = |number: u64| Segment {
            offset: number * 1000,
            length: 5,
        };
        let parts: Vec<_> = (0..count).map(part).collect();
        let mut records = old_gnu_sparse(&parts, 100_000);
        records.push(block(b"content"));
        let map = reader(&records).next_entry().unwrap().unwrap().sparse.unwrap();
        assert_eq!((map.real_size, map.segments), (100_000, parts), "{count} parts");
    }
}

#[test]
fn a_truncated_or_overlapping_old_gnu_sparse_map_is_refused() {
    let part = |offset| Segment { offset, length: 5 };
    let cut = old_gnu_sparse(&[part(0), part(10), part(20), part(30), part(40)], 100);
    let error = reader(&cut[..1]).next_entry().unwrap_err();
    assert!(matches!(error, TarError::Truncated { .. }), "{error}");
    let overlapping = old_gnu_sparse(&[part(0), part(10), part(20), part(30), part(32)], 100);
    let error = reader(&overlapping).next_entry().unwrap_err();
    assert!(matches!(error, TarError::Malformed { .. }), "{error}");
}

#[test]
fn malformed_archives_are_refused() {
    let mut wrong_sum = header("x", b'0', "0");
    wrong_sum[0] = b'y';
    for records in [
        vec![wrong_sum],
        vec![header("x", b'?', "0")],
        vec![header("x", b'L', "77777777777"), block(b"")],
        vec![header("x", b'x', "12"), block(b"99 path=a\n"), header("f", b'0', "0")],
        vec![header("x", b'x', "13"), block(b"11 uid=-1x\n"), header("f", b'0', "0")],
    ] {
        let error = reader(&records).next_entry().unwrap_err();
        assert!(matches!(error, TarError::Malformed { .. }), "{error}");
    }
}
