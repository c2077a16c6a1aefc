//! The same load and the same judges with a network that the kernel cuts: each node in a namespace of its own, packets
//! dropped by direction. TCP's own repetitions and time limits take part, which no proxy has.
//!
//! Owns a second process of this test binary, which has a network and mounts of its own and takes them along when it
//! ends. Where such a process cannot be made, the test is skipped with the reason printed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::mixes::{Kind, Mix};
use super::nodes::{Nodes, take_turn};
use super::report::tell;
use super::round::server_binary;
use super::soak::{must_hold, seed};

/// Tells the second process that it is it.
const INSIDE_VARIABLE: &str = "LEDGER_CHAOS_INSIDE";
/// Faults last this long.
const TIME: Duration = Duration::from_secs(9);
/// Longest time until the second process has done all of it.
const INSIDE_MAX: Duration = Duration::from_secs(600);

/// What a network of the kernel can do, with processes that come and go.
static MIX: Mix = Mix {
    name: "kernel-partition",
    kinds: &[
        (Kind::Isolate, 3),
        (Kind::Mute, 2),
        (Kind::Deafen, 2),
        (Kind::Bridge, 2),
        (Kind::Flap, 1),
        (Kind::Kill, 1),
        (Kind::Pause, 1),
    ],
    overlaps: true,
};

/// A command in a network, with mounts and among processes of its own. Whatever it has started ends with it.
fn apart() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

/// Why there can be no such process here, if there can be none.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make namespaces".to_owned());
    }
    let line = "ip netns list && ip link add v0 type veth peer name v1 && \
                ip rule add iif v0 to 10.77.0.2 blackhole";
    match apart().args(["sh", "-c", line]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_by_the_kernel_are_survived() {
    if let Some(why) = missing() {
        return tell(format_args!("no namespaces here, so cuts by the kernel are skipped: {why}"));
    }
    let _turn = take_turn().await;
    let test = "chaos::namespaces::inside_of_namespaces";
    let mut command = apart();
    let this: &Path = &std::env::current_exe().unwrap();
    command.arg(this).args(["--ignored", "--exact", "--nocapture", test]).env(INSIDE_VARIABLE, "1");
    let mut inside = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let told = inside.stderr.take().expect("it is piped");
    let told = tokio::task::spawn_blocking(move || std::io::read_to_string(told));
    let Ok(told) = tokio::time::timeout(INSIDE_MAX, told).await else {
        inside.kill().unwrap();
        panic!("the second process does not end: {}", inside.wait().unwrap());
    };
    let (told, status) = (told.unwrap().unwrap(), inside.wait().unwrap());
    tell(format_args!("in namespaces:\n{}", told.trim_end()));
    assert!(status.success(), "{status}");
    assert!(told.contains("0 violations"), "the round was done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by cuts_by_the_kernel_are_survived in namespaces of its own"]
async fn inside_of_namespaces() {
    if std::env::var_os(INSIDE_VARIABLE).is_none() {
        return tell("not in namespaces of its own, so nothing is done");
    }
    let mut nodes = Nodes::start_in_namespaces(server_binary()).await;
    nodes.assert_cuts_cut().await;
    must_hold(&mut nodes, &MIX, seed(), TIME).await;
}
