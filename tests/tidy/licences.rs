//! Every dependency comes from crates.io and is under a licence of the list in `deny.toml`. Asks
//! cargo for its packages and nothing of the network, so that it holds on each change; `ci/deny`
//! also looks for vulnerabilities.

use std::process::Command;

use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The texts of `allow = […]` in `deny.toml`.
fn allowed(config: &str) -> Vec<&str> {
    let list = config.split("allow = [").nth(1).and_then(|rest| rest.split(']').next());
    list.unwrap_or_default().split('"').skip(1).step_by(2).collect()
}

/// Whether the list allows an SPDX expression; `/` is an old way to write OR.
fn permits(list: &[&str], expression: &str) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    either(list, &mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(list: &[&str], words: &mut Words) -> bool {
    let mut good = both(list, words);
    while words.next_if_eq(&"OR").is_some() {
        good |= both(list, words);
    }
    good
}

fn both(list: &[&str], words: &mut Words) -> bool {
    let mut good = one(list, words);
    while words.next_if_eq(&"AND").is_some() {
        good &= one(list, words);
    }
    good
}

fn one(list: &[&str], words: &mut Words) -> bool {
    match words.next() {
        Some("(") => either(list, words) & (words.next() == Some(")")),
        Some(name) => list.contains(&name),
        None => false,
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let list = ["MIT", "Apache-2.0", "Unicode-3.0"];
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "(MIT OR X) AND Unicode-3.0"] {
        assert!(permits(&list, good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND X", "", "MIT X", "X OR (MIT AND X)"] {
        assert!(!permits(&list, bad), "{bad}");
    }
}

#[test]
fn dependencies_are_permissive_and_from_the_registry() {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = std::fs::read_to_string(format!("{root}/deny.toml")).expect("deny.toml");
    let list = allowed(&config);
    assert!(list.len() > 4 && list.contains(&"MIT"), "{list:?}");
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform", PLATFORM];
    let cargo = Command::new(env!("CARGO")).args(arguments).current_dir(root).output();
    let output = cargo.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "{} packages", packages.len());
    let mut complaints = Vec::new();
    for package in packages {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        let own = package["source"].is_null() && name == env!("CARGO_PKG_NAME");
        if !own && package["source"] != REGISTRY {
            complaints.push(format!("{name} comes from {}", package["source"]));
        }
        if !permits(&list, licence) {
            complaints.push(format!("{name} is under '{licence}', which deny.toml does not allow"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
