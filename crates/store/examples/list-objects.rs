//! Measures how long it takes to write and list many objects: `list-objects DIRECTORY [COUNT]`.
//!
//! Creates the objects if the directory does not contain a store, and then lists them, first with no state in memory.
//! To list without the kernel's caches, run it a second time after `echo 3 > /proc/sys/vm/drop_caches`.

use std::path::Path;
use std::time::Instant;

use microkube_store::{Generation, Object, Resource, Scope, Store, StoreError};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: list-objects DIRECTORY [COUNT]")?;
    let count: u32 = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    let config_maps = Resource {
        group: "".into(),
        version: "v1".into(),
        kind: "ConfigMap".into(),
        plural: "configmaps".into(),
        namespaced: true,
        generation: Generation::Absent,
    };
    let (state, run) = (Path::new(&directory).join("state"), Path::new(&directory).join("run"));
    let is_new = !state.exists();
    let begin = Instant::now();
    let store = Store::open(&state, &run)?;
    println!("open: {:?}", begin.elapsed());
    if is_new {
        let begin = Instant::now();
        fill(&store, &config_maps, count)?;
        println!("create {count}: {:?}", begin.elapsed());
    }
    let begin = Instant::now();
    let list = store.list(&config_maps, &Scope::All)?;
    println!("list {}: {:?}", list.items.len(), begin.elapsed());
    Ok(())
}

/// Creates ConfigMaps of about 1 KiB in ten namespaces.
fn fill(store: &Store, config_maps: &Resource, count: u32) -> Result<(), StoreError> {
    let text = "x".repeat(600);
    for number in 0..count {
        let value = json!({
            "metadata": {
                "namespace": format!("namespace-{}", number % 10),
                "name": format!("object-{number}"),
                "labels": {"app": "web", "tier": "front"},
            },
            "data": {"file": text, "number": number.to_string()},
        });
        store.create(config_maps, Object::new(value)?)?;
    }
    Ok(())
}
