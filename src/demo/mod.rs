//! `ledger demo`: three real servers on this machine, real relationships in, proved answers out, a killed
//! leader, and a comparison of all replicas at the end.
//!
//! Owns the story and its verdict. Must never use anything that a user's program could not: it starts the
//! same binary, talks through the SDK, and signals only processes it started.

mod failover;
mod harvest;
mod load;
pub mod process;
mod proofs;
pub mod replicas;
mod report;
pub mod vaults;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, value_parser};
use ledger_client::{Client, ClientConfig, ClientError, TrustSource};
use ledger_types::VaultRef;
use thiserror::Error;

use self::failover::{PULSE_PREFIX, Pulse, PulseError, pulse_key};
use self::harvest::{GRANTS_PER_FILE, Harvest};
use self::load::{FILES_PER_WRITE, LoadError, LoadReport, WRITES_IN_FLIGHT};
use self::process::{ProcessError, READY_TIME_MAX, Server};
use self::proofs::{ProofsError, ProofsReport};
use self::replicas::{Replica, ReplicaError};
use self::report::{Narrator, count, mebibytes, milliseconds, rate, seconds};
use self::vaults::make_vault;

const NODES: usize = 3;
const NAMESPACES: [&str; 2] = ["files", "more-files"];
const VAULTS_PER_NAMESPACE: usize = 8;
const FILES_DEFAULT: &str = "50000";
const CLUSTER_DOMAIN: &str = "demo.ledger";
/// Writes that each vault acknowledges before the kill, and again after it.
const PULSES_BEFORE_KILL: u64 = 50;
const PULSES_AFTER_KILL: u64 = 200;
/// Longest time until all replicas are level after the writers stopped.
const LEVEL_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time for one call of the demonstration's client, retries included.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest wait of the client between two attempts, so that it sees the end of a pause soon.
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// What the proofs above rest on.
const WHAT_IS_TRUSTED: &str = "
What a client trusts here is no single node: a checkpoint counts with the cosignatures of more than half
of the voters, each of which computed the same state from its own log. One lying node cannot make up a
state; docs/proofs.md says what it takes to do more.";

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The directory whose files are loaded.
    pub path: PathBuf,
    /// Most files to load.
    pub files: usize,
    /// Where the cluster keeps its data; a temporary directory without one.
    pub data: Option<PathBuf>,
    /// Leave the cluster running.
    pub keep: bool,
}

impl Options {
    /// The subcommand.
    pub fn command() -> Command {
        let path = Arg::new("path")
            .long("path")
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .default_value("/usr")
            .help("Directory whose files' owners, groups and parents are loaded");
        let files = Arg::new("files")
            .long("files")
            .value_name("N")
            .value_parser(value_parser!(u32).range(1..=1_000_000))
            .default_value(FILES_DEFAULT)
            .help("Most files to load");
        let data = Arg::new("data")
            .long("data")
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .help("Empty directory for the cluster's data, kept afterwards [default: a temporary one]");
        let keep = Arg::new("keep")
            .long("keep")
            .num_args(0)
            .help("Leave the cluster running and tell how to talk to it");
        Command::new("demo")
            .about("Starts three nodes here, loads real data, proves it, kills a leader, compares replicas")
            .args([path, files, data, keep])
    }

    /// Reads the arguments of [`Options::command`].
    pub fn from_matches(matches: &ArgMatches) -> Options {
        let path = matches.get_one::<PathBuf>("path").expect("it has a default").clone();
        let files = *matches.get_one::<u32>("files").expect("it has a default");
        Options {
            path,
            files: usize::try_from(files).expect("a number of files fits"),
            data: matches.get_one::<PathBuf>("data").cloned(),
            keep: matches.get_flag("keep"),
        }
    }
}

/// Why the demonstration failed: something did not hold, or could not be tried.
#[derive(Debug, Error)]
enum DemoError {
    #[error("{0}")]
    Refused(String),
    #[error("cannot {doing}: {source}")]
    System { doing: String, source: std::io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{doing}: {source}")]
    Call { doing: &'static str, source: ClientError },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Proofs(#[from] ProofsError),
    #[error(transparent)]
    Pulse(#[from] PulseError),
    #[error(transparent)]
    Replicas(#[from] ReplicaError),
}

impl DemoError {
    fn system(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> DemoError {
        let doing = doing.into();
        move |source| DemoError::System { doing, source }
    }

    fn call(doing: &'static str) -> impl FnOnce(ClientError) -> DemoError {
        move |source| DemoError::Call { doing, source }
    }
}

/// Runs the demonstration. The exit code is 0 only if everything held.
pub fn run(options: &Options) -> ExitCode {
    let mut narrator = Narrator::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(interruptible(options, &mut narrator)),
        Err(source) => Err(DemoError::system("start the runtime")(source)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            narrator.failed(error);
            ExitCode::FAILURE
        }
    }
}

/// Tells the story until it ends or the user interrupts; either way no process stays behind unasked.
async fn interruptible(options: &Options, narrator: &mut Narrator) -> Result<(), DemoError> {
    tokio::select! {
        outcome = story(options, narrator) => outcome,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Refused("interrupted".to_owned())),
    }
}

async fn story(options: &Options, narrator: &mut Narrator) -> Result<(), DemoError> {
    let begun = Instant::now();
    let doing = format!("read {}", options.path.display());
    std::fs::read_dir(&options.path).map_err(DemoError::system(doing))?;
    let place = Place::prepare(options)?;
    let mut cluster = Cluster::start(place.path(), narrator).await?;
    cluster.make_vaults(narrator).await?;

    let harvest = gather(options, narrator).await?;
    narrator.step("Load them");
    let loaded = load::load(&cluster.client, &cluster.vaults, &harvest.files).await?;
    tell_load(&loaded, narrator);

    let proved = proofs::run(&cluster.client, &cluster.vaults, &harvest.files, narrator).await?;
    let survived = cluster.fail_over(narrator).await?;

    narrator.step("In short");
    let rows = summary(&cluster, &loaded, &proved, &survived);
    narrator.table(&rows);
    narrator.line(format_args!("\nEverything held, in {}.", seconds(begun.elapsed())));
    narrator.line(WHAT_IS_TRUSTED);
    if options.keep {
        cluster.leave_running(&place, narrator);
    }
    place.finish(options.keep);
    Ok(())
}

/// Where the demonstration keeps its files.
enum Place {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Place {
    fn prepare(options: &Options) -> Result<Place, DemoError> {
        let Some(path) = &options.data else {
            let made = tempfile::Builder::new().prefix("ledger-demo-").tempdir();
            return Ok(Place::Temporary(made.map_err(DemoError::system("make a directory"))?));
        };
        let doing = || format!("use {}", path.display());
        std::fs::create_dir_all(path).map_err(DemoError::system(doing()))?;
        let mut entries = std::fs::read_dir(path).map_err(DemoError::system(doing()))?;
        if entries.next().is_some() {
            let path = path.display();
            return Err(DemoError::Refused(format!(
                "{path} is not empty; the demo founds a cluster"
            )));
        }
        let absolute = std::path::absolute(path).map_err(DemoError::system(doing()))?;
        Ok(Place::Given(absolute))
    }

    fn path(&self) -> &Path {
        match self {
            Place::Temporary(folder) => folder.path(),
            Place::Given(path) => path,
        }
    }

    fn finish(self, keep: bool) {
        if let (true, Place::Temporary(folder)) = (keep, self) {
            let _ = folder.keep();
        }
    }
}

/// The servers and a client of theirs.
struct Cluster {
    servers: Vec<Server>,
    replicas: Vec<Replica>,
    client: Client,
    vaults: Vec<VaultRef>,
    /// Where the client remembers checkpoints and whom it trusts.
    state_dir: PathBuf,
}

/// What the kill showed.
struct Survived {
    /// The longest time that a vault went without an acknowledged write.
    pause: Duration,
    caught_up: Duration,
    pulses: u64,
}

impl Cluster {
    async fn start(root: &Path, narrator: &mut Narrator) -> Result<Cluster, DemoError> {
        narrator.step("Start three nodes");
        let binary = std::env::current_exe().map_err(DemoError::system("find our own program"))?;
        let mut specs = process::plan(&binary, root, NODES)?;
        for spec in &mut specs {
            let domain = ("LEDGER_CLUSTER_DOMAIN".to_owned(), CLUSTER_DOMAIN.to_owned());
            spec.environment.push(domain);
        }
        let begun = Instant::now();
        let servers = process::start_all(specs).await?;
        let addresses: Vec<String> = servers.iter().map(Server::address).collect();
        let replicas: Result<Vec<Replica>, ReplicaError> =
            addresses.iter().map(|address| Replica::at(address)).collect();
        let state_dir = root.join("client");
        let mut config = ClientConfig::new(addresses);
        config.trust = TrustSource::FirstUse;
        config.state_dir = Some(state_dir.clone());
        config.deadline = CALL_TIME_MAX;
        config.connections_per_node = 2;
        config.retry.backoff_max = BACKOFF_MAX;
        let client = Client::connect(config).await.map_err(DemoError::call("connecting"))?;
        for server in &servers {
            let process = server.process_id().expect("it has just become ready");
            let name = &server.spec().name;
            narrator.fact(format_args!("node {name}: process {process}, {}", server.address()));
        }
        narrator.held(format_args!(
            "one cluster, founded and ready after {}; data in {}",
            milliseconds(begun.elapsed()),
            root.display()
        ));
        Ok(Cluster { servers, replicas: replicas?, client, vaults: Vec::new(), state_dir })
    }

    async fn make_vaults(&mut self, narrator: &mut Narrator) -> Result<(), DemoError> {
        narrator.step("Make two namespaces with eight vaults each");
        let mut shards = std::collections::BTreeSet::new();
        for name in NAMESPACES {
            let made = self.client.ensure_namespace(name).await;
            let namespace = made.map_err(DemoError::call("making a namespace"))?;
            for _ in 0..VAULTS_PER_NAMESPACE {
                let made = make_vault(&self.client, namespace).await;
                let (vault, genesis) = made.map_err(DemoError::call("making a vault"))?;
                shards.insert(genesis.shard);
                self.vaults.push(vault);
            }
        }
        let (vaults, shards) = (self.vaults.len(), shards.len());
        narrator.held(format_args!("{vaults} vaults on {shards} Raft groups"));
        Ok(())
    }

    /// Kills the busiest leader under writes, brings it back and compares all replicas.
    async fn fail_over(&mut self, narrator: &mut Narrator) -> Result<Survived, DemoError> {
        narrator.step("Kill the node that leads most shards while every vault is written to");
        let victim = self.busiest_leader(narrator).await?;
        let led = self.vaults_led_by(victim).await?;
        let mut pulse = Pulse::start(&self.client, &self.vaults);
        pulse.wait_progress(PULSES_BEFORE_KILL).await?;
        let process = self.servers[victim].process_id().expect("it runs");
        self.servers[victim].kill();
        narrator.fact(format_args!("SIGKILL to node {victim}, process {process}"));
        pulse.wait_progress(PULSES_AFTER_KILL).await?;
        narrator.held("every vault takes writes again, with two nodes of three");

        let begun = Instant::now();
        let other = (victim + 1) % NODES;
        let mut targets = Vec::new();
        for &vault in &self.vaults {
            targets.push((vault, self.replicas[other].tip(vault).await?.height));
        }
        self.servers[victim].resume()?;
        self.servers[victim].wait_ready(READY_TIME_MAX).await?;
        self.wait_heights(victim, &targets).await?;
        let caught_up = begun.elapsed();
        narrator.held(format_args!(
            "node {victim} is back and holds all it had missed, {} after its start, under writes",
            milliseconds(caught_up)
        ));

        let seen = pulse.finish().await?;
        let longest = |of_victim: bool| {
            let gaps = seen.iter().filter(|(vault, _)| led.contains(vault) == of_victim);
            gaps.map(|(_, pulse)| pulse.longest_gap).max().unwrap_or_default()
        };
        narrator.fact(format_args!(
            "longest pause between two acknowledged writes: {} in the {} vaults it led, {} in the others",
            milliseconds(longest(true)),
            led.len(),
            milliseconds(longest(false))
        ));
        self.compare(&seen, narrator).await?;
        let pulses = seen.values().map(|pulse| pulse.acknowledged).sum();
        Ok(Survived { pause: longest(true).max(longest(false)), caught_up, pulses })
    }

    /// The node that leads most groups, by its own word.
    async fn busiest_leader(&self, narrator: &mut Narrator) -> Result<usize, DemoError> {
        let mut most = (0, 0);
        for (number, server) in self.servers.iter().enumerate() {
            let status = self.client.status_of(&server.address()).await;
            let status = status.map_err(DemoError::call("asking for status"))?;
            let leads = status.node.map_or(0, |node| node.leaders_count);
            narrator.fact(format_args!("node {number} leads {leads} groups"));
            most = most.max((leads, number));
        }
        if most.0 == 0 {
            return Err(DemoError::Refused("no node leads anything".to_owned()));
        }
        Ok(most.1)
    }

    async fn vaults_led_by(&self, node: usize) -> Result<Vec<VaultRef>, DemoError> {
        let name = &self.servers[node].spec().name;
        let mut led = Vec::new();
        for &vault in &self.vaults {
            let found = self.client.vault(vault).await;
            if found.map_err(DemoError::call("asking for a vault"))?.leader == *name {
                led.push(vault);
            }
        }
        Ok(led)
    }

    async fn wait_heights(
        &self,
        node: usize,
        targets: &[(VaultRef, u64)],
    ) -> Result<(), DemoError> {
        let begun = Instant::now();
        for &(vault, target) in targets {
            loop {
                let height = self.replicas[node].tip(vault).await.map(|tip| tip.height);
                if height.as_ref().is_ok_and(|height| *height >= target) {
                    break;
                }
                if begun.elapsed() >= LEVEL_TIME_MAX {
                    let waited = begun.elapsed();
                    let difference = format!("vault {vault} is at {height:?}, not {target}");
                    return Err(ReplicaError::NotLevel { waited, difference }.into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Every replica equal, and every acknowledged write on each of them.
    async fn compare(
        &self,
        seen: &std::collections::BTreeMap<VaultRef, failover::VaultPulse>,
        narrator: &mut Narrator,
    ) -> Result<(), DemoError> {
        narrator.step("Compare all replicas");
        let level = replicas::wait_level(&self.replicas, &self.vaults, LEVEL_TIME_MAX).await?;
        for (vault, tip) in &level {
            let (hash, root) = (tip.block_hash.to_string(), tip.state_root.to_string());
            narrator.fact(format_args!(
                "vault {vault}: height {:>6}, block {}…, state {}…, alike on {NODES} nodes",
                tip.height,
                &hash[..16],
                &root[..16]
            ));
        }
        for (&vault, pulse) in seen {
            for replica in &self.replicas {
                let held = replica.entities(vault, PULSE_PREFIX).await?;
                let expected = (0..pulse.acknowledged).map(pulse_key);
                if !held.iter().map(|entity| entity.key.clone()).eq(expected) {
                    let (found, all) = (held.len(), pulse.acknowledged);
                    let lost = format!("{replica} holds {found} of {all} writes to vault {vault}");
                    return Err(DemoError::Refused(lost));
                }
            }
        }
        let total = seen.values().map(|pulse| pulse.acknowledged).sum();
        narrator.held(format_args!(
            "block hash and state root of all {} vaults are the same on all nodes",
            level.len()
        ));
        narrator.held(format_args!(
            "all {} writes acknowledged around the kill are on every node",
            count(total)
        ));
        Ok(())
    }

    fn leave_running(&mut self, place: &Place, narrator: &mut Narrator) {
        let addresses: Vec<String> = self.servers.iter().map(Server::address).collect();
        let processes: Vec<String> = self
            .servers
            .iter()
            .filter_map(Server::process_id)
            .map(|process| process.to_string())
            .collect();
        let http = self.servers[0].spec().http_addr;
        let vault = self.vaults[0];
        let program = std::env::current_exe().ok();
        let cli = program.map_or_else(
            || "ledger-cli".to_owned(),
            |path| path.with_file_name("ledger-cli").display().to_string(),
        );
        let (namespace, number) = (vault.namespace, vault.vault);
        let state = self.state_dir.display();
        narrator.line("\nThe cluster keeps running. Talk to it:");
        narrator.line(format_args!("  export LEDGER_ENDPOINTS={}", addresses.join(",")));
        narrator.line(format_args!("  export LEDGER_STATE_DIR={state}"));
        narrator.line(format_args!("  {cli} status --groups"));
        narrator
            .line(format_args!("  {cli} list resources -n {namespace} -v {number} file --limit 5"));
        narrator.line(format_args!("  {cli} put -n {namespace} -v {number} doc:1#viewer@user:you"));
        narrator.line(format_args!(
            "  {cli} --trust-on-first-use get -n {namespace} -v {number} doc:1#viewer@user:you"
        ));
        narrator.line(format_args!("  curl http://{http}/metrics"));
        narrator.line(format_args!("Stop it with: kill {}", processes.join(" ")));
        narrator.line(format_args!("Its data and logs are in {}", place.path().display()));
        for server in self.servers.drain(..) {
            server.release();
        }
    }
}

async fn gather(options: &Options, narrator: &mut Narrator) -> Result<Harvest, DemoError> {
    narrator.step(format_args!("Look at the files under {}", options.path.display()));
    let (path, files) = (options.path.clone(), options.files);
    let walking = tokio::task::spawn_blocking(move || harvest::walk(&path, files));
    let walked = walking.await.expect("walking does not panic");
    let doing = format!("read {}", options.path.display());
    let harvest = walked.map_err(DemoError::system(doing))?;
    if harvest.files.is_empty() {
        let path = options.path.display();
        return Err(DemoError::Refused(format!("there is no file under {path} to load")));
    }
    narrator.fact(format_args!(
        "{} files: owner, group and parent directory of each",
        count(harvest.files.len() as u64)
    ));
    if harvest.skipped() > 0 {
        narrator.fact(format_args!(
            "skipped: {} with a name that is not UTF-8, {} with a path too long for a key, {} unreadable",
            harvest.not_text, harvest.too_long, harvest.unreadable
        ));
    }
    Ok(harvest)
}

fn tell_load(loaded: &LoadReport, narrator: &mut Narrator) {
    narrator.held(format_args!(
        "{} relationships acknowledged in {}: {} each second",
        count(loaded.relationships),
        seconds(loaded.elapsed),
        rate(loaded.operations_per_second())
    ));
    let counts = loaded.by_vault.values();
    let (least, most) = (counts.clone().min(), counts.max());
    if let (Some(least), Some(most)) = (least, most) {
        narrator.fact(format_args!("{} to {} in each vault", count(*least), count(*most)));
    }
}

fn summary(
    cluster: &Cluster,
    loaded: &LoadReport,
    proved: &ProofsReport,
    survived: &Survived,
) -> Vec<(String, String)> {
    let row = |name: &str, value: String| (name.to_owned(), value);
    let write = format!("writes of {} relationships", FILES_PER_WRITE * GRANTS_PER_FILE);
    let latency = format!("latency of a write, {WRITES_IN_FLIGHT} under way");
    let mut rows = vec![
        row("relationships loaded", count(loaded.relationships)),
        row(&format!("{write}, each second"), rate(loaded.writes_per_second())),
        row("relationships (operations) each second", rate(loaded.operations_per_second())),
        row(&format!("{latency}, p50"), milliseconds(loaded.latency(0.50))),
        row(&format!("{latency}, p99"), milliseconds(loaded.latency(0.99))),
        row("proof of a present relationship", format!("{} bytes", proved.present_bytes)),
        row("proof of an absent relationship", format!("{} bytes", proved.absent_bytes)),
        row("checking a proof", milliseconds(proved.verify_time)),
        row("longest pause of writes after the kill", milliseconds(survived.pause)),
        row("killed node caught up after", milliseconds(survived.caught_up)),
        row("writes acknowledged around the kill", count(survived.pulses)),
    ];
    for server in &cluster.servers {
        let memory = server.resident_bytes().map_or_else(|| "-".to_owned(), mebibytes);
        rows.push((format!("resident memory of node {}", server.spec().name), memory));
    }
    rows
}
