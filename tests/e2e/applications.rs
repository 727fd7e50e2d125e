//! Applications that manifests configure, several in one Pod: a web server with passwords, templates that an init
//! container fills in, a migration, a log shipper, scripts.

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::cases::Cases;
use crate::host::{alone, container, host, image};
use crate::objects::{Stored, config_map, secret, secret_of_type};

const SITE: &str = "server { listen 8081; root /srv/www; location / { auth_basic members; \
    auth_basic_user_file /etc/nginx/passwords/htpasswd; } }";

/// Sends requests to nginx without and with a password.
const ASK: &str = r#"nginx
ask() { exec 3<>/dev/tcp/127.0.0.1/8081; printf "GET / HTTP/1.0\r\n$1\r\n" >&3; tr -d '\r' <&3; }
ask | head -n 1
ask "Authorization: Basic $(printf 'ops:hunter2' | base64)\r\n" | tail -n 1"#;

fn objects() -> Vec<Value> {
    vec![
        config_map(
            "applications-web",
            &json!({ "site.conf": SITE, "index.html": "members only\n" }),
        ),
        secret("applications-passwords", &json!({ "htpasswd": "ops:{PLAIN}hunter2\n" })),
        config_map(
            "applications-database",
            &json!({
                "DB_HOST": "db.shop.svc", "DB_NAME": "shop", "001.sql": "create table carts;\n",
                "app.conf.tmpl": "url=@HOST@/@NAME@\npassword=@PASSWORD@\n",
            }),
        ),
        secret(
            "applications-database",
            &json!({ "DB_USER": "shop", "DB_PASSWORD": "p|a ss$word" }),
        ),
        config_map(
            "applications-logs",
            &json!({ "include": "error\nfatal\n", "LEVEL": "debug", "rate-limit": "10" }),
        ),
        config_map(
            "applications-scripts",
            &json!({ "run.sh": "#!/bin/sh\n. \"${0%/*}/library.sh\"\ngreet \"$@\"\n", "library.sh": "greet() { echo \"hello $* from $0\"; }\n" }),
        ),
        secret_of_type(
            "kubernetes.io/dockerconfigjson",
            "applications-registry",
            &json!({ ".dockerconfigjson": "{\"auths\":{\"registry.example\":{\"auth\":\"eDp5\"}}}" }),
        ),
        secret_of_type(
            "kubernetes.io/ssh-auth",
            "applications-git",
            &json!({ "ssh-privatekey": "-----KEY-----\n" }),
        ),
    ]
}

fn web_server() -> Container {
    Container::new("web", "nginx:latest")
        .command(&["/bin/bash", "-c", ASK])
        .mount("site", "/etc/nginx/sites-enabled")
        .mount("pages", "/srv/www")
        .mount("passwords", "/etc/nginx/passwords")
}

fn with_database(container: Container) -> Container {
    container
        .env_from(json!({ "configMapRef": { "name": "applications-database" } }))
        .env_from(json!({ "secretRef": { "name": "applications-database" } }))
}

/// A database that serves its migrations, the container that fetches them, and one that fills in a template.
fn init_containers() -> [Container; 3] {
    let database = container(
        "database",
        "trap 'exit 0' TERM; httpd -p 127.0.0.1:5432 -h /migrations; sleep 1000 & wait",
    )
    .restart_policy("Always")
    .set("startupProbe", json!({ "exec": { "command": ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:5432/001.sql"] }, "periodSeconds": 1, "failureThreshold": 60 }))
    .mount("migrations", "/migrations");
    let migrate = container(
        "migrate",
        "wget -q -O /work/done http://127.0.0.1:5432/001.sql && echo \"on $DB_NAME\" >> /work/done",
    )
    .env_of_config_map("DB_NAME", "applications-database", "DB_NAME")
    .mount("work", "/work");
    let render = with_database(container(
        "render",
        "sed -e \"s|@HOST@|$DB_HOST|\" -e \"s|@NAME@|$DB_NAME|\" /templates/app.conf.tmpl | awk -v p=\"$DB_PASSWORD\" \
         '{ i = index($0, \"@PASSWORD@\"); print i ? substr($0, 1, i - 1) p : $0 }' > /work/app.conf",
    ))
    .mount("templates", "/templates")
    .mount("work", "/work");
    [database, migrate, render]
}

fn cases() -> Cases {
    let url = with_database(container("url", "echo \"$DATABASE_URL\"")).env(json!({
        "name": "DATABASE_URL", "value": "postgres://$(DB_USER):$(DB_PASSWORD)@$(DB_HOST):5432/$(DB_NAME)?literal=$$(DB_NAME)&unset=$(DB_PORT)",
    }));
    let arguments = Container::new("arguments", &image("busybox"))
        .command(&["/bin/echo"])
        .env_of_config_map("LEVEL", "applications-logs", "LEVEL")
        .set("args", json!(["--level=$(LEVEL)", "$$(LEVEL)", "$(NONE)"]));
    let heap = container("heap", "echo $JAVA_TOOL_OPTIONS")
        .limit("memory", "48Mi")
        .env(json!({ "name": "LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } }))
        .env_of_field("POD", "metadata.name")
        .env(json!({ "name": "JAVA_TOOL_OPTIONS", "value": "-Xmx$(LIMIT)m -Dpod=$(POD)" }));
    let logger = container(
        "logger",
        "printf 'info: a\\nerror: b\\nfatal: c\\ninfo: d\\n' > /logs/app.log; touch /logs/complete",
    )
    .mount("logs", "/logs");
    let shipper = container(
        "shipper",
        "until [ -e /logs/complete ]; do sleep 0.1; done; grep -f /patterns/include /logs/app.log",
    )
    .mount("logs", "/logs")
    .mount("patterns", "/patterns");
    // The shell drops variables whose names it does not accept.
    let limits = container(
        "limits",
        "tr '\\0' '\\n' < /proc/1/environ | grep '^APP_[Lr]' | sort; echo $APP_LEVEL",
    )
    .env_from(json!({ "prefix": "APP_", "configMapRef": { "name": "applications-logs" } }));
    let script = Container::new("script", &image("busybox"))
        .command(&["/scripts/run.sh", "one", "two"])
        .mount("scripts", "/scripts");
    let registry = container(
        "registry",
        "cat ~/.docker/config.json; echo; ls -A ~/.docker | grep -v '^\\.\\.'",
    )
    .set("env", json!([{ "name": "HOME", "value": "/home" }]))
    .mount("registry", "/home/.docker");
    let git = container(
        "git",
        "stat -L -c '%a %u' /keys/ssh-privatekey; cat /keys/ssh-privatekey",
    )
    .mount("git", "/keys");
    let labels = container("labels", ". /podinfo/labels; echo \"$app/$tier\"").mount("podinfo", "/podinfo");
    let flags = container("flags", "echo \"${FLAGS-unset}\"; ls /flags | wc -l")
        .env(json!({ "name": "FLAGS", "valueFrom": { "configMapKeyRef": { "name": "applications-none", "key": "flags", "optional": true } } }))
        .env_from(json!({ "secretRef": { "name": "applications-none", "optional": true } }))
        .mount("flags", "/flags");
    let identity = container(
        "identity",
        "[ \"$POD_IP\" = \"$(hostname -i)\" ] && [ \"$HOSTNAME\" = \"$POD\" ] && echo same",
    )
    .env_of_field("POD_IP", "status.podIP")
    .env_of_field("POD", "metadata.name");
    Cases::default()
        .expect(web_server(), &["HTTP/1.1 401 Unauthorized", "members only"])
        .expect(
            container("migrated", "cat /work/done").mount("work", "/work"),
            &["create table carts;", "on shop"],
        )
        .expect(
            container("rendered", "cat /work/app.conf").mount("work", "/work"),
            &["url=db.shop.svc/shop", "password=p|a ss$word"],
        )
        .expect(
            url,
            &["postgres://shop:p|a ss$word@db.shop.svc:5432/shop?literal=$(DB_NAME)&unset=$(DB_PORT)"],
        )
        .expect(arguments, &["--level=debug $(LEVEL) $(NONE)"])
        .expect(heap, &["-Xmx48m -Dpod=applications"])
        .expect::<&str>(logger, &[])
        .expect(shipper, &["error: b", "fatal: c"])
        .expect(limits, &["APP_LEVEL=debug", "APP_rate-limit=10", "debug"])
        .expect(script, &["hello one two from /scripts/run.sh"])
        .expect(
            registry,
            &["{\"auths\":{\"registry.example\":{\"auth\":\"eDp5\"}}}", "config.json"],
        )
        .expect(git, &["400 0", "-----KEY-----"])
        .expect(labels, &["shop/front"])
        .expect(flags, &["unset", "0"])
        .expect(identity, &["same"])
}

#[test]
fn applications_take_configuration_passwords_and_scripts_from_objects() {
    let _alone = alone();
    let _objects = Stored::apply("applications-objects.yaml", &objects());
    let file = |key: &str, path: &str| json!([{ "key": key, "path": path }]);
    let mut pod = Pod::named("applications")
        .restart_policy("Never")
        .label("app", "shop")
        .label("tier", "front")
        .empty_dir("work")
        .empty_dir("logs");
    for volume in [
        json!({ "name": "site", "configMap": { "name": "applications-web", "items": file("site.conf", "default") } }),
        json!({ "name": "pages", "configMap": { "name": "applications-web", "items": file("index.html", "index.html") } }),
        json!({ "name": "passwords", "secret": { "secretName": "applications-passwords" } }),
        json!({ "name": "migrations", "configMap": { "name": "applications-database", "items": file("001.sql", "001.sql") } }),
        json!({ "name": "templates", "configMap": { "name": "applications-database", "items": file("app.conf.tmpl", "app.conf.tmpl") } }),
        json!({ "name": "patterns", "configMap": { "name": "applications-logs" } }),
        json!({ "name": "scripts", "configMap": { "name": "applications-scripts", "defaultMode": 0o755 } }),
        json!({ "name": "registry", "secret": { "secretName": "applications-registry", "items": file(".dockerconfigjson", "config.json") } }),
        json!({ "name": "git", "secret": { "secretName": "applications-git", "defaultMode": 0o400 } }),
        json!({ "name": "podinfo", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } }),
        json!({ "name": "flags", "configMap": { "name": "applications-none", "optional": true } }),
    ] {
        pod = pod.volume(volume);
    }
    for container in init_containers() {
        pod = pod.init_container(container);
    }
    let cases = cases();
    let finished = host().run(cases.add_to(pod));
    assert_eq!(finished.code(), 0, "{finished:?}");
    cases.assert_output(&finished.stdout);
}
