//! Headers and extension records, in the forms that different programs write.

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
    // 37 octal is 31 bytes: exactly the two records.
    let entry = entry.unwrap().unwrap();
    assert_eq!(
        (entry.stored_bytes, entry.mtime_seconds, entry.mtime_nanoseconds),
        (3, 1, 1)
    );
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"g");
}

#[test]
fn old_gnu_sparse_maps_are_understood() {
    let mut record = header("sparse", b'S', "10");
    record[257..265].copy_from_slice(b"ustar  \0");
    for (index, text) in ["0", "5", "1750", "3"].iter().enumerate() {
        record[386 + index * 12..][..text.len()].copy_from_slice(text.as_bytes());
    }
    record[483..487].copy_from_slice(b"3720");
    record[148..156].fill(b' ');
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let entry = reader(&[record, block(b"startmid")]).next_entry().unwrap().unwrap();
    let map = entry.sparse.unwrap();
    assert_eq!(map.real_size, 2000);
    assert_eq!(
        map.segments,
        [
            Segment { offset: 0, length: 5 },
            Segment {
                offset: 1000,
                length: 3
            }
        ]
    );
}

#[test]
fn nonsense_is_refused() {
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
