//! Faulty files with the exact messages about them.

use super::faults;

/// Texts, and all messages about each.
const FAULTY: &[(&str, &[&str])] = &[
    // Unknown keys.
    (
        "netwrok:\n  podCIDR: 10.0.0.0/8\n",
        &["1:1: unknown key \"netwrok\"; did you mean \"network\"?"],
    ),
    (
        "Log: {level: debug}\n",
        &["1:1: unknown key \"Log\"; did you mean \"log\"?"],
    ),
    (
        "registry: {}\n",
        &["1:1: unknown key \"registry\"; expected one of paths, network, images, vm, security, log"],
    ),
    (
        "log:\n  level: debug\n\npodCIDR: 10.0.0.0/8\n",
        &["4:1: unknown key \"podCIDR\"; did you mean \"podCIDR\" in \"network\"?"],
    ),
    (
        "network.podCIDR: 10.0.0.0/8\n",
        &["1:1: unknown key \"network.podCIDR\"; did you mean \"podCIDR\" in \"network\"?"],
    ),
    (
        "MICROKUBE_KEEP_BLOBS: true\n",
        &["1:1: unknown key \"MICROKUBE_KEEP_BLOBS\"; did you mean \"keepBlobs\" in \"images\"?"],
    ),
    (
        "network:\n  podCidr: 10.0.0.0/8\n",
        &["2:3: network: unknown key \"podCidr\"; did you mean \"podCIDR\"?"],
    ),
    (
        "images: {keepBlob: true, layersMaxFiles: 1}\n",
        &[
            "1:10: images: unknown key \"keepBlob\"; did you mean \"keepBlobs\"?",
            "1:26: images: unknown key \"layersMaxFiles\"; did you mean \"layerMaxFiles\"?",
        ],
    ),
    (
        "vm:\n  cpus: 4\n",
        &["2:3: vm: unknown key \"cpus\"; expected one of bootTimeoutSeconds"],
    ),
    (
        "vm:\n  level: debug\n",
        &["2:3: vm: unknown key \"level\"; did you mean \"level\" in \"log\"?"],
    ),
    (
        "paths:\n  state_dir: /srv\n",
        &["2:3: paths: unknown key \"state_dir\"; expected one of state, run, vmm, fileServer, guest, emulatedHost"],
    ),
    (
        "paths:\n  MICROKUBE_RUN_DIR: /srv\n",
        &["2:3: paths: unknown key \"MICROKUBE_RUN_DIR\"; did you mean \"run\"?"],
    ),
    // Unknown keys.
    ("1: 2\n", &["1:1: expected a key, found the number 1"]),
    (
        "log: {[level]: debug, true: 1}\n",
        &[
            "1:7: log: expected a key, found a list",
            "1:23: log: expected a key, found true",
        ],
    ),
    (
        "<<: {log: {level: debug}}\n",
        &["1:1: unknown key \"<<\"; expected one of paths, network, images, vm, security, log"],
    ),
    // Duplicates.
    (
        "log:\n  level: debug\nvm:\nlog:\n  format: json\n",
        &["4:1: duplicate key \"log\"; it is already on line 1"],
    ),
    (
        "log:\n  level: debug\n  format: json\n  level: info\n",
        &["4:3: log: duplicate key \"level\"; it is already on line 2"],
    ),
    // Structure.
    (
        "- paths\n",
        &["1:1: expected a mapping with the keys paths, network, images, vm, security, log, found a list"],
    ),
    (
        "# only this\n  debug\n",
        &[
            "2:3: expected a mapping with the keys paths, network, images, vm, security, log, found the string \"debug\"",
        ],
    ),
    (
        "log: debug\n",
        &["1:6: log: expected a mapping, found the string \"debug\""],
    ),
    (
        "images:\n- keepBlobs: true\n",
        &["2:1: images: expected a mapping, found a list"],
    ),
    (
        "log: {level: debug}\n---\nlog: {level: info}\n",
        &["3:1: a second YAML document; the file must have only one"],
    ),
    // Types and values.
    (
        "network:\n  podCIDR: 10\n",
        &["2:12: network.podCIDR: expected an IPv4 network such as 10.88.0.0/16, found the number 10"],
    ),
    (
        "network:\n  podCIDR: fd00::/64\n",
        &["2:12: network.podCIDR: expected an IPv4 network such as 10.88.0.0/16, found the string \"fd00::/64\""],
    ),
    (
        "network:\n  podCIDR: 10.88.3.7/16\n",
        &["2:12: network.podCIDR: \"10.88.3.7/16\" has bits set beyond its prefix length; the network is 10.88.0.0/16"],
    ),
    (
        "network:\n  podCIDR: 127.0.0.0/8\n",
        &[
            "2:12: network.podCIDR: \"127.0.0.0/8\" cannot be a Pod network: it needs a prefix length of 8 to 30 and unicast addresses",
        ],
    ),
    (
        "network:\n  podCIDR:\n",
        &["2:11: network.podCIDR: expected an IPv4 network such as 10.88.0.0/16, found nothing"],
    ),
    (
        "network:\n  podCIDR: [10.0.0.0/8]\n",
        &["2:12: network.podCIDR: expected an IPv4 network such as 10.88.0.0/16, found a list"],
    ),
    (
        "images: {keepBlobs: yes, verifyLayers: 1}\n",
        &[
            "1:21: images.keepBlobs: expected true or false, found the string \"yes\"",
            "1:40: images.verifyLayers: expected true or false, found the number 1",
        ],
    ),
    (
        "images:\n  keepBlobs: \"true\"\n",
        &["2:14: images.keepBlobs: expected true or false, found the string \"true\""],
    ),
    (
        "images:\n  keepBlobs: {yes: no}\n",
        &["2:14: images.keepBlobs: expected true or false, found a mapping"],
    ),
    (
        "security:\n  allowedUnsafeSysctls: net.*\n",
        &[
            "2:25: security.allowedUnsafeSysctls: expected a list of sysctls such as kernel.msg* or net.core.somaxconn, found the string \"net.*\"",
        ],
    ),
    (
        "security:\n  allowedUnsafeSysctls: [net.*, 1]\n",
        &[
            "2:25: security.allowedUnsafeSysctls: expected a list of sysctls such as kernel.msg* or net.core.somaxconn, found a list with other values",
        ],
    ),
    (
        "security:\n  allowedUnsafeSysctls: [kernel.*]\n",
        &["2:25: security.allowedUnsafeSysctls: the sysctls \"kernel.*\" are not known to be namespaced"],
    ),
    (
        "images:\n  layerMaxFiles: 0\n",
        &["2:18: images.layerMaxFiles: expected a whole number of files from 1 to 4294967293, found the number 0"],
    ),
    (
        "images:\n  layerMaxFiles: 4294967294\n",
        &[
            "2:18: images.layerMaxFiles: expected a whole number of files from 1 to 4294967293, found the number 4294967294",
        ],
    ),
    (
        "images:\n  layerMaxBytes: 64Gi\n",
        &[
            "2:18: images.layerMaxBytes: expected a whole number of bytes from 1 to 17592186044416, found the string \"64Gi\"",
        ],
    ),
    (
        "images:\n  layerMaxBytes: 99999999999999999999\n",
        &[
            "2:18: images.layerMaxBytes: expected a whole number of bytes from 1 to 17592186044416, found the number 99999999999999999999",
        ],
    ),
    (
        "vm:\n  bootTimeoutSeconds: -5\n",
        &["2:23: vm.bootTimeoutSeconds: expected a whole number of seconds from 1 to 86400, found the number -5"],
    ),
    (
        "vm:\n  bootTimeoutSeconds: 2.5\n",
        &["2:23: vm.bootTimeoutSeconds: expected a whole number of seconds from 1 to 86400, found the number 2.5"],
    ),
    (
        "vm:\n  bootTimeoutSeconds: 30s\n",
        &["2:23: vm.bootTimeoutSeconds: expected a whole number of seconds from 1 to 86400, found the string \"30s\""],
    ),
    (
        "images:\n  layerCompression: gzip\n",
        &["2:21: images.layerCompression: expected none or lz4, found the string \"gzip\""],
    ),
    (
        "images:\n  layerCompression: lz\n",
        &["2:21: images.layerCompression: expected none or lz4, found the string \"lz\"; did you mean lz4?"],
    ),
    (
        "log:\n  format: jsno\n  output: jurnal\n",
        &[
            "2:11: log.format: expected text or json, found the string \"jsno\"; did you mean json?",
            "3:11: log.output: expected stderr or journal, found the string \"jurnal\"; did you mean journal?",
        ],
    ),
    (
        "log:\n  level: debgu\n",
        &[
            "2:10: log.level: expected a log level (off, error, warn, info, debug, trace) or directives such as microkube=debug, found the string \"debgu\"; did you mean debug?",
        ],
    ),
    (
        "log:\n  level: microkube=\n",
        &[
            "2:10: log.level: expected a log level (off, error, warn, info, debug, trace) or directives such as microkube=debug, found the string \"microkube=\"",
        ],
    ),
    (
        "log:\n  level: microkube=loud\n",
        &[
            "2:10: log.level: expected a log level (off, error, warn, info, debug, trace) or directives such as microkube=debug, found the string \"microkube=loud\"",
        ],
    ),
    (
        "log:\n  level: off\n  format: null\n",
        &["3:11: log.format: expected text or json, found nothing"],
    ),
    (
        "paths:\n  state: srv/microkube\n",
        &["2:10: paths.state: expected an absolute path, found the string \"srv/microkube\""],
    ),
    (
        "paths: {run: \"/run/\\0\"}\n",
        &["1:14: paths.run: expected an absolute path, found the string \"/run/\\0\""],
    ),
    (
        "paths:\n  vmm: !file /usr/bin/microkube-vmm\n",
        &["2:8: paths.vmm: expected an absolute path, found a value with the YAML tag \"!file\""],
    ),
    // Not YAML.
    (
        "log:\n\tlevel: debug\n",
        &[
            "2:1: not valid YAML: found character that cannot start any token, while scanning for the next token; tabs are not allowed for indentation, use spaces",
        ],
    ),
    (
        "log: {level: debug\n",
        &["2:1: not valid YAML: did not find expected ',' or '}', while parsing a flow mapping at line 1 column 6"],
    ),
    ("log: *level\n", &["1:6: not valid YAML: unknown anchor"]),
    (
        "log:\n  levle: debug\n  format: json: b\n",
        &[
            "2:3: log: unknown key \"levle\"; did you mean \"level\"?",
            "3:15: not valid YAML: mapping values are not allowed in this context",
        ],
    ),
];

#[test]
fn faulty_files_are_refused_with_exact_messages() {
    for (text, expected) in FAULTY {
        assert_eq!(faults(text.as_bytes()), *expected, "{text}");
    }
    assert!(FAULTY.len() >= 30);
}
