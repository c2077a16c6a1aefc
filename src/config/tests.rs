//! Layers, refusals and validation of the settings.

use super::*;

fn gather(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<RawConfig, ConfigError> {
    let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    let flags: Vec<_> = flags.iter().map(own).collect();
    RawConfig::gather(&flags, env.iter().map(own), None)
}

fn machine(host_name: &str, processors: usize) -> Machine<'_> {
    Machine { host_name, processors, memory_bytes: 8 << 30 }
}

#[test]
fn caches_follow_the_memory_unless_they_are_set() {
    let raw = gather(&[], &[("LEDGER_TREE_CACHE_BYTES", "1048576")]).expect("known");
    let config = Config::from_raw(&raw, machine("host", 2)).expect("valid");
    assert_eq!((config.tree_cache_bytes, config.block_cache_bytes), (1 << 20, 256 << 20));
    let raw = gather(&[], &[("LEDGER_TREE_CACHE_BYTES", "1023")]).expect("known");
    let error = Config::from_raw(&raw, machine("host", 2)).expect_err("too small").to_string();
    assert!(error.contains("tree-cache-bytes"), "{error}");
}

#[test]
fn flags_go_before_environment_and_environment_before_defaults() {
    let raw = gather(&[("shards", "4")], &[("LEDGER_SHARDS", "2"), ("BOOTSTRAP_EXPECT", "1")])
        .expect("known settings");
    assert_eq!(raw.get("shards"), ("4", Origin::Flag));
    assert_eq!(raw.get("bootstrap-expect"), ("1", Origin::Environment));
    assert_eq!(raw.get("data-dir"), ("/data", Origin::Default));
    let config = Config::from_raw(&raw, machine("ledger-2", 2)).expect("valid");
    assert_eq!((config.name.as_str(), config.shards, config.worker_threads), ("2", 4, 1));
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    let error = gather(&[], &[("LEDGER_SHARD", "4")]).expect_err("unknown");
    assert!(error.to_string().contains("did you mean `LEDGER_SHARDS`?"), "{error}");
    let error = gather(&[("data-dri", "x")], &[]).expect_err("unknown");
    assert!(error.to_string().contains("`data-dir`"), "{error}");
    let links = [("LEDGER_PORT_50051_TCP", "x"), ("LEDGER_SERVICE_HOST", "x"), ("HOME", "/")];
    assert!(gather(&[], &links).is_ok(), "service links and others' variables are no settings");
}

#[test]
fn what_tests_may_change_is_refused_by_other_builds() {
    for name in ["LEDGER_TEST_DIAL", "LEDGER_TEST_POINTS"] {
        assert_eq!(gather(&[], &[(name, "x")]).is_ok(), cfg!(feature = "failpoints"), "{name}");
    }
    assert!(gather(&[], &[("LEDGER_TEST_OTHER", "x")]).is_err());
}

#[test]
fn files_are_read_and_their_keys_checked() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("ledger.toml");
    std::fs::write(&path, "shards = 3\npeers = \"a:1, b:2\"\n").expect("written");
    let raw = RawConfig::gather(&[], std::iter::empty(), Some(&path)).expect("known keys");
    assert_eq!(raw.get("shards"), ("3", Origin::File));
    let config = Config::from_raw(&raw, machine("host", 8)).expect("valid");
    assert_eq!(config.peers, ["a:1", "b:2"]);
    assert_eq!(config.name, "0");
    std::fs::write(&path, "data_dirr = 3\n").expect("written");
    let error = RawConfig::gather(&[], std::iter::empty(), Some(&path)).expect_err("unknown");
    assert!(error.to_string().contains("`data_dir`"), "{error}");
}

#[test]
fn deleted_vaults_are_kept_for_a_time_or_for_ever() {
    let retention = |value| {
        let raw = gather(&[("deleted-retention-s", value)], &[]).expect("known");
        Config::from_raw(&raw, machine("host", 2)).map(|config| config.deleted_retention)
    };
    let days = |days: u64| Some(Duration::from_secs(days * 86_400));
    let default =
        Config::from_raw(&gather(&[], &[]).expect("none"), machine("host", 2)).expect("legal");
    assert_eq!(default.deleted_retention, days(30));
    assert_eq!(retention("0").expect("legal"), days(0));
    assert_eq!(retention("86400").expect("legal"), days(1));
    assert_eq!(retention("never").expect("legal"), None);
    for wrong in ["", "-1", "30d", "99999999999"] {
        let error = retention(wrong).expect_err("no time").to_string();
        assert!(error.contains("deleted-retention-s") && error.contains("never"), "{error}");
    }
}

#[test]
fn a_note_threshold_can_be_met_by_every_voter_set() {
    let read = |value: &str, founders: &str, replicas: &str| {
        let flags = [
            ("note-threshold", value),
            ("bootstrap-expect", founders),
            ("replication-factor", replicas),
        ];
        let raw = gather(&flags, &[]).expect("known settings");
        Config::from_raw(&raw, machine("host", 2)).map(|config| config.note_threshold)
    };
    assert_eq!(read("majority", "3", "3").expect("legal"), Threshold::Majority);
    assert_eq!(read("all", "3", "3").expect("legal"), Threshold::Fixed(3));
    assert_eq!(read("all", "1", "3").expect("legal"), Threshold::Fixed(1));
    assert_eq!(read("3", "5", "3").expect("legal"), Threshold::Fixed(3));
    for (value, founders, replicas, why) in [
        ("0", "3", "3", "from 1 to 3"),
        ("4", "3", "3", "from 1 to 3"),
        ("4", "5", "3", "from 1 to 3"),
        ("all", "5", "3", "`all` needs"),
        ("most", "3", "3", "expected majority or all"),
    ] {
        let error = read(value, founders, replicas).expect_err("no note could meet it").to_string();
        assert!(error.contains(why) && error.contains("note-threshold"), "{value}: {error}");
    }
}

#[test]
fn bad_values_name_setting_and_origin() {
    let raw = gather(&[], &[("LEDGER_LISTEN_ADDR", "localhost")]).expect("known");
    let error = Config::from_raw(&raw, machine("host", 2)).expect_err("no port").to_string();
    assert!(error.contains("listen-addr") && error.contains("environment"), "{error}");
    let too_small = [
        ("shards", "0"),
        ("raft-log-entries-max", "9"),
        ("raft-log-bytes-max", "65535"),
        ("snapshot-bytes-per-second", "0"),
    ];
    for (flag, value) in too_small {
        let raw = gather(&[(flag, value)], &[]).expect("known");
        let error = Config::from_raw(&raw, machine("host", 2)).expect_err("too small").to_string();
        assert!(error.contains(flag), "{error}");
    }
}
