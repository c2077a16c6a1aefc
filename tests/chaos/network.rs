//! The network of a cluster under test: proxies on loopback, or network namespaces in which the kernel drops packets.
//!
//! Owns where nodes are reached and what becomes of the bytes from one node to another. Clients reach every node
//! directly, whatever is cut between nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use ledger::demo::process::ServerSpec;
use ledger::test_hooks::DIAL_VARIABLE;
use tokio::sync::watch;

use super::link::{Flow, Flows, Link};

/// A way to put harm between nodes.
pub(crate) enum Network {
    /// A proxy for each node that dials another one.
    Proxies {
        /// What becomes of the bytes, by who sends them and to whom.
        flows: BTreeMap<(usize, usize), watch::Sender<Flow>>,
        /// The proxies themselves, which live as long as this does.
        _links: Vec<Link>,
    },
    /// A namespace for each node; this process stands between them and passes packets on, or drops them.
    Namespaces {
        /// Who is not heard by whom.
        cut: BTreeSet<(usize, usize)>,
    },
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    let pairs = (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to)
}

impl Network {
    /// Puts proxies between nodes on loopback, and tells each node whom to dial.
    pub(crate) async fn proxies(specs: &mut [ServerSpec]) -> Network {
        let all = || pairs(specs.len());
        let flows: BTreeMap<_, _> =
            all().map(|pair| (pair, watch::channel(Flow::default()).0)).collect();
        let mut links = Vec::new();
        let mut dialled = vec![Vec::new(); specs.len()];
        for (from, to) in all() {
            let there = flows[&(from, to)].subscribe();
            let back = flows[&(to, from)].subscribe();
            let target = specs[to].grpc_addr;
            let link = Link::open(target, Flows { there, back }).await.unwrap();
            dialled[from].push(format!("{target}={}", link.address()));
            links.push(link);
        }
        for (spec, dialled) in specs.iter_mut().zip(dialled) {
            spec.environment.push((DIAL_VARIABLE.to_owned(), dialled.join(",")));
        }
        Network::Proxies { flows, _links: links }
    }

    /// Makes a namespace for each node and moves the nodes there. This process must have a network and mounts of its
    /// own, which take all of it along when they end.
    pub(crate) fn namespaces(specs: &mut [ServerSpec], folder: &Path) -> Network {
        run("mount -t tmpfs tmpfs /run");
        std::fs::create_dir("/run/netns").unwrap();
        run("ip link set lo up");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        for (number, spec) in specs.iter_mut().enumerate() {
            let (router, node) = (address(number, 1), address(number, 2));
            run(&format!("ip netns add n{number}"));
            run(&format!("ip link add v{number} type veth peer name e0 netns n{number}"));
            run(&format!("ip addr add {router}/24 dev v{number}"));
            run(&format!("ip link set v{number} up"));
            run(&format!("ip -n n{number} addr add {node}/24 dev e0"));
            run(&format!("ip -n n{number} link set e0 up"));
            run(&format!("ip -n n{number} link set lo up"));
            run(&format!("ip -n n{number} route add default via {router}"));
            spec.grpc_addr = SocketAddr::new(node, spec.grpc_addr.port());
            spec.http_addr = SocketAddr::new(node, spec.http_addr.port());
            // Replaces itself by the server, so that signals reach the server.
            let script = folder.join(format!("enter-{number}"));
            let server = spec.binary.display();
            let text = format!("#!/bin/sh\nexec ip netns exec n{number} {server} \"$@\"\n");
            std::fs::write(&script, text).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            spec.binary = script;
        }
        let peers: Vec<String> = specs.iter().map(|spec| spec.grpc_addr.to_string()).collect();
        specs.iter_mut().for_each(|spec| spec.peers.clone_from(&peers));
        Network::Namespaces { cut: BTreeSet::new() }
    }

    /// What becomes of the bytes from one node to another from now on.
    pub(crate) fn set(&mut self, (from, to): (usize, usize), flow: Flow) {
        match self {
            Network::Proxies { flows, .. } => {
                flows[&(from, to)].send_replace(flow);
            }
            Network::Namespaces { cut } => {
                let change = match flow {
                    Flow::Pass => cut.remove(&(from, to)).then_some("del"),
                    Flow::Stall => cut.insert((from, to)).then_some("add"),
                    other => unreachable!("packets pass or are dropped, not {other:?}"),
                };
                if let Some(change) = change {
                    let to = address(to, 2);
                    run(&format!("ip rule {change} iif v{from} to {to} blackhole"));
                }
            }
        }
    }
}

/// An address in the network between a node (2) and this process (1).
fn address(node: usize, end: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, u8::try_from(node).unwrap(), end).into()
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {} {told}", output.status);
}
