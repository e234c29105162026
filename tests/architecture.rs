//! Arrows point one way: the crates import only what ARCHITECTURE.md's table allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Who may import whom, of our own crates; `src` is the binary.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("kernels", &[]),
    ("lm", &["kernels"]),
    ("trainer", &["kernels", "lm"]),
    ("probes", &["lm"]),
    ("evals", &["probes"]),
    ("reports", &["evals", "probes"]),
    ("fixtures", &[]),
    (".", &["evals", "fixtures", "kernels", "lm", "probes", "reports", "trainer"]),
];

/// Libraries that stay at one place.
const CONFINED: [(&str, &[&str]); 15] = [
    ("candle-core", &["kernels", "lm", "trainer"]),
    ("candle-nn", &["kernels", "lm", "trainer"]),
    ("polars", &["evals"]),
    ("polars-arrow", &["evals"]),
    ("polars-parquet", &["evals"]),
    ("minijinja", &["lm", "reports"]),
    ("schemars", &["evals", "probes"]),
    ("csv", &["probes", "reports"]),
    ("regex", &["probes"]),
    ("ureq", &["lm"]),
    ("tiny_http", &["."]),
    ("mpi", &["trainer"]),
    ("signal-hook", &["."]),
    ("clap", &["."]),
    ("anyhow", &["."]),
];

fn dependencies(dir: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap();
    let mut names = BTreeSet::new();
    let mut in_dependencies = false;
    for line in text.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim() == "[dependencies]";
        } else if in_dependencies && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            names.insert(name.trim().to_owned());
        }
    }
    assert!(!names.is_empty() || dir == "fixtures", "{} has no dependencies: is it read rightly?", path.display());
    names
}

#[test]
fn crates_import_only_those_below_them() {
    let ours: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let table: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for (dir, allowed) in table {
        for dependency in dependencies(dir) {
            if ours.contains(dependency.as_str()) {
                assert!(allowed.contains(&dependency.as_str()), "{dir} must not import {dependency}");
            }
        }
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    for (library, places) in CONFINED {
        for (dir, _) in ALLOWED {
            if dependencies(dir).contains(library) {
                assert!(places.contains(&dir), "{dir} must not use {library}");
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_kernels_only() {
    for (dir, _) in ALLOWED {
        let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir).join("Cargo.toml")).unwrap();
        let follows_workspace = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(follows_workspace, dir != "kernels", "{dir}: lints of the workspace deny unsafe code");
    }
}

#[test]
fn every_source_file_is_of_readable_length() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = ALLOWED.iter().map(|(dir, _)| root.join(dir).join("src")).collect();
    folders.push(root.join("tests"));
    let mut n_files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                n_files += 1;
                let n_lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(n_lines <= 600, "{} has {n_lines} lines", path.display());
                let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
                let vague = ["util", "utils", "helper", "helpers", "common", "misc", "core", "manager"];
                assert!(!vague.contains(&stem.as_str()), "{} says nothing", path.display());
            }
        }
    }
    assert!(n_files > 40, "only {n_files} files read");
}
