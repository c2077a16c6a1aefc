//! A process that ends at any step of a round, under load: around the write and the sync of the log, the sending of
//! messages, the writing of rows and the answers.

use ledger::demo::process::{READY_TIME_MAX, Server};

use super::alike::assert_alike;
use super::harness::{Cluster, WAIT_MAX};
use super::load::{Load, assert_held};
use super::recovery_crashes::POINTS;

/// The steps, in the order in which a round takes them.
const STEPS: [&str; 9] = [
    "crash::send",
    "crash::sent",
    "crash::log_write",
    "crash::log_written",
    "crash::log_synced",
    "crash::apply",
    "crash::apply_write",
    "crash::reply",
    "crash::replied",
];

/// Starts a stopped server so that it ends when it comes to the step for this time.
fn arm(server: &mut Server, step: &str, time: usize) {
    let environment = &mut server.spec_mut().environment;
    environment.retain(|(name, _)| name != POINTS);
    environment.push((POINTS.to_owned(), format!("{step}={time}*off->panic")));
    server.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_may_end_at_every_step_of_a_round() {
    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("crash-points", 3).await;
    let client = cluster.client().await;
    let mut load = Load::start(&client, &vaults, 2);
    load.wait_more(5).await;
    for (number, step) in STEPS.iter().enumerate() {
        // Each step once on a node that has led some groups for a while, and once right after a start.
        for time in [400, 3] {
            let victim = number % 3;
            let server = &mut cluster.servers[victim];
            server.kill();
            arm(server, step, time);
            let status = server.wait_exit(WAIT_MAX).await.unwrap();
            assert!(!status.success(), "{step}: {status}");
            assert!(server.log_tail().contains(step), "{step}: {}", server.log_tail());
            server.spec_mut().environment.retain(|(name, _)| name != POINTS);
            server.resume().unwrap();
            server.wait_ready(READY_TIME_MAX).await.unwrap();
            load.wait_more(3).await;
        }
    }
    let acknowledged = load.finish().await;
    assert_alike(&cluster, &vaults).await;
    assert_held(&cluster.replicas(), &acknowledged).await;
    cluster.assert_ready().await;
}
