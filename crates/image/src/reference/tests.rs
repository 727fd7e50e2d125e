//! Names that people write, and random texts compared with another implementation.

use oci_spec::distribution::Reference;
use proptest::prelude::*;

use super::*;

fn normal(name: &str) -> String {
    ImageReference::parse(name).unwrap().to_string()
}

#[test]
fn names_are_completed_as_docker_does() {
    assert_eq!(normal("nginx"), "docker.io/library/nginx:latest");
    assert_eq!(normal("nginx:1.27"), "docker.io/library/nginx:1.27");
    assert_eq!(normal("docker.io/nginx"), "docker.io/library/nginx:latest");
    assert_eq!(
        normal("index.docker.io/library/nginx"),
        "docker.io/library/nginx:latest"
    );
    assert_eq!(normal("me/app"), "docker.io/me/app:latest");
    assert_eq!(normal("ghcr.io/me/app:v1"), "ghcr.io/me/app:v1");
    assert_eq!(normal("localhost/app"), "localhost/app:latest");
    assert_eq!(normal("localhost:5000/app"), "localhost:5000/app:latest");
    assert_eq!(normal("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000/a/b:c");
    assert_eq!(normal("[::1]:5000/a/b:c"), "[::1]:5000/a/b:c");
    assert_eq!(normal("[2001:db8::7]/a"), "[2001:db8::7]/a:latest");
    assert_eq!(normal("Registry/app"), "Registry/app:latest");
    assert_eq!(normal("example.org:5000"), "docker.io/library/example.org:5000");
    assert_eq!(normal("a-b--c/d.e_f__g:_x.Y-"), "docker.io/a-b--c/d.e_f__g:_x.Y-");
    let digest = format!("sha256:{}", "a1".repeat(32));
    assert_eq!(
        normal(&format!("nginx@{digest}")),
        format!("docker.io/library/nginx@{digest}")
    );
    assert_eq!(
        normal(&format!("nginx:1@{digest}")),
        format!("docker.io/library/nginx:1@{digest}")
    );
}

#[test]
fn invalid_names_are_refused_with_the_kubelets_reason() {
    let long = format!("a@sha256:{}", "A".repeat(64));
    let id = "0a".repeat(32);
    for (name, why) in [
        ("", "has no repository name"),
        ("Nginx", "lower-case"),
        ("example.org/Nginx", "lower-case"),
        ("nginx:", "not a valid tag"),
        ("nginx:a b", "not a valid tag"),
        ("nginx:.a", "not a valid tag"),
        ("nginx:\u{fc}", "not a valid tag"),
        ("http://x/y", "HOST[:PORT]"),
        ("[::1/x", "HOST[:PORT]"),
        ("[::1]x/y", "HOST[:PORT]"),
        ("[1:2]/x", "HOST[:PORT]"),
        ("[::ffff:1.2.3.4]/x", "HOST[:PORT]"),
        ("a_b.c/x", "HOST[:PORT]"),
        ("-a.b/x", "HOST[:PORT]"),
        ("a..b/x", "HOST[:PORT]"),
        ("a.b:/x", "HOST[:PORT]"),
        ("-x", "not a valid repository component"),
        ("a___b", "not a valid repository component"),
        ("a.-b", "not a valid repository component"),
        ("a/../b", "not a valid repository component"),
        ("a//b", "is empty"),
        ("docker.io/", "has no repository name"),
        ("x@sha256:12", "64 lower-case"),
        ("x@sha512:12", "sha256"),
        (&long, "64 lower-case"),
        (&id, "image ID"),
    ] {
        let error = ImageReference::parse(name).expect_err(name);
        assert_eq!(error.reason(), "InvalidImageName");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn names_have_the_length_limits_of_registries() {
    let parsed = |name: &str| ImageReference::parse(name).is_ok();
    assert!(parsed(&format!("example.org/{}", "a".repeat(255))));
    assert!(!parsed(&format!("example.org/{}", "a".repeat(256))));
    // "library/" counts towards the limit, the registry does not.
    assert!(parsed(&"a".repeat(247)));
    assert!(!parsed(&"a".repeat(248)));
    assert!(parsed(&format!("{}.org/a", "b".repeat(300))));
    assert!(parsed(&format!("a:{}", "t".repeat(128))));
    assert!(!parsed(&format!("a:{}", "t".repeat(129))));
}

/// Names, and texts that resemble names.
fn texts() -> impl Strategy<Value = String> {
    let digest = format!("sha256:{}", "0f".repeat(32));
    let parts = [
        "a",
        "b1",
        "A",
        "localhost",
        "docker.io",
        "index.docker.io",
        "library",
        "x.y",
        ".",
        "_",
        "__",
        "-",
        "/",
        "/",
        ":",
        "@",
        "5000",
        "latest",
        "\u{fc}",
        "\n",
    ];
    let parts = parts.into_iter().map(str::to_owned);
    let parts: Vec<_> = parts.chain([digest, "f".repeat(64), "y".repeat(120)]).collect();
    let name = "([a-zA-Z0-9-]{1,4}(\\.[a-z0-9]{1,3}){0,2}(:[0-9]{1,4})?/)?[a-z0-9]{1,3}([._]|__|-{1,3})?[a-z0-9]{1,3}(/[a-z0-9]{1,2}){0,2}(:[A-Za-z0-9_.-]{1,5})?";
    prop_oneof![
        name,
        "[ab0A._:/@\\[\\]-]{0,12}",
        prop::collection::vec(prop::sample::select(parts), 0..9).prop_map(|parts| parts.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// oci-spec takes its regular expression from the grammar's reference implementation.
    #[test]
    fn names_parse_as_in_oci_spec(text in texts()) {
        let fields = |registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>| {
            [Some(registry), Some(repository), tag, digest].map(|part| part.map(str::to_owned))
        };
        let ours = ImageReference::parse(&text).ok();
        let ours = ours.map(|name| fields(name.registry(), name.repository(), name.tag(), name.digest()));
        let theirs = Reference::try_from(text.as_str()).ok();
        // Other kinds of digests are not supported here.
        let theirs = theirs.filter(|name| name.digest().is_none_or(|digest| Digest::parse(digest).is_ok()));
        let theirs = theirs.map(|name| fields(name.registry(), name.repository(), name.tag(), name.digest()));
        let first = text.split_once('/').map_or("", |(first, _)| first);
        if first.starts_with('[') {
            // oci-spec does not support IPv6 addresses.
            prop_assert_eq!(theirs, None);
        } else if !first.contains(['.', ':']) && first.bytes().any(|byte| byte.is_ascii_uppercase()) {
            // Since distribution/reference 0.6, a first part that is not lower-case is a registry.
            prop_assert!(ours.is_none_or(|[registry, ..]| registry.as_deref() == Some(first)));
        } else if !text.is_ascii() || first.contains('_') && first.contains('.') || grammar::is_id(&text) {
            // oci-spec accepts letters of any script in tags, invalid host names as registries, and IDs as names.
            prop_assert_eq!(ours, None);
        } else {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_normalised_name_is_its_own_normal_form(text in texts()) {
        if let Ok(name) = ImageReference::parse(&text) {
            prop_assert_eq!(ImageReference::parse(&name.to_string()).unwrap(), name);
        }
    }
}

#[test]
fn only_local_registries_count_as_loopback() {
    for name in [
        "localhost:5000/a",
        "localhost/a",
        "127.0.0.1:5000/a",
        "127.8.9.1/a",
        "[::1]/a",
        "[::1]:5000/a",
    ] {
        assert!(is_loopback(ImageReference::parse(name).unwrap().registry()), "{name}");
    }
    for name in [
        "nginx",
        "localhost.example.org/a",
        "10.0.0.1:5000/a",
        "128.0.0.1/a",
        "[::2]/a",
    ] {
        assert!(!is_loopback(ImageReference::parse(name).unwrap().registry()), "{name}");
    }
}

#[test]
fn only_canonical_digests_are_accepted() {
    assert!(Digest::parse(&format!("sha256:{}", "0".repeat(64))).is_ok());
    for text in ["sha512:00", "sha256:../../x", &format!("sha256:{}", "A".repeat(64))] {
        assert!(Digest::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        Digest::of(b"").hex(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}
