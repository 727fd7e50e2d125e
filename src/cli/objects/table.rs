//! Objects as rows of kubectl's tables.

use jiff::Timestamp;
use microkube_manifest::kinds::{Column, Kind};
use serde_json::Value;

use super::cells::cells;

/// Which columns are shown.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Columns<'a> {
    /// Whether to include the columns of `-o wide`.
    pub(in crate::cli) wide: bool,
    /// The namespace as the first column, for kinds that have one.
    pub(in crate::cli) namespace: bool,
    /// `configmap/a` instead of `a`.
    pub(in crate::cli) kind: bool,
    /// The values of these labels.
    pub(in crate::cli) labels: &'a [String],
    /// All labels.
    pub(in crate::cli) all_labels: bool,
}

impl Columns<'_> {
    /// The titles.
    pub(in crate::cli) fn header(&self, kind: &Kind) -> Vec<String> {
        let mut titles = Vec::new();
        if self.namespace && kind.namespaced {
            titles.push("NAMESPACE".to_owned());
        }
        titles.extend(self.of_kind(kind).map(|column| column.name.to_uppercase()));
        let label = |label: &String| label.rsplit('/').next().unwrap_or_default().to_uppercase();
        titles.extend(self.labels.iter().map(label));
        if self.all_labels {
            titles.push("LABELS".to_owned());
        }
        titles
    }

    /// The cells of an object.
    pub(in crate::cli) fn row(&self, kind: &Kind, object: &Value, now: Timestamp) -> Vec<String> {
        let mut row = Vec::new();
        if self.namespace && kind.namespaced {
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            row.push(namespace.unwrap_or_default().to_owned());
        }
        let is_shown = kind.columns.iter().map(|column| self.wide || !column.wide);
        let mut cells = cells(kind, object, now).into_iter().zip(is_shown);
        if let Some((name, _)) = cells.next() {
            row.push(match self.kind {
                true => format!("{}/{name}", type_in_names(kind)),
                false => name,
            });
        }
        row.extend(cells.filter(|(_, is_shown)| *is_shown).map(|(cell, _)| cell));
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for label in self.labels {
            let value = labels.and_then(|labels| labels.get(label)).map(text);
            row.push(value.unwrap_or_default());
        }
        if self.all_labels {
            let labels = labels.into_iter().flatten();
            let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={}", text(value))).collect();
            row.push(match labels.is_empty() {
                true => none(),
                false => labels.join(","),
            });
        }
        row
    }

    fn of_kind(&self, kind: &Kind) -> impl Iterator<Item = &'static Column> {
        let wide = self.wide;
        kind.columns.iter().filter(move |column| wide || !column.wide)
    }
}

/// A kind in `configmap/a` and `storageclass.storage.k8s.io/a`.
pub(in crate::cli) fn type_in_names(kind: &Kind) -> String {
    match kind.group {
        "" => kind.kind.to_lowercase(),
        group => format!("{}.{group}", kind.kind.to_lowercase()),
    }
}

fn none() -> String {
    "<none>".to_owned()
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use serde_json::json;

    use super::super::super::table::table;
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:03:20Z".parse().unwrap()
    }

    /// The table of objects of a kind, created 200 seconds ago.
    fn shown(kind: &str, columns: &Columns<'_>, objects: &[Value]) -> String {
        let kind = kinds::named(kind).unwrap();
        let mut rows = vec![columns.header(kind)];
        for object in objects {
            let mut object = object.clone();
            object["metadata"]["creationTimestamp"] = "2026-11-21T10:00:00Z".into();
            rows.push(columns.row(kind, &object, now()));
        }
        table(&rows)
    }

    fn wide() -> Columns<'static> {
        Columns {
            wide: true,
            ..Columns::default()
        }
    }

    #[test]
    fn data_is_counted() {
        let config_maps = [
            json!({ "metadata": { "name": "empty" } }),
            json!({ "metadata": { "name": "a" }, "data": { "x": "1", "y": "2" }, "binaryData": { "z": "AA==" } }),
        ];
        assert_eq!(
            shown("cm", &Columns::default(), &config_maps),
            "NAME    DATA   AGE\nempty   0      3m20s\na       3      3m20s\n"
        );
        let secrets =
            [json!({ "metadata": { "name": "a" }, "type": "kubernetes.io/tls", "data": { "tls.crt": "QQ==" } })];
        assert_eq!(
            shown("secret", &wide(), &secrets),
            "NAME   TYPE                DATA   AGE\na      kubernetes.io/tls   1      3m20s\n"
        );
    }

    #[test]
    fn namespaces_show_their_phase_and_service_accounts_only_their_age() {
        let namespaces = [json!({ "metadata": { "name": "shop" }, "status": { "phase": "Terminating" } })];
        assert_eq!(
            shown("ns", &Columns::default(), &namespaces),
            "NAME   STATUS        AGE\nshop   Terminating   3m20s\n"
        );
        let accounts = [json!({ "metadata": { "name": "default" } })];
        assert_eq!(
            shown("sa", &Columns::default(), &accounts),
            "NAME      AGE\ndefault   3m20s\n"
        );
    }

    #[test]
    fn volumes_show_their_capacity_modes_claim_and_class() {
        let volume = json!({
            "metadata": { "name": "disk" },
            "spec": {
                "capacity": { "storage": "10Gi" }, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": { "namespace": "shop", "name": "data" },
                "storageClassName": "fast", "volumeMode": "Filesystem",
            },
            "status": { "phase": "Bound" },
        });
        let mut deleted = volume.clone();
        deleted["metadata"]["name"] = "old".into();
        deleted["metadata"]["deletionTimestamp"] = "2026-11-21T10:01:00Z".into();
        deleted["spec"] = json!({ "volumeAttributesClassName": "gold" });
        assert_eq!(
            shown("pv", &wide(), &[volume, deleted]),
            "\
NAME   CAPACITY   ACCESS MODES   RECLAIM POLICY   STATUS        CLAIM       STORAGECLASS   VOLUMEATTRIBUTESCLASS   REASON   AGE     VOLUMEMODE
disk   10Gi       RWO,RWX        Retain           Bound         shop/data   fast           <unset>                          3m20s   Filesystem
old    0                                          Terminating                              gold                             3m20s   <unset>
"
        );
    }

    #[test]
    fn claims_show_what_their_volume_has_once_they_have_one() {
        let pending = json!({
            "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "phase": "Pending" },
        });
        let bound = json!({
            "metadata": { "name": "bound", "annotations": { "volume.beta.kubernetes.io/storage-class": "old" } },
            "spec": { "volumeName": "disk", "volumeMode": "Block", "storageClassName": "new" },
            "status": { "phase": "Bound", "accessModes": ["ReadWriteOncePod"], "capacity": { "storage": "2Gi" } },
        });
        assert_eq!(
            shown("pvc", &wide(), &[pending, bound]),
            "\
NAME    STATUS    VOLUME   CAPACITY   ACCESS MODES   STORAGECLASS   VOLUMEATTRIBUTESCLASS   AGE     VOLUMEMODE
data    Pending                                                     <unset>                 3m20s   <unset>
bound   Bound     disk     2Gi        RWOP           old            <unset>                 3m20s   Block
"
        );
    }

    #[test]
    fn storage_classes_name_the_default_one() {
        let classes = [
            json!({
                "metadata": { "name": "fast", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
                "provisioner": "microkube.io/local", "reclaimPolicy": "Retain",
                "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
            }),
            json!({ "metadata": { "name": "slow" }, "provisioner": "p" }),
        ];
        let columns = Columns {
            kind: true,
            ..Columns::default()
        };
        assert_eq!(
            shown("sc", &columns, &classes),
            "\
NAME                                         PROVISIONER          RECLAIMPOLICY   VOLUMEBINDINGMODE      ALLOWVOLUMEEXPANSION   AGE
storageclass.storage.k8s.io/fast (default)   microkube.io/local   Retain          WaitForFirstConsumer   true                   3m20s
storageclass.storage.k8s.io/slow             p                    Delete          Immediate              false                  3m20s
"
        );
    }

    #[test]
    fn labels_are_shown_in_columns_and_together() {
        let labels = ["example.com/tier".to_owned(), "app".to_owned()];
        let columns = Columns {
            namespace: true,
            labels: &labels,
            all_labels: true,
            ..Columns::default()
        };
        let config_maps = [
            json!({ "metadata": { "name": "a", "namespace": "shop", "labels": { "app": "web", "example.com/tier": "x" } } }),
            json!({ "metadata": { "name": "b", "namespace": "shop" } }),
        ];
        assert_eq!(
            shown("cm", &columns, &config_maps),
            "\
NAMESPACE   NAME   DATA   AGE     TIER   APP   LABELS
shop        a      0      3m20s   x      web   app=web,example.com/tier=x
shop        b      0      3m20s                <none>
"
        );
        assert!(
            !columns
                .header(kinds::named("ns").unwrap())
                .contains(&"NAMESPACE".to_owned())
        );
    }

    #[test]
    fn every_kind_has_a_cell_for_each_column() {
        for kind in kinds::all() {
            let object = json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": "a" } });
            assert_eq!(cells(kind, &object, now()).len(), kind.columns.len(), "{}", kind.kind);
        }
    }
}
