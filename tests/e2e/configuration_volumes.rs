//! Files of configMap, secret, downwardAPI and projected volumes, in the style of real applications.

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::cases::{Cases, lines_of};
use crate::host::{alone, container, host};
use crate::objects::{Stored, config_map, object, secret, secret_of_type};

/// The sum of the sizes of all values that a ConfigMap may have.
const MAX_DATA_BYTES: usize = 1 << 20;

fn objects() -> Vec<Value> {
    let site = "server {\n    listen 8080;\n    root /srv/www;\n}\n";
    vec![
        config_map(
            "volume-web",
            &json!({ "site.conf": site, "index.html": "from a ConfigMap\n", "limits.conf": "client_max_body_size 7m;\n", "unused": "x" }),
        ),
        config_map(
            "volume-app",
            &json!({
                "application.properties": "name=orders\nport=8081\n", ".env": "HIDDEN=1\n", "log_level": "info", "empty": "",
                "UPPER-case.TXT": "kept", "start.sh": "#!/bin/sh\necho \"started with $*\"\n",
            }),
        ),
        // The bytes 00 01 02 ff, and a PNG's first four.
        object(
            "ConfigMap",
            "volume-binary",
            &json!({ "data": { "text": "t" }, "binaryData": { "logo.png": "iVBORw==", "raw": "AAEC/w==" }, "immutable": true }),
        ),
        secret(
            "volume-database",
            &json!({ "username": "shop", "password": "s3cret", "unused": "x" }),
        ),
        object(
            "Secret",
            "volume-key",
            &json!({ "data": { "keytab": "BQIAAAA=" }, "immutable": true }),
        ),
        secret_of_type(
            "kubernetes.io/tls",
            "volume-tls",
            &json!({ "tls.crt": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "tls.key": "key\n" }),
        ),
        secret_of_type(
            "kubernetes.io/ssh-auth",
            "volume-ssh",
            &json!({ "ssh-privatekey": "ssh key\n" }),
        ),
        secret_of_type(
            "kubernetes.io/dockerconfigjson",
            "volume-docker",
            &json!({ ".dockerconfigjson": r#"{"auths":{}}"# }),
        ),
    ]
}

/// The permissions and names of files, links resolved.
const MODES: &str = "stat -L -c '%a %n'";

/// One container for each case, with its own volume.
struct Volumes {
    cases: Cases,
    volumes: Vec<Value>,
}

impl Volumes {
    /// A container with a volume at `path`; the volume has the container's name.
    fn case(mut self, name: &str, path: &str, volume: &Value, script: &str, lines: &[&str]) -> Self {
        self.cases = self.cases.expect(container(name, script).mount(name, path), lines);
        self.volume(name, volume)
    }

    fn with(mut self, container: Container, lines: &[&str]) -> Self {
        self.cases = self.cases.expect(container, lines);
        self
    }

    fn volume(mut self, name: &str, volume: &Value) -> Self {
        let mut named = volume.clone();
        named["name"] = name.into();
        self.volumes.push(named);
        self
    }

    fn add_to(&self, pod: Pod) -> Pod {
        let pod = self.cases.add_to(pod);
        self.volumes.iter().cloned().fold(pod, Pod::volume)
    }
}

#[test]
fn containers_have_the_files_of_config_maps_and_secrets() {
    let _alone = alone();
    let _objects = Stored::apply("volume-objects.yaml", &objects());
    let app = json!({ "configMap": { "name": "volume-app" } });
    let nginx = Container::new("nginx", "nginx:latest")
        .command(&[
            "/bin/bash",
            "-c",
            "ls /etc/nginx/sites-enabled; ls /etc/nginx/conf.d; nginx -T 2> /dev/null | grep -c 'client_max_body_size 7m'; \
             nginx && exec 3<> /dev/tcp/127.0.0.1/8080 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n 1 <&3",
        ])
        .mount("site", "/etc/nginx/sites-enabled")
        .mount("pages", "/srv/www")
        .volume_mount(json!({
            "name": "web", "mountPath": "/etc/nginx/conf.d/limits.conf", "subPath": "limits.conf", "readOnly": true,
        }));
    let twice = container(
        "twice",
        "cat /one/log_level /two/log_level /three/level | sed 's/info/<info>/g'; echo; ls /three",
    )
    .mount("whole", "/one")
    .mount("whole", "/two")
    .mount("part", "/three");
    let sub_path = container(
        "sub-path",
        "cat /etc/app.properties; stat -c '%F %a' /etc/app.properties; ls /etc/passwd; ls -A /none | wc -l; stat -c %F /none; \
         echo x 2> /dev/null > /etc/app.properties || echo refused",
    )
    .volume_mount(json!({ "name": "whole", "mountPath": "/etc/app.properties", "subPath": "application.properties" }))
    .volume_mount(json!({ "name": "web", "mountPath": "/none", "subPath": "no-such-key" }));
    let edited = container(
        "edited",
        "cat /work/application.properties; [ -w /work/application.properties ] && echo writable",
    )
    .mount("work", "/work");
    let volumes = Volumes {
        cases: Cases::default(),
        volumes: Vec::new(),
    }
    .volume("site", &json!({ "configMap": { "name": "volume-web", "items": [{ "key": "site.conf", "path": "default" }] } }))
    .volume("pages", &json!({ "configMap": { "name": "volume-web", "items": [{ "key": "index.html", "path": "index.html" }] } }))
    .volume("web", &json!({ "configMap": { "name": "volume-web" } }))
    .with(nginx, &["default", "limits.conf", "1", "from a ConfigMap"])
    .case(
        "whole",
        "/config",
        &app,
        "cd /config; ls; ls -A | grep -c '^\\.\\.20'; readlink .env; readlink application.properties; \
         readlink ..data | cut -c 1-4; stat -f -c %T .; cat application.properties; wc -c < empty; cat .env; \
         cat UPPER-case.TXT; echo",
        &[
            "UPPER-case.TXT", "application.properties", "empty", "log_level", "start.sh", "1", "..data/.env",
            "..data/application.properties", "..20", "tmpfs", "name=orders", "port=8081", "0", "HIDDEN=1", "kept",
        ],
    )
    .case(
        "read-only",
        "/config",
        &app,
        "cd /config; for command in 'touch new' 'rm log_level' 'mkdir new' 'chmod 777 log_level' 'mv log_level other'; do \
         $command 2> /dev/null && echo \"did $command\"; done; echo x 2> /dev/null > log_level || echo refused; cat log_level; echo",
        &["refused", "info"],
    )
    .case(
        "items",
        "/config",
        &json!({ "configMap": { "name": "volume-app", "defaultMode": 0o440, "items": [
            { "key": "application.properties", "path": "etc/app/main.properties" },
            { "key": "log_level", "path": "etc/level", "mode": 0o400 },
            { "key": "empty", "path": "var/empty", "mode": 0o777 },
        ] } }),
        &format!("cd /config; ls; readlink etc; find -L . -type f | grep -v '/\\.\\.' | sort | xargs {MODES}; cat etc/level; echo"),
        &["etc", "var", "..data/etc", "440 ./etc/app/main.properties", "400 ./etc/level", "777 ./var/empty", "info"],
    )
    .case(
        "script",
        "/scripts",
        &json!({ "configMap": { "name": "volume-app", "defaultMode": 0o755, "items": [{ "key": "start.sh", "path": "start.sh" }] } }),
        "exec /scripts/start.sh one two",
        &["started with one two"],
    )
    .case(
        "binary",
        "/assets",
        &json!({ "configMap": { "name": "volume-binary" } }),
        "cd /assets; ls | xargs; od -An -tx1 raw | xargs; od -An -tx1 logo.png | xargs; cat text; echo",
        &["logo.png raw text", "00 01 02 ff", "89 50 4e 47", "t"],
    )
    .case(
        "absent",
        "/config",
        &json!({ "configMap": { "name": "volume-nothing", "optional": true } }),
        "ls /config | wc -l; echo x 2> /dev/null > /config/new || echo refused",
        &["0", "refused"],
    )
    .case(
        "absent-key",
        "/config",
        &json!({ "secret": { "secretName": "volume-database", "optional": true, "items": [
            { "key": "no-such-key", "path": "nothing" }, { "key": "username", "path": "user" },
        ] } }),
        "ls /config; cat /config/user; echo",
        &["user", "shop"],
    )
    .case(
        "database",
        "/run/secrets/database",
        &json!({ "secret": { "secretName": "volume-database", "defaultMode": 0o400, "items": [{ "key": "password", "path": "password" }] } }),
        &format!("cd /run/secrets/database; ls; {MODES} password; stat -L -c '%u %g' password; cat password; echo; stat -f -c %T ."),
        &["password", "400 password", "0 0", "s3cret", "tmpfs"],
    )
    .case(
        "keytab",
        "/etc/krb5",
        &json!({ "secret": { "secretName": "volume-key" } }),
        &format!("{MODES} /etc/krb5/keytab; od -An -tx1 /etc/krb5/keytab | xargs"),
        &["644 /etc/krb5/keytab", "05 02 00 00 00"],
    )
    .case(
        "tls",
        "/etc/tls",
        &json!({ "secret": { "secretName": "volume-tls", "defaultMode": 0o440 } }),
        &format!("cat /etc/tls/tls.crt /etc/tls/tls.key; {MODES} /etc/tls/tls.crt /etc/tls/tls.key"),
        &[
            "-----BEGIN CERTIFICATE-----", "MIIB", "-----END CERTIFICATE-----", "key", "440 /etc/tls/tls.crt", "440 /etc/tls/tls.key",
        ],
    )
    .case(
        "ssh",
        "/root/.ssh",
        &json!({ "secret": { "secretName": "volume-ssh", "items": [{ "key": "ssh-privatekey", "path": "id_ed25519", "mode": 0o600 }] } }),
        &format!("cat ~/.ssh/id_ed25519; {MODES} ~/.ssh/id_ed25519"),
        &["ssh key", "600 /root/.ssh/id_ed25519"],
    )
    .case(
        "docker",
        "/kaniko/.docker",
        &json!({ "secret": { "secretName": "volume-docker", "items": [{ "key": ".dockerconfigjson", "path": "config.json" }] } }),
        "cat /kaniko/.docker/config.json; echo",
        &[r#"{"auths":{}}"#],
    )
    .volume("part", &json!({ "configMap": { "name": "volume-app", "items": [{ "key": "log_level", "path": "level" }] } }))
    .with(twice, &["<info><info><info>", "level"])
    .with(
        sub_path,
        &["name=orders", "port=8081", "regular file 644", "/etc/passwd", "0", "directory", "refused"],
    )
    .with(edited, &["name=orders", "port=9090", "writable"]);
    let copy = container(
        "copy",
        "cp -L /config/* /work; sed -i s/8081/9090/ /work/application.properties",
    )
    .mount("whole", "/config")
    .mount("work", "/work");
    let pod = volumes.add_to(Pod::named("volumes-of-objects").empty_dir("work").init_container(copy));
    volumes.cases.assert_output(&host().run(pod).success());
}

#[test]
fn projected_volumes_combine_objects_fields_and_a_token() {
    let _alone = alone();
    let _objects = Stored::apply(
        "projected-objects.yaml",
        &[
            config_map(
                "projected-settings",
                &json!({ "app.properties": "a=1\n", "shared": "of the ConfigMap" }),
            ),
            config_map(
                "projected-more",
                &json!({ "shared": "of the later source", "more": "m" }),
            ),
            secret("projected-secret", &json!({ "password": "s3cret", "other": "x" })),
            config_map("projected-role", &json!({ "ROLE": "writer" })),
            object("ServiceAccount", "builder", &json!({})),
        ],
    );
    let whole = json!({ "projected": { "defaultMode": 0o440, "sources": [
        { "configMap": { "name": "projected-settings", "items": [{ "key": "app.properties", "path": "conf/app.properties" }] } },
        { "secret": { "name": "projected-secret", "items": [{ "key": "password", "path": "secret/password", "mode": 0o400 }] } },
        { "configMap": { "name": "projected-nothing", "optional": true } },
        { "downwardAPI": { "items": [
            { "path": "pod/labels", "fieldRef": { "fieldPath": "metadata.labels" } },
            { "path": "pod/cpu", "mode": 0o444,
              "resourceFieldRef": { "containerName": "downward", "resource": "limits.cpu", "divisor": "1m" } },
        ] } },
        { "serviceAccountToken": { "path": "tokens/vault", "audience": "vault", "expirationSeconds": 7200 } },
        { "serviceAccountToken": { "path": "tokens/api" } },
    ] } });
    let later = json!({ "projected": { "sources": [
        { "configMap": { "name": "projected-settings" } }, { "configMap": { "name": "projected-more" } },
    ] } });
    let field = |path: &str, field: &str| json!({ "path": path, "fieldRef": { "fieldPath": field } });
    let resource = |path: &str, resource: &str, divisor: &str| {
        let reference = json!({ "containerName": "downward", "resource": resource, "divisor": divisor });
        json!({ "path": path, "resourceFieldRef": reference })
    };
    let downward = json!({ "downwardAPI": { "defaultMode": 0o444, "items": [
        field("labels", "metadata.labels"),
        field("annotations", "metadata.annotations"),
        field("name", "metadata.name"),
        field("namespace", "metadata.namespace"),
        field("tier", "metadata.labels['tier']"),
        resource("cpu", "limits.cpu", "1m"),
        resource("cores", "limits.cpu", "1"),
        resource("memory", "limits.memory", "1Mi"),
        resource("request", "requests.memory", "1Ki"),
    ] } });
    let payload = |token: &str| {
        // The payload of a token: base64url without padding.
        format!(
            "part=$(cut -d. -f2 {token} | tr _- /+); while [ $((${{#part}} % 4)) != 0 ]; do part=$part=; done; \
             echo $part | base64 -d; echo; "
        )
    };
    let tokens = container(
        "tokens",
        &format!(
            "{}{}tr . '\\n' < /all/tokens/vault | grep -c .; echo $POD_UID",
            payload("/all/tokens/vault"),
            payload("/all/tokens/api")
        ),
    )
    .mount("all", "/all")
    .env_of_field("POD_UID", "metadata.uid");
    let writer = container("writer", "echo \"by $ROLE\" > /logs/out; ls /logs")
        .env_from(json!({ "configMapRef": { "name": "projected-role" } }))
        .env_of_field("POD_NAME", "metadata.name")
        .volume_mount(json!({ "name": "logs", "mountPath": "/logs", "subPathExpr": "$(POD_NAME)/$(ROLE)" }));
    let reader = container(
        "reader",
        "until [ -s /logs/projected/writer/out ]; do sleep 0.1; done; cat /logs/projected/writer/out",
    )
    .mount("logs", "/logs");
    let volumes = Volumes {
        cases: Cases::default(),
        volumes: Vec::new(),
    }
    .case(
        "all",
        "/all",
        &whole,
        &format!("cd /all; ls; find -L . -type f | grep -v '/\\.\\.' | sort | xargs {MODES}; cat conf/app.properties secret/password pod/labels; echo; cat pod/cpu; echo"),
        &[
            "conf", "pod", "secret", "tokens", "440 ./conf/app.properties", "444 ./pod/cpu", "440 ./pod/labels",
            "400 ./secret/password", "440 ./tokens/api", "440 ./tokens/vault", "a=1", "s3cretapp=\"web\"", "tier=\"front\"", "1500",
        ],
    )
    .case("later", "/later", &later, "cd /later; ls | xargs; cat shared; echo", &["app.properties more shared", "of the later source"])
    .volume("podinfo", &downward)
    .with(
        container(
            "downward",
            &format!(
                "cd /podinfo; for file in labels annotations name namespace tier cpu cores memory request; do cat $file; echo; done; {MODES} name"
            ),
        )
        .mount("podinfo", "/podinfo")
        .limit("cpu", "1500m")
        .limit("memory", "64Mi")
        .set("resources.requests", json!({ "cpu": "100m", "memory": "32Mi" })),
        &[
            "app=\"web\"", "tier=\"front\"", "build=\"7\"", "note=\"two\\nlines \\\"quoted\\\"\"", "projected", "default", "front",
            "1500", "2", "64", "32768", "444 name",
        ],
    )
    .with(writer, &["out"])
    .with(reader, &["by writer"]);
    let pod = volumes
        .add_to(Pod::named("projected").empty_dir("logs").container(tokens))
        .label("app", "web")
        .label("tier", "front")
        .set(
            "metadata.annotations",
            json!({ "build": "7", "note": "two\nlines \"quoted\"" }),
        )
        .set("spec.serviceAccountName", "builder");
    let output = host().run(pod).success();
    volumes.cases.assert_output(&output);

    let account = host().succeed(["get", "serviceaccount", "builder", "-o", "jsonpath={.metadata.uid}"]);
    let lines = lines_of(&output, "tokens");
    let [vault, api, parts, uid] = lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(parts, "3", "header, payload and signature");
    for (claims, audiences, seconds) in [(vault, Some(json!(["vault"])), 7200), (api, None, 3600)] {
        let claims: Value = serde_json::from_str(claims).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:default:builder", "{claims}");
        let own = &claims["kubernetes.io"];
        assert_eq!(own["namespace"], "default", "{claims}");
        assert_eq!(own["pod"], json!({ "name": "projected", "uid": uid }), "{claims}");
        assert_eq!(
            own["serviceaccount"],
            json!({ "name": "builder", "uid": account }),
            "{claims}"
        );
        let node = own["node"]["uid"].as_str().unwrap_or_default();
        assert_eq!(node.len(), 36, "{claims}");
        let number = |claim: &str| claims[claim].as_i64().unwrap_or_else(|| panic!("{claim}: {claims}"));
        assert_eq!(number("exp") - number("iat"), seconds, "{claims}");
        assert_eq!(number("nbf"), number("iat"), "{claims}");
        let issuer = claims["iss"].as_str().unwrap_or_default();
        assert!(!issuer.is_empty(), "{claims}");
        // A token for no named audience is for the API server.
        assert_eq!(claims["aud"], audiences.unwrap_or_else(|| json!([issuer])), "{claims}");
    }
}

#[test]
fn a_config_map_of_one_mebibyte_with_ten_thousand_keys_is_a_volume_and_an_environment() {
    let _alone = alone();
    // 10,000 values of 104 or 105 bytes: exactly as much as a ConfigMap may have.
    let longer = MAX_DATA_BYTES - 10_000 * 104;
    let value = |number: usize| {
        let length = if number < longer { 105 } else { 104 };
        format!("{number:0>length$}")
    };
    let data: serde_json::Map<String, Value> = (0..10_000)
        .map(|number| (format!("key_{number:04}"), value(number).into()))
        .collect();
    let mut over = data.clone();
    over.insert("one_more".to_owned(), "x".into());
    let refused = host().file(
        "over-limit.json",
        &config_map("over-limit", &Value::from(over)).to_string(),
    );
    let refused = host().output(["create", "-f", refused.to_str().unwrap()]);
    assert_ne!(refused.code(), 0, "{refused:?}");
    assert!(
        refused.stderr.contains("Too long: may not be more than 1048576 bytes"),
        "{}",
        refused.stderr
    );
    let absent = host().output(["get", "configmap", "over-limit"]);
    assert!(
        absent.stderr.contains("configmaps \"over-limit\" not found"),
        "{absent:?}"
    );

    let _objects = Stored::create("large-objects.json", &[config_map("volume-large", &Value::from(data))]);
    let script = "ls /large | wc -l; cat /large/key_* | wc -c; cat /large/key_0000 /large/key_9999 | tr -d 0; echo";
    let cases = Cases::default()
        .expect(
            container("volume", script).mount("large", "/large"),
            &["10000", "1048576", "9999"],
        )
        .expect(
            container("environment", "env | grep -c ^key_; echo \"$key_9999\" | tr -d 0")
                .env_from(json!({ "configMapRef": { "name": "volume-large" } })),
            &["10000", "9999"],
        );
    let pod = cases
        .add_to(Pod::named("large"))
        .volume(json!({ "name": "large", "configMap": { "name": "volume-large" } }));
    cases.assert_output(&host().run(pod).success());
}
