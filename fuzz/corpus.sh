#!/usr/bin/env bash
# Adds to corpus/TARGET those inputs of work/TARGET, as few and as short as can be, that reach what none there does.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$1
# Without counters: how often an edge is passed would be a hundred files more.
cargo fuzz run "$target" "fuzz/corpus/$target" "fuzz/work/$target" -- \
    -merge=1 -set_cover_merge=1 -use_counters=0 -max_len=2048
