#!/bin/bash
# tests/gpu/log.sh LOG COMMAND ...: runs a command, and keeps what it prints in LOG, below lines that say when, at
# which commit and on which GPU. Its status; with 77 (no GPU) nothing is kept.
set -u
log=$1
shift
mkdir -p "$(dirname "$log")"
{
    date -u '+%F %T UTC'
    echo "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
    echo "\$ $(basename "$1") ${*:2}"
} >"$log.new"
"$@" 2>&1 | tee -a "$log.new"
status=${PIPESTATUS[0]}
if [ "$status" = 77 ]; then
    rm -f "$log.new"
    rmdir "$(dirname "$log")" 2>/dev/null
else
    mv "$log.new" "$log"
    echo "log: $log"
fi
exit "$status"
