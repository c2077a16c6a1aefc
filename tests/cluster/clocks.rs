//! A node whose clock is wrong: it says so, leads nothing, and does both again once the clock is right.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ledger::demo::process::READY_TIME_MAX;
use ledger::test_hooks::POINTS_VARIABLE;
use ledger_proto::v1;

use super::harness::{Cluster, Node, eventually, set, write_request};

/// The node whose clock is set wrong.
const VICTIM: usize = 0;
/// By how much, in milliseconds.
const STEP_MS: i64 = 3_600_000;

/// Restarts the victim so that it follows a file of fail points, which is empty.
async fn follow_points(cluster: &mut Cluster) -> PathBuf {
    let file = cluster.directory("points").join("points");
    std::fs::write(&file, "").unwrap();
    let server = &mut cluster.servers[VICTIM];
    server.kill();
    let points = (POINTS_VARIABLE.to_owned(), file.display().to_string());
    server.spec_mut().environment.push(points);
    server.resume().unwrap();
    server.wait_ready(READY_TIME_MAX).await.unwrap();
    file
}

/// Replaces the file's content as one step.
fn set_points(file: &Path, text: &str) {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, file).unwrap();
}

/// How many groups a node leads.
async fn led(node: &Node) -> Result<usize, String> {
    let groups = node.groups().await.map_err(|status| status.to_string())?;
    let leads = |group: &&v1::GroupStatus| group.role() == v1::ReplicaRole::Leader;
    Ok(groups.values().filter(leads).count())
}

fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// The line of a probe's report about the clock, and whether the node is ready.
async fn probed(cluster: &Cluster, number: usize) -> (u16, String) {
    let (code, text) = cluster.servers[number].http_get("/readyz?verbose").await.unwrap();
    (code, text.lines().find(|line| line.contains("clock")).unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_wrong_clock_leads_nothing_until_it_is_right() {
    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("clocks", 8).await;
    let file = follow_points(&mut cluster).await;
    let (victim, other) = (cluster.node(VICTIM), cluster.node(1));
    let leads_some = async || match led(&victim).await? {
        0 => Err("nothing".to_owned()),
        led => Ok(led),
    };
    eventually("the node leads some groups", leads_some).await;

    set_points(&file, &format!("clock::wall_step_ms=return({STEP_MS})\n"));
    eventually("the node says that its clock is wrong", async || {
        let (code, line) = probed(&cluster, VICTIM).await;
        if code == 503 && line.contains("differs") { Ok(()) } else { Err((code, line)) }
    })
    .await;
    eventually("the node leads nothing", async || match led(&victim).await? {
        0 => Ok(()),
        led => Err(format!("{led} groups")),
    })
    .await;
    assert_eq!(cluster.metric(VICTIM, "ledger_clock_is_off").await, 1.0);
    let (_, text) = cluster.servers[VICTIM].http_get("/metrics").await.unwrap();
    let skews = text.lines().filter(|line| line.starts_with("ledger_clock_skew_seconds{"));
    let skews: Vec<f64> =
        skews.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    let step = STEP_MS as f64 / 1e3;
    assert!(skews.len() == 2 && skews.iter().all(|skew| (skew + step).abs() < 60.0), "{skews:?}");
    // The other nodes know that it is not theirs that is wrong, and go on; through the victim too.
    for number in [1, 2] {
        let (code, line) = probed(&cluster, number).await;
        assert_eq!(code, 200, "{line}");
        assert_eq!(cluster.metric(number, "ledger_clock_is_off").await, 0.0);
    }
    // A vault that was never written to before shows no time from the future.
    let fresh = cluster.vaults("clocks-fresh", 8).await;
    for vault in &fresh {
        let request = v1::WriteRequest {
            include_tx_proof: true,
            ..write_request(*vault, vec![set("key", b"1")])
        };
        let answer = victim.writes().write(request).await.unwrap().into_inner();
        let Some(v1::write_response::Result::Success(success)) = answer.result else {
            panic!("{answer:?}")
        };
        let time = success.block_header.unwrap().timestamp.unwrap().seconds;
        assert!((time - now_seconds()).abs() < 60, "a block of {time}");
    }
    assert_eq!(led(&victim).await.unwrap(), 0, "nobody gave it a group back");

    set_points(&file, "");
    eventually("the node is ready again", async || {
        let (code, line) = probed(&cluster, VICTIM).await;
        if code == 200 { Ok(()) } else { Err((code, line)) }
    })
    .await;
    eventually("the node leads some groups again", leads_some).await;
    other.put(vaults[0], "after", b"1").await.unwrap();
    assert_eq!(cluster.metric(VICTIM, "ledger_clock_is_off").await, 0.0);
}
