//! SIGKILL in the middle of a snapshot, at every step of the sender and of the receiver. The processes hang
//! at named points of a build with the feature `failpoints` and say so in their logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use ledger::demo::process::Server;
use ledger_types::VaultRef;

use super::alike::assert_alike;
use super::harness::{Cluster, WAIT_MAX};
use super::load::{Acknowledged, Load, assert_held};
use super::recovery::{SHORT_LOG, is_outrun, log_ends, wait_no_files};

/// The node that lags.
const AWAY: usize = 2;
/// The only data shard.
const SHARD: u64 = 1;
/// Pause between two looks at what a process has said.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The environment variable that names the points at which a process hangs.
pub(crate) const POINTS: &str = "FAILPOINTS";

/// Makes a process hang at a point from its next start on, or nowhere.
fn arm(server: &mut Server, point: Option<&str>) {
    let environment = &mut server.spec_mut().environment;
    environment.retain(|(name, _)| name != POINTS);
    environment.extend(point.map(|point| (POINTS.to_owned(), format!("snapshot::{point}=pause"))));
}

/// The bytes that a server has written so far.
fn log_length(server: &Server) -> u64 {
    std::fs::metadata(&server.spec().log_file).map_or(0, |metadata| metadata.len())
}

/// True if a server has said after this byte of its log that it is at a point.
fn is_at(server: &Server, point: &str, since: u64) -> bool {
    let mut text = String::new();
    let mut file = File::open(&server.spec().log_file).unwrap();
    file.seek(SeekFrom::Start(since)).unwrap();
    file.read_to_string(&mut text).unwrap();
    text.contains(&format!("\"fail_point\":\"snapshot::{point}\""))
}

/// A cluster whose last node is down and needs a snapshot of the data shard.
struct Lagging {
    cluster: Cluster,
    vaults: Vec<VaultRef>,
    acknowledged: Acknowledged,
}

impl Lagging {
    async fn start() -> Lagging {
        let mut settings = SHORT_LOG;
        assert_eq!(settings[2].0, "LEDGER_TICK_MS");
        // A sender offers its snapshot again after 200 ticks without a sign of the receiver.
        settings[2].1 = "10";
        let mut cluster = Cluster::start_with(3, &settings).await;
        let vaults = cluster.vaults("crashes", 2).await;
        cluster.node(0).put_in_time(vaults[0], "first", b"1").await;
        cluster.servers[AWAY].kill();
        let mut lagging = Lagging { cluster, vaults, acknowledged: BTreeMap::new() };
        lagging.fall_behind().await;
        lagging
    }

    /// Writes, while the last node is down, until the log of the others has let go of what it lacks.
    async fn fall_behind(&mut self) {
        let cluster = &self.cluster;
        let mut ends = log_ends(&cluster.node(0)).await;
        for (group, end) in log_ends(&cluster.node(1)).await {
            let end = end.max(ends[&group]);
            ends.insert(group, end);
        }
        let client = cluster.client().await;
        let mut load = Load::start(&client, &self.vaults, 2);
        while !is_outrun(cluster, SHARD, &ends).await {
            load.wait_more(5).await;
        }
        for (vault, written) in load.finish().await {
            self.acknowledged.entry(vault).or_default().extend(written);
        }
    }

    /// Waits until one of these servers hangs at its point, and tells which one. After a restart groups sleep
    /// until somebody needs them, so somebody does.
    async fn wait_hanging(&self, hanging: &[(usize, &str, u64)]) -> usize {
        let begun = Instant::now();
        loop {
            for &(number, point, since) in hanging {
                let server = &self.cluster.servers[number];
                if is_at(server, point, since) {
                    return number;
                }
            }
            if begun.elapsed() > WAIT_MAX {
                for (number, ..) in hanging {
                    eprintln!("--- {number}: {}", self.cluster.servers[*number].log_tail());
                }
                panic!("nobody came to its point: {hanging:?}");
            }
            for node in self.cluster.running() {
                // Refused while there is no leader; what it answers is not the point.
                let read = node.read(self.vaults[0], "first");
                let _ = tokio::time::timeout(10 * POLL_INTERVAL, read).await;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts the receiver once for each point, and kills it there.
    async fn kill_receiver_at(&mut self, points: &[&str]) {
        for point in points {
            let server = &mut self.cluster.servers[AWAY];
            arm(server, Some(point));
            let since = log_length(server);
            server.resume().unwrap();
            assert_eq!(self.wait_hanging(&[(AWAY, point, since)]).await, AWAY);
            self.cluster.servers[AWAY].kill();
        }
        arm(&mut self.cluster.servers[AWAY], None);
    }

    /// All nodes run, nothing hangs: all are alike, with everything that was acknowledged.
    async fn assert_well(&self) {
        assert_alike(&self.cluster, &self.vaults).await;
        assert_held(&self.cluster.replicas(), &self.acknowledged).await;
        for (number, node) in self.cluster.nodes().iter().enumerate() {
            node.put_in_time(self.vaults[1], &format!("through-{number}"), b"1").await;
        }
        assert_alike(&self.cluster, &self.vaults).await;
        self.cluster.assert_ready().await;
        wait_no_files(&self.cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_may_be_killed_at_every_step() {
    let mut lagging = Lagging::start().await;
    // From the marker on the start itself goes on with the installation, before the node serves.
    let steps = [
        "fetch_begin",
        "fetch_chunk",
        "fetch_done",
        "verify_done",
        "install_marker",
        "install_rows",
        "install_flushed",
        "install_done",
    ];
    lagging.kill_receiver_at(&steps).await;
    lagging.cluster.resume(AWAY).await;
    lagging.assert_well().await;

    // The last steps once more, by a node that runs.
    for step in ["install_rows", "install_flushed", "install_done"] {
        lagging.cluster.servers[AWAY].kill();
        lagging.fall_behind().await;
        lagging.kill_receiver_at(&[step]).await;
        lagging.cluster.resume(AWAY).await;
        lagging.assert_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_may_be_killed_at_every_step() {
    let mut lagging = Lagging::start().await;
    let mut points = vec!["serve_chunk", "cut_done", "cut_file", "cut_begin"];
    let mut hanging: Vec<(usize, &str, u64)> = Vec::new();
    // Whichever of the two leads comes to the point that it was started with.
    for number in 0..AWAY {
        lagging.cluster.servers[number].kill();
        let point = points.pop().unwrap();
        start_with_point(&mut lagging.cluster.servers[number], point, &mut hanging, number);
    }
    lagging.cluster.servers[AWAY].resume().unwrap();
    while !hanging.is_empty() {
        let number = lagging.wait_hanging(&hanging).await;
        hanging.retain(|(other, ..)| *other != number);
        let server = &mut lagging.cluster.servers[number];
        server.kill();
        match points.pop() {
            Some(point) => start_with_point(server, point, &mut hanging, number),
            None => {
                // The one that stays without a point must not be the one that sends.
                arm(server, None);
                if hanging.is_empty() {
                    server.resume().unwrap();
                }
            }
        }
    }
    for number in 0..3 {
        if lagging.cluster.servers[number].process_id().is_none() {
            lagging.cluster.servers[number].resume().unwrap();
        }
        lagging.cluster.servers[number].wait_ready(WAIT_MAX).await.unwrap();
    }
    lagging.assert_well().await;
}

fn start_with_point<'a>(
    server: &mut Server,
    point: &'a str,
    hanging: &mut Vec<(usize, &'a str, u64)>,
    number: usize,
) {
    arm(server, Some(point));
    hanging.push((number, point, log_length(server)));
    server.resume().unwrap();
}
