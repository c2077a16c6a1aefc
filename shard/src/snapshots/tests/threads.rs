//! The threads: jobs go in, events come out, nothing is left when they stop.

use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};
use ledger_shard_core::effects::{Input, InstallSnapshot};

use super::super::workers::{WorkerParts, Workers};
use super::*;
use crate::Fatal;
use crate::ingress::Event;

const PATIENCE: Duration = Duration::from_secs(60);

fn start(node: &Node, snapshots: Arc<SnapshotStore>) -> (Workers, Receiver<Event>) {
    let (events, receiver) = bounded(16);
    let parts = WorkerParts {
        store: node.store.clone(),
        snapshots,
        applier: node.applier.clone(),
        events,
        metrics: node.metrics.clone(),
        fatal: Fatal::new(|reason| panic!("fatal: {reason}")),
    };
    (Workers::start(parts).unwrap(), receiver)
}

fn control(events: &Receiver<Event>) -> Input {
    match events.recv_timeout(PATIENCE) {
        Ok(Event::Control(input)) => input,
        _ => panic!("no answer in time"),
    }
}

#[test]
fn cuts_and_installs_are_done_and_told() {
    let source = source();
    let outgoing = Arc::new(source.snapshots());
    let (cutters, cut_events) = start(&source, outgoing.clone());
    cutters.cut(wanted());
    let Input::SnapshotCut { group: GROUP, to, manifest: Some(manifest) } = control(&cut_events)
    else {
        panic!("not cut")
    };
    assert_eq!(to, RECEIVER.incarnation);
    let stranger = Replica { incarnation: Incarnation(99), node: NodeId(9) };
    cutters.cut(CutSnapshot { to: stranger, ..wanted() });
    let failed = control(&cut_events);
    assert!(matches!(failed, Input::SnapshotCut { manifest: None, .. }), "{failed:?}");
    let node = Node::added();
    let snapshots = Arc::new(node.snapshots());
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert!(transfer(&outgoing, &mut staging, usize::MAX));
    staging.finish().unwrap();
    let (installers, events) = start(&node, snapshots.clone());
    let (incarnation, hard_state) = (RECEIVER.incarnation, hard_state(&manifest));
    let wanted = InstallSnapshot { manifest: manifest.clone(), ready: 12, incarnation, hard_state };
    installers.installs().push(wanted);
    let done = control(&events);
    assert!(matches!(done, Input::Persisted { group: GROUP, ready: 12 }), "{done:?}");
    assert_group(&node.store, &manifest);
    let (cut, installed) = (source.metrics.snapshot(), node.metrics.snapshot());
    assert_eq!((cut.snapshots_cut, cut.snapshots_cut_failed), (1, 1));
    assert_eq!(installed.snapshots_installed, 1);
    assert!(installed.snapshot_install_ns > 0);
    cutters.release(manifest.id);
    assert_eq!(outgoing.outgoing(manifest.id), None);
    drop((cutters, installers));
    assert!(cut_events.recv_timeout(PATIENCE).is_err(), "nobody is left who could tell");
}

#[test]
fn an_unverified_snapshot_is_never_installed() {
    let source = source();
    let outgoing = source.snapshots();
    let manifest = cut_small(&source, &outgoing);
    let node = Node::added();
    let snapshots = Arc::new(node.snapshots());
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert!(transfer(&outgoing, &mut staging, usize::MAX));
    let (ended, end) = bounded(16);
    let (events, _kept) = bounded(16);
    let parts = WorkerParts {
        store: node.store.clone(),
        snapshots,
        applier: node.applier.clone(),
        events,
        metrics: node.metrics.clone(),
        fatal: Fatal::new(move |reason| {
            ended.send(reason.to_owned()).unwrap();
            panic!("the end");
        }),
    };
    let workers = Workers::start(parts).unwrap();
    let (incarnation, hard_state) = (RECEIVER.incarnation, hard_state(&manifest));
    let manifest = Box::new(manifest);
    let wanted = InstallSnapshot { manifest, ready: 1, incarnation, hard_state };
    workers.installs().push(wanted);
    let reason = end.recv_timeout(PATIENCE).unwrap();
    assert!(reason.contains("was not verified"), "{reason}");
    assert_eq!(rows_of(&node.store, Family::Latest), []);
    drop(workers);
}
