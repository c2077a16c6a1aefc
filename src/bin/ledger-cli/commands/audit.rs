//! `audit`: a vault replayed from its first block, once or for as long as it grows.
//!
//! Owns when the steps of an audit are taken and with which exit code it ends. Must never take an answer that
//! did not come for a contradiction.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ledger_client::audit::{Audit, Progress, Verdict};
use ledger_client::{BlockWatch, Client};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::args::{AuditOptions, Global};
use crate::commands::audit_report::{Times, finding_json, obstacle_json, report_json, show};
use crate::failure::Failure;
use crate::session;

/// Time between lines that tell how far a replay is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Shortest pause after a watch that could not be opened.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause after a watch that could not be opened.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Audits.
pub(crate) async fn run(options: &AuditOptions, global: &Global) -> Result<(), Failure> {
    let started = unix_seconds()?;
    let mut end = End::new()?;
    // A cluster that cannot be reached is an outcome of an audit, and not the end of it.
    let client = Client::unconnected(session::config(global))?;
    let vault = session::vault(&client, &options.vault).await;
    let vault = vault.map_err(Failure::unavailable)?;
    let looked_at =
        ledger_client::audit::AuditOptions { all_blocks: !options.quick, values: options.values };
    let mut audit = Audit::new(client.clone(), vault, looked_at);
    if options.follow {
        follow(&mut audit, &client, options, &mut end).await;
    } else {
        let mut told = Instant::now();
        let progress = |progress: Progress| {
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                eprintln!("{} of {} blocks replayed", progress.blocks, progress.of);
            }
        };
        tokio::select! {
            () = audit.run(progress) => {}
            () = end.wait() => return Err(Failure::unavailable("ended by a signal")),
        }
    }
    let times = Times { started, ended: unix_seconds()? };
    let report = report_json(&mut audit, times);
    if let Some(path) = &options.report {
        std::fs::write(path, format!("{report:#}\n"))
            .map_err(|error| Failure::file(path, &error))?;
    }
    match options.follow {
        true => println!("{}", json!({ "event": "report", "report": report })),
        false => show(global.format(), &audit, &report),
    }
    ended(&audit)
}

/// The exit of the command.
fn ended(audit: &Audit) -> Result<(), Failure> {
    let first_obstacle = || audit.obstacles().first().map_or(String::new(), ToString::to_string);
    match audit.verdict() {
        Verdict::Verified => Ok(()),
        Verdict::Tampered => {
            let count = audit.findings().len();
            let first = audit.findings().first().map_or(String::new(), |one| one.kind.to_string());
            Err(Failure::refused(format!("{count} findings; the first: {first}")))
        }
        Verdict::Unavailable => Err(Failure::unavailable(first_obstacle())),
        Verdict::Incomplete => Err(Failure::incomplete(first_obstacle())),
    }
}

/// Audits, and goes on with every new block and, at an interval, with a whole comparison, until a signal. What is
/// under way when the signal comes is ended first, but for the first replay, which may be long.
async fn follow(audit: &mut Audit, client: &Client, options: &AuditOptions, end: &mut End) {
    let mut told = Told::default();
    let mut watch: Option<BlockWatch> = None;
    let mut pause = PAUSE_MIN;
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due {
            let is_first = audit.replayed().blocks == 0;
            tokio::select! {
                biased;
                () = end.wait(), if is_first => return,
                () = audit.run(|_| {}) => {}
            }
            due = Instant::now() + options.interval;
            told.compared(audit);
        }
        let blocks = audit.replayed().blocks;
        let current = watch.take().filter(|watch| watch.next_height() == blocks.max(1));
        let mut current =
            current.unwrap_or_else(|| client.watch_blocks(audit.vault(), blocks.max(1)));
        let next = async {
            // Without a chain there is nothing to follow, and the whole audit comes first.
            match blocks {
                0 => tokio::time::timeout(pause, std::future::pending()).await,
                _ => tokio::time::timeout_at(due, current.next()).await,
            }
        };
        let announced = tokio::select! {
            () = end.wait() => return,
            announced = next => announced,
        };
        match announced {
            Err(_) if blocks == 0 => {
                due = Instant::now();
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(_) => {}
            Ok(Ok(notice)) => {
                pause = PAUSE_MIN;
                audit.follow(&notice).await;
                told.block(audit, notice.height, &notice.block_hash.to_string());
            }
            Ok(Err(error)) => {
                told.line(json!({ "event": "unavailable", "message": error.to_string() }));
                tokio::select! {
                    () = end.wait() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        watch = Some(current);
    }
}

/// What has been printed already.
#[derive(Default)]
struct Told {
    findings: usize,
}

impl Told {
    fn line(&self, event: serde_json::Value) {
        println!("{event}");
    }

    fn findings(&mut self, audit: &Audit) {
        for finding in audit.findings().iter().skip(self.findings) {
            self.line(json!({ "event": "finding", "finding": finding_json(finding) }));
        }
        self.findings = audit.findings().len();
    }

    fn compared(&mut self, audit: &mut Audit) {
        self.findings(audit);
        for obstacle in audit.obstacles() {
            self.line(json!({ "event": "unavailable", "obstacle": obstacle_json(obstacle) }));
        }
        let blocks = audit.replayed().blocks;
        let verdict = audit.verdict().name();
        self.line(json!({ "event": "compared", "blocks": blocks, "verdict": verdict }));
    }

    fn block(&mut self, audit: &Audit, height: u64, hash: &str) {
        self.findings(audit);
        let verdict = audit.verdict().name();
        self.line(
            json!({ "event": "block", "height": height, "block_hash": hash, "verdict": verdict }),
        );
    }
}

/// The signals that end an audit.
struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn new() -> Result<End, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::system("cannot listen to signals", &error))
        };
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(End { interrupt: listen(interrupt)?, terminate: listen(terminate)? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn unix_seconds() -> Result<u64, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.map_err(|_| Failure::failed("the clock stands before 1970"))?.as_secs())
}
