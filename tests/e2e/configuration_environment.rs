//! Variables of containers from ConfigMaps, Secrets, the Pod's fields and files, in the style of real applications.

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::cases::{Cases, lines_of};
use crate::detached_pod::Detached;
use crate::host::{alone, container, host, image};
use crate::objects::{Stored, config_map, documents, object, secret, secret_of_type};

/// Characters with a special meaning in shells, YAML, URLs or `$(VAR)`.
const PASSWORD: &str = r#"p@ss'w"o$rd\ $(PGHOST) $$ `x` #%&"#;

/// A text of several lines, with a tab, spaces at the end, and letters outside ASCII.
const TEXT: &str = "first line\n\tindented  \nGrüße, 世界\nlast";

fn objects() -> Vec<Value> {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----\n";
    vec![
        config_map(
            "env-database",
            &json!({ "host": "db.shop.internal", "port": "5432", "name": "orders" }),
        ),
        // A Secret and a ConfigMap may have the same name.
        secret("env-database", &json!({ "username": "shop", "password": PASSWORD })),
        config_map(
            "env-spring",
            &json!({ "PROFILES_ACTIVE": "production,metrics", "SERVER_PORT": "8081", "application.name": "orders" }),
        ),
        secret("env-spring", &json!({ "DATASOURCE_PASSWORD": "tiger" })),
        config_map(
            "env-base",
            &json!({ "LEVEL": "info", "COLOUR": "blue", "REGION": "eu-west-1" }),
        ),
        config_map("env-override", &json!({ "LEVEL": "debug", "COLOUR": "green" })),
        config_map(
            "env-names",
            &json!({ "app.name": "a", "log-level": "b", "_private": "c", "UPPER_1": "d", "9lives": "e" }),
        ),
        config_map(
            "env-texts",
            &json!({ "TEXT": TEXT, "EMPTY": "", "LITERAL": "$(LEVEL) $LEVEL $$(LEVEL)", "NUMBER": "007", "BOOLEAN": "yes" }),
        ),
        object(
            "ConfigMap",
            "env-mixed",
            &json!({ "data": { "PLAIN": "text" }, "binaryData": { "BINARY": "AAEC/w==" }, "immutable": true }),
        ),
        object(
            "Secret",
            "env-both",
            // "from data" twice.
            &json!({ "data": { "A": "ZnJvbSBkYXRh", "B": "ZnJvbSBkYXRh" }, "stringData": { "B": "from stringData" }, "immutable": true }),
        ),
        secret_of_type(
            "kubernetes.io/basic-auth",
            "env-basic",
            &json!({ "username": "admin", "password": "t0p" }),
        ),
        secret_of_type("kubernetes.io/ssh-auth", "env-ssh", &json!({ "ssh-privatekey": key })),
        secret_of_type(
            "kubernetes.io/tls",
            "env-tls",
            &json!({ "tls.crt": "certificate", "tls.key": "key" }),
        ),
        secret_of_type(
            "kubernetes.io/dockerconfigjson",
            "env-docker",
            &json!({ ".dockerconfigjson": r#"{"auths":{"registry.test":{"auth":"dTpw"}}}"# }),
        ),
        secret_of_type(
            "kubernetes.io/dockercfg",
            "env-dockercfg",
            &json!({ ".dockercfg": "{}" }),
        ),
        secret_of_type(
            "bootstrap.kubernetes.io/token",
            "env-bootstrap",
            &json!({ "token-id": "abcdef", "token-secret": "0123456789abcdef" }),
        ),
        secret_of_type("example.org/license", "env-license", &json!({ "serial": "1-2-3" })),
        secret("env-large", &json!({ "LARGE": "x".repeat(100_000) })),
    ]
}

fn from_config_map(name: &str) -> Value {
    json!({ "configMapRef": { "name": name } })
}

fn from_secret(name: &str) -> Value {
    json!({ "secretRef": { "name": name } })
}

fn cases() -> Cases {
    // The environment of the shell as it was started; shells drop variables whose names they cannot use.
    let environ = "tr '\\0' '\\n' < /proc/1/environ";
    let postgres = container(
        "postgres",
        "printf '%s\\n' \"$POSTGRES_USER@$POSTGRES_DB:$PGPORT\" \"$POSTGRES_PASSWORD\" \"$DATABASE_URL\"",
    )
    .env_of_config_map("PGHOST", "env-database", "host")
    .env_of_config_map("PGPORT", "env-database", "port")
    .env_of_config_map("POSTGRES_DB", "env-database", "name")
    .env_of_secret("POSTGRES_USER", "env-database", "username")
    .env_of_secret("POSTGRES_PASSWORD", "env-database", "password")
    .env(json!({
        "name": "DATABASE_URL",
        "value": "postgres://$(POSTGRES_USER):$(POSTGRES_PASSWORD)@$(PGHOST):$(PGPORT)/$(POSTGRES_DB)",
    }));
    let java = Container::new("java", &image("busybox"))
        .command(&["/bin/echo", "-Xmx$(JVM_HEAP)"])
        .set(
            "args",
            json!([
                "--server.port=$(SPRING_SERVER_PORT)",
                "--spring.application.name=$(SPRING_application.name)",
                "--profiles=$(SPRING_PROFILES_ACTIVE)",
                "--password=$(SPRING_DATASOURCE_PASSWORD)",
                "$$(JVM_HEAP)",
                "$(SERVER_PORT)",
            ]),
        )
        .env_from(json!({ "prefix": "SPRING_", "configMapRef": { "name": "env-spring" } }))
        .env_from(json!({ "prefix": "SPRING_", "secretRef": { "name": "env-spring" } }))
        .env(json!({ "name": "JVM_HEAP", "value": "512m" }));
    let precedence = container("precedence", "echo \"$LEVEL $COLOUR $REGION $DERIVED $TWICE\"")
        .env_from(from_config_map("env-base"))
        .env_from(from_config_map("env-override"))
        .env(json!({ "name": "DERIVED", "value": "$(COLOUR)-$(LEVEL)-$(LATER)" }))
        .env(json!({ "name": "COLOUR", "value": "red" }))
        .env(json!({ "name": "LATER", "value": "x" }))
        .env(json!({ "name": "TWICE", "value": "first" }))
        .env(json!({ "name": "TWICE", "value": "second" }));
    let names = container("names", &format!("{environ} | grep ^N. | sort"))
        .env_from(json!({ "prefix": "N.", "configMapRef": { "name": "env-names" } }));
    let texts = container(
        "texts",
        "printf '%s\\n' \"$TEXT\" \"[$EMPTY]\" \"${EMPTY+set}\" \"$LITERAL\" \"$NUMBER\" \"$BOOLEAN\" \"$COPY\"",
    )
    .env(json!({ "name": "LEVEL", "value": "not expanded" }))
    .env_from(from_config_map("env-texts"))
    .env(json!({ "name": "COPY", "value": "<$(LITERAL)>" }));
    let key = |kind: &str, name: &str, key: &str| json!({ "name": "ABSENT", "valueFrom": { kind: { "name": name, "key": key, "optional": true } } });
    let optional = container("optional", "echo \"${ABSENT-unset} $REFERENCE $PRESENT $REGION\"")
        .env_from(json!({ "configMapRef": { "name": "env-nothing", "optional": true } }))
        .env_from(json!({ "prefix": "X_", "secretRef": { "name": "env-nothing", "optional": true } }))
        .env_from(json!({ "configMapRef": { "name": "env-base", "optional": true } }))
        .env(key("configMapKeyRef", "env-nothing", "key"))
        .env(key("secretKeyRef", "env-nothing", "key"))
        .env(key("configMapKeyRef", "env-base", "no-such-key"))
        .env(key("secretKeyRef", "env-database", "no-such-key"))
        .env(json!({ "name": "REFERENCE", "value": "$(ABSENT)" }))
        .env(json!({ "name": "PRESENT", "valueFrom": { "secretKeyRef": { "name": "env-database", "key": "username", "optional": true } } }));
    let types = container(
        "types",
        "printf '%s\\n' \"$BASIC\" \"$SSH\" \"$TLS\" \"$DOCKER\" \"$OLD_DOCKER\" \"$BOOTSTRAP\" \"$LICENSE\"",
    )
    .env_of_secret("BASIC", "env-basic", "password")
    .env_of_secret("SSH", "env-ssh", "ssh-privatekey")
    .env_of_secret("TLS", "env-tls", "tls.key")
    .env_of_secret("DOCKER", "env-docker", ".dockerconfigjson")
    .env_of_secret("OLD_DOCKER", "env-dockercfg", ".dockercfg")
    .env_of_secret("BOOTSTRAP", "env-bootstrap", "token-secret")
    .env_of_secret("LICENSE", "env-license", "serial");
    let mixed = container("mixed", "echo \"$PLAIN ${BINARY-unset}\"; echo \"$A, $B\"")
        .env_from(from_config_map("env-mixed"))
        .env_from(from_secret("env-both"));
    let large = container("large", "echo ${#LARGE}").env_from(from_secret("env-large"));
    Cases::default()
        .expect(
            postgres,
            &[
                "shop@orders:5432",
                PASSWORD,
                &format!("postgres://shop:{PASSWORD}@db.shop.internal:5432/orders"),
            ],
        )
        .expect(
            java,
            &[
                "-Xmx512m --server.port=8081 --spring.application.name=orders --profiles=production,metrics \
               --password=tiger $(JVM_HEAP) $(SERVER_PORT)",
            ],
        )
        // LATER is not expanded, because it is defined afterwards.
        .expect(precedence, &["debug red eu-west-1 green-debug-$(LATER) second"])
        .expect(
            names,
            &[
                "N.9lives=e",
                "N.UPPER_1=d",
                "N._private=c",
                "N.app.name=a",
                "N.log-level=b",
            ],
        )
        .expect(
            texts,
            &[
                "first line",
                "\tindented  ",
                "Grüße, 世界",
                "last",
                "[]",
                "set",
                "$(LEVEL) $LEVEL $$(LEVEL)",
                "007",
                "yes",
                "<$(LEVEL) $LEVEL $$(LEVEL)>",
            ],
        )
        .expect(optional, &["unset $(ABSENT) shop eu-west-1"])
        .expect(
            types,
            &[
                "t0p",
                "-----BEGIN OPENSSH PRIVATE KEY-----",
                "b3BlbnNzaA==",
                "-----END OPENSSH PRIVATE KEY-----",
                "",
                "key",
                r#"{"auths":{"registry.test":{"auth":"dTpw"}}}"#,
                "{}",
                "0123456789abcdef",
                "1-2-3",
            ],
        )
        .expect(mixed, &["text unset", "from data, from stringData"])
        .expect(large, &["100000"])
}

#[test]
fn containers_have_the_variables_of_config_maps_and_secrets() {
    let _alone = alone();
    let cases = cases();
    let migrate = container("migrate", "echo \"migrating $NAME as $USERNAME\"")
        .env_of_config_map("NAME", "env-database", "name")
        .env_of_secret("USERNAME", "env-database", "username");
    let pod = cases.add_to(Pod::named("environment").init_container(migrate));
    let objects = objects();
    let _objects = Stored::later("env-objects.yaml", &objects);
    // The Pod is the first document, before the objects that it needs.
    let all = format!("{pod}---\n{}", documents(&objects));
    let file = host().file("environment-and-objects.yaml", &all);
    let pod = Detached("environment".to_owned());
    let applied = host().succeed(["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(applied.lines().count(), objects.len() + 1, "{applied}");
    assert!(applied.contains("pod/environment created\n"), "{applied}");
    assert!(applied.contains("configmap/env-database created\n"), "{applied}");
    assert!(applied.contains("secret/env-database created\n"), "{applied}");
    pod.wait_phase("Succeeded");
    let output = host().succeed(["logs", "environment", "--all-containers", "--prefix"]);
    cases.assert_output(&output);
    assert_eq!(lines_of(&output, "migrate"), ["migrating orders as shop"]);
}

/// A Pod in a namespace that does not exist yet.
#[test]
fn variables_have_the_values_of_the_pods_fields_and_resources() {
    let _alone = alone();
    let limited = container(
        "limited",
        "echo \"$CPU $CPU_MILLI $MEMORY $MEMORY_MIB $CPU_REQUEST $MEMORY_REQUEST $STORAGE\"",
    )
    .limit("cpu", "1500m")
    .limit("memory", "64Mi")
    .limit("ephemeral-storage", "2Gi")
    .set("resources.requests", json!({ "cpu": "250m", "memory": "32Mi" }));
    let limited = [
        ("CPU", "limits.cpu", "0"),
        ("CPU_MILLI", "limits.cpu", "1m"),
        ("MEMORY", "limits.memory", "1"),
        ("MEMORY_MIB", "limits.memory", "1Mi"),
        ("CPU_REQUEST", "requests.cpu", "1m"),
        ("MEMORY_REQUEST", "requests.memory", "1Ki"),
        ("STORAGE", "limits.ephemeral-storage", "1Gi"),
    ]
    .into_iter()
    .fold(limited, |container, (name, resource, divisor)| {
        container.env(json!({
            "name": name, "valueFrom": { "resourceFieldRef": { "resource": resource, "divisor": divisor } },
        }))
    });
    let of_limited =
        json!({ "resourceFieldRef": { "containerName": "limited", "resource": "limits.memory", "divisor": "1Mi" } });
    let of_node = json!({ "resourceFieldRef": { "resource": "limits.memory" } });
    let other = container("other", "echo $OTHER; [ $NODE_MEMORY -gt 67108864 ] && echo more")
        .env(json!({ "name": "OTHER", "valueFrom": of_limited }))
        // Without a limit, the value is the memory of the virtual machine.
        .env(json!({ "name": "NODE_MEMORY", "valueFrom": of_node }));
    let fields = container(
        "fields",
        "echo \"$NAME $NAMESPACE $ACCOUNT $NODE\"; echo \"$APP|$NOTE|$ABSENT\"; \
         echo $UID_ | grep -cE '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'; \
         ip -4 address | grep -c \" $IP/\"; [ \"$IP\" = \"$IPS\" ] && echo one; [ -n \"$HOST_IP\" ] && [ \"$HOST_IP\" = \"$HOST_IPS\" ] && echo host; \
         echo \"$GREETING\"",
    );
    let fields = [
        ("NAME", "metadata.name"),
        ("NAMESPACE", "metadata.namespace"),
        ("UID_", "metadata.uid"),
        ("ACCOUNT", "spec.serviceAccountName"),
        ("NODE", "spec.nodeName"),
        ("IP", "status.podIP"),
        ("IPS", "status.podIPs"),
        ("HOST_IP", "status.hostIP"),
        ("HOST_IPS", "status.hostIPs"),
        ("APP", "metadata.labels['app.kubernetes.io/name']"),
        ("NOTE", "metadata.annotations['example.org/note']"),
        ("ABSENT", "metadata.labels['absent']"),
    ]
    .into_iter()
    .fold(fields, |container, (name, path)| container.env_of_field(name, path))
    .env(json!({ "name": "GREETING", "value": "$(NAME).$(NAMESPACE)" }));
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .to_lowercase();
    let cases = Cases::default()
        .expect(limited, &["2 1500 67108864 64 250 32768 2"])
        .expect(other, &["64", "more"])
        .expect(
            fields,
            &[
                format!("fields fields-test default {}", node.trim()).as_str(),
                "orders|two\twords|",
                "1",
                "1",
                "one",
                "host",
                "fields.fields-test",
            ],
        );
    let pod = cases
        .add_to(Pod::named("fields"))
        .label("app.kubernetes.io/name", "orders")
        .set("metadata.annotations", json!({ "example.org/note": "two\twords" }));
    let output = host().start_with(pod, &["-n", "fields-test"]).finish().success();
    cases.assert_output(&output);
}

#[test]
fn variables_have_the_values_of_a_file_that_an_init_container_writes() {
    let _alone = alone();
    let write = "cat > /work/app.env <<'END'\n\
        # written by the init container\n\
        ADDRESS='10.0.0.7:5432'\n\
        TEXT='two\nlines' # and a comment\n\
        DOLLAR='$(ADDRESS) $HOME'\n\
        END\n";
    let of = |variable: &str, key: &str, optional: bool| {
        let file = json!({ "volumeName": "work", "path": "app.env", "key": key, "optional": optional });
        json!({ "name": variable, "valueFrom": { "fileKeyRef": file } })
    };
    // The volume is not mounted in these containers.
    let from_file = container(
        "from-file",
        "printf '%s\\n' \"$DB\" \"$TEXT\" \"$DOLLAR\" \"${ABSENT-unset}\" \"$URL\"; [ -e /work ] || echo not mounted",
    )
    .env(of("DB", "ADDRESS", false))
    .env(of("TEXT", "TEXT", false))
    .env(of("DOLLAR", "DOLLAR", false))
    .env(of("ABSENT", "NOTHING", true))
    .env(json!({ "name": "URL", "value": "tcp://$(DB)" }));
    let in_argument = Container::new("in-argument", &image("busybox"))
        .command(&["/bin/echo", "connect", "$(DB)"])
        .env(of("DB", "ADDRESS", false));
    let cases = Cases::default()
        .expect(
            from_file,
            &[
                "10.0.0.7:5432",
                "two",
                "lines",
                "$(ADDRESS) $HOME",
                "unset",
                "tcp://10.0.0.7:5432",
                "not mounted",
            ],
        )
        .expect(in_argument, &["connect 10.0.0.7:5432"]);
    let pod = cases
        .add_to(Pod::named("file-keys").empty_dir("work"))
        .init_container(container("write", write).mount("work", "/work"));
    cases.assert_output(&host().run(pod).success());
}
