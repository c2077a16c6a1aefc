#!/usr/bin/env bash
# Measures how a cluster takes nodes back: three servers and a load on this machine.
#
#   benches/recovery.sh away [SECONDS]     a node is stopped under load and comes back: once within the log's
#                                          cap, once past it; the others' latency meanwhile
#   benches/recovery.sh large [MEBIBYTES]  a node loses its disk; one group of that size is sent to it
#   benches/recovery.sh log [SECONDS]      the size of the logs under steady load, one line a minute, with a node
#                                          that is away a third of the time
#   benches/recovery.sh groups [COUNT]     one node with that many groups and a million keys is started again
#
# Needs a built workspace (make build). Everything lies in a temporary directory and is removed at the end.
set -euo pipefail

binaries="${CARGO_TARGET_DIR:-$HOME/.cache/inferadb-ledger/target}/release"
work="$(mktemp -d "${TMPDIR:-/tmp}/ledger-recovery-XXXXXX")"
declare -A pids=()
export LEDGER_STATE_DIR="$work/client" RUST_LOG="${RUST_LOG:-info}"
port=7300 founders=3 extra=()

cleanup() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

addresses() { local list=() n; for ((n = 1; n <= founders; n++)); do list+=("127.0.0.1:$((port + n))"); done; (IFS=,; echo "${list[*]}"); }
cli() { "$binaries/ledger-cli" --addresses "$(addresses)" --trust-on-first-use "$@"; }

start() { # node number
    env LEDGER_NODE_ID="node-$1" LEDGER_LISTEN_ADDR="127.0.0.1:$((port + $1))" \
        LEDGER_HTTP_ADDR="127.0.0.1:$((port + 50 + $1))" LEDGER_DATA_DIR="$work/node-$1" \
        LEDGER_PEERS="$(addresses)" BOOTSTRAP_EXPECT="$founders" ${extra[@]+"${extra[@]}"} \
        "$binaries/ledger" serve >>"$work/node-$1.log" 2>&1 &
    pids[$1]=$!
}
kill_node() { kill -9 "${pids[$1]}" && wait "${pids[$1]}" 2>/dev/null || true; unset "pids[$1]"; }
metric() { # node, name: the sum of its lines
    curl -sf "127.0.0.1:$((port + 50 + $1))/metrics" | awk -v n="$2" '$1 == n || index($1, n "{") == 1 { s += $2 } END { printf "%.0f", s }'
}
ready() { until curl -sf "127.0.0.1:$((port + 50 + $1))/readyz" >/dev/null; do sleep 0.02; done; }
start_all() { local n; for ((n = 1; n <= founders; n++)); do start "$n"; done; for ((n = 1; n <= founders; n++)); do ready "$n"; done; }
# Milliseconds until the applied index of every group on a node is that of its leader.
seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }
behind() { # node: entries that it lacks over all groups, by the newest commit that any node knows
    cli status --groups -o json | jq --arg name "node-$1" '
        [.nodes[] | select(.reachable)] as $all
        | ([$all[].groups[]] | group_by(.group) | map({key: (.[0].group | tostring), value: (map(.commit_index) | max)}) | from_entries) as $commits
        | [$all[] | select(.name == $name) | .groups[]] as $here
        | if ($here | length) < ($commits | length) then 999999
          else [$here[] | $commits[.group | tostring] - .applied_index] | map(if . < 0 then 0 else . end) | add end'
}
caught_up() { # node, slack
    until [ "$(behind "$1")" -le "${2:-50}" ]; do sleep 0.2; done
}
resident_mib() { awk '/VmRSS/ { printf "%d", $2 / 1024 }' "/proc/${pids[$1]}/status"; }
peak_reset() { echo 5 >"/proc/${pids[$1]}/clear_refs"; }
peak_mib() { awk '/VmHWM/ { printf "%d", $2 / 1024 }' "/proc/${pids[$1]}/status"; }
load() { cli workload run --namespace bench --vault-count 16 "$@"; }
p99() { jq -r '"\(.operations_per_second | floor)/s  p50 \(.latency_us.p50 / 1000) ms  p99 \(.latency_us.p99 / 1000) ms  max \(.latency_us.max / 1000) ms  errors \(.errors_total)"'; }

away() {
    local seconds="${1:-150}" rate=1500
    for cap in 100000 2000; do
        extra=(LEDGER_RAFT_LOG_ENTRIES_MAX="$cap")
        start_all
        load --rate "$rate" --clients 32 --duration 5s >/dev/null
        echo "cap $cap entries: all nodes     $(load --rate "$rate" --clients 32 --duration 20s | p99)"
        kill_node 3
        echo "cap $cap entries: node 3 away   $(load --rate "$rate" --clients 32 --duration "${seconds}s" | p99)"
        load --rate "$rate" --clients 32 --duration 20s >"$work/during" &
        local loading=$! begin
        begin="$(date +%s.%N)"
        start 3; ready 3; caught_up 3 2000
        echo "cap $cap entries: node 3 back after $(seconds_since "$begin") s, snapshots installed: $(metric 3 ledger_snapshots_installed_total)"
        wait "$loading"
        echo "cap $cap entries: catching up   $(p99 <"$work/during")"
        local n; for n in 1 2 3; do kill_node "$n"; done
        rm -rf "$work"/node-? "$work/client"; port=$((port + 100))
    done
}

large() {
    local mebibytes="${1:-1024}"
    extra=(LEDGER_SHARDS=1)
    start_all
    # A value is stored twice: in its row and in its block's body.
    local operations=$((mebibytes * 1024 / 2 / 32))
    echo "filling a group with $mebibytes MiB"
    until [ "$(du -sm "$work/node-3" | cut -f1)" -ge "$mebibytes" ]; do
        load --op batch --batch 32 --value-bytes 32768 --keys "$((operations / 16 + 1))" --clients 4 --duration 10s >/dev/null
    done
    sleep 5
    kill_node 3; rm -rf "$work/node-3"
    local n; for n in 1 2; do peak_reset "$n"; echo "node $n: resident $(resident_mib "$n") MiB before"; done
    echo "load alone:                 $(load --rate 500 --clients 16 --duration 20s | p99)"
    load --rate 500 --clients 16 --duration 40s >"$work/during" &
    local loading=$! begin
    begin="$(date +%s.%N)"
    start 3; ready 3; local fresh; fresh="$(resident_mib 3)"; caught_up 3 200
    echo "node 3 empty to caught up: $(seconds_since "$begin") s, received $(($(metric 3 ledger_snapshot_bytes_received_total) / 1048576)) MiB"
    echo "node 3: resident $fresh MiB empty, peak $(peak_mib 3) MiB"
    for n in 1 2; do echo "node $n: peak $(peak_mib "$n") MiB"; done
    wait "$loading"
    echo "load during the transfer:   $(p99 <"$work/during")"
}

log() {
    local seconds="${1:-3600}" begin minute=0
    extra=(LEDGER_RAFT_LOG_BYTES_MAX=4194304)
    start_all
    load --rate 600 --clients 16 --value-bytes 64 --duration "${seconds}s" >"$work/load" &
    local loading=$!
    begin="$(date +%s)"
    echo "minute  away  log KiB of node 1, 2, 3 (sum; largest group)  oldest entry s  snapshots installed on 3"
    while kill -0 "$loading" 2>/dev/null; do
        local phase=$((minute % 15)) away=no n line=""
        if [ "$phase" -eq 5 ]; then kill_node 3; fi
        if [ "$phase" -eq 10 ]; then start 3; ready 3; fi
        if [ "$phase" -ge 5 ] && [ "$phase" -lt 10 ]; then away=yes; fi
        local target=$((begin + (minute + 1) * 60))
        while [ "$(date +%s)" -lt "$target" ] && kill -0 "$loading" 2>/dev/null; do sleep 1; done
        for n in 1 2 3; do
            if [ "$away" = yes ] && [ "$n" = 3 ]; then line+="  -"; continue; fi
            line+="  $(($(metric "$n" 'ledger_raft_log_bytes') / 1024)); $(($(metric "$n" 'ledger_raft_log_bytes_max') / 1024))"
        done
        echo "$minute  $away $line  $(metric 1 ledger_raft_log_oldest_entry_seconds)  $([ "$away" = yes ] || metric 3 ledger_snapshots_installed_total)"
        minute=$((minute + 1))
    done
    p99 <"$work/load"
}

groups() {
    local count="${1:-2000}" begin
    founders=1 extra=(LEDGER_SHARDS="$count")
    start_all
    until [ "$(cli status -o json | jq .nodes[0].groups_count)" -gt "$count" ]; do sleep 1; done
    local written
    written="$(load --op batch --batch 500 --value-bytes 64 --keys 62500 --clients 8 --duration 90s | jq .operations)"
    echo "groups $(metric 1 ledger_groups); $written writes to 1,000,000 keys drawn at random"
    kill_node 1
    begin="$(date +%s.%N)"
    start 1; ready 1
    echo "ready after $(seconds_since "$begin") s; groups open: $(curl -s "127.0.0.1:$((port + 51))/metrics" | awk '/^ledger_groups\{state="open"/ { print $2 }')"
    local begin_load
    begin_load="$(date +%s.%N)"
    load --clients 16 --duration 1s --warmup 0s >"$work/first"
    echo "first second of writes to 16 vaults, $(seconds_since "$begin_load") s: $(p99 <"$work/first")"
}

case "${1:-}" in
    away | large | log | groups) "$@" ;;
    *) sed -n '2,14p' "$0"; exit 2 ;;
esac
