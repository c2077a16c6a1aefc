//! Watches of changes of vaults to which nobody writes: the CPU of the servers with and without them.

use std::time::{Duration, Instant};

use ledger_client::{ChangeNotice, ChangeOptions, Client};

use crate::Failure;

/// Vaults that share the watches.
const VAULTS: usize = 16;
/// How long CPU is counted.
const TIME: Duration = Duration::from_secs(30);
/// Until what was just begun has settled.
const CALM: Duration = Duration::from_secs(5);

pub(crate) async fn measure(
    client: &Client,
    count: usize,
    processes: &[u32],
) -> Result<(), Failure> {
    let namespace = client.ensure_namespace("watchers").await?;
    let mut vaults = Vec::new();
    for _ in 0..VAULTS {
        vaults.push(client.create_vault(namespace).await?.0);
    }
    tokio::time::sleep(CALM).await;
    let before = share(processes).await?;
    let mut watches = tokio::task::JoinSet::new();
    let (told, mut began) = tokio::sync::mpsc::channel(count.max(1));
    for number in 0..count {
        let mut watch = client.watch_changes(vaults[number % VAULTS], ChangeOptions::default());
        let mut told = Some(told.clone());
        watches.spawn(async move {
            loop {
                match watch.next().await {
                    Ok(ChangeNotice::Heartbeat { .. }) => {
                        // The first one says that the watch has begun.
                        if let Some(told) = told.take() {
                            told.try_send(()).expect("the measurement listens");
                        }
                    }
                    Ok(ChangeNotice::Block { .. }) => {}
                    Err(error) => return error,
                }
            }
        });
    }
    for _ in 0..count {
        tokio::select! {
            heartbeat = began.recv() => heartbeat.ok_or("no watch is left")?,
            Some(ended) = watches.join_next() => return Err(ended?.into()),
        }
    }
    tokio::time::sleep(CALM).await;
    let with = share(processes).await?;
    if watches.len() != count {
        return Err(format!("only {} of {count} watches are left", watches.len()).into());
    }
    println!("servers without watches: {:.2} % of a core", before * 100.0);
    println!("servers with {count} idle watches: {:.2} % of a core", with * 100.0);
    println!("the watches: {:.2} % of a core", (with - before) * 100.0);
    Ok(())
}

/// The part of one processor that these processes take together.
async fn share(processes: &[u32]) -> Result<f64, Failure> {
    let (before, began) = (cpu(processes)?, Instant::now());
    tokio::time::sleep(TIME).await;
    Ok((cpu(processes)? - before).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// CPU time of processes, user and system, from `/proc/PID/schedstat` of their threads.
fn cpu(processes: &[u32]) -> Result<Duration, Failure> {
    let mut sum = Duration::ZERO;
    for process in processes {
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let ran = text.split(' ').next().ok_or("an empty schedstat")?;
            sum += Duration::from_nanos(ran.parse()?);
        }
    }
    Ok(sum)
}
