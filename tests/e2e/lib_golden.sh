# Results that are stored, with a block for each level of the CPU's instructions, as rounding differs between them;
# sourced behind lib_daemon.sh. The test defines start, which starts its daemon with
# --set engine.cpu_level="$golden_level".
#   golden_arguments "$@"          --write: stores what comes out, of every level that this machine has;
#                                  --level LEVEL: this one, not the best
#   golden_check FILE COMMAND      runs COMMAND with a daemon that was started, and compares; $work/results is what it wrote,
#                                  $golden_level the level then
#   golden_levels                  those that are stored; of others two runs are compared with each other
golden_level=auto
golden_writes=
golden_levels='scalar avx2 avx512 amx'

golden_arguments() {
    case "${1:-} ${2:-}" in
        ' ') ;;
        '--write ') golden_writes=1 ;;
        '--level scalar' | '--level avx2' | '--level avx512' | '--level amx') golden_level=$2 ;;
        *) fail "accepted --write, or --level scalar, avx2, avx512 or amx" ;;
    esac
}

golden_running() { sed -n 's/.*backend cpu \([a-z0-9]*\), bf16.*/\1/p' "$work/daemon.log"; }
golden_block() { awk -v l="## $2" '/^## /{ on = $0 == l; next } on' "$1"; }
golden_store() { # FILE LEVEL
    { [ ! -f "$1" ] || awk -v l="## $2" '/^## /{ skip = $0 == l } !skip' "$1"; } >"$work/others"
    { cat "$work/others"; echo "## $2"; cat "$work/results"; } >"$1"
}

golden_check() {
    local file=$1 command=$2 best level
    best=$(golden_running)
    [ -n "$best" ] || fail "the log names no instruction set"
    if [ -n "$golden_writes" ]; then
        for level in $golden_levels; do
            daemon_stop
            golden_level=$level
            start || fail "the daemon does not start at $level"
            [ "$(golden_running)" = "$level" ] || continue
            $command >"$work/results"
            golden_store "$file" "$level"
        done
        daemon_stop
        golden_level=auto
        start || fail "the daemon does not start again"
    fi
    [ "$golden_level" = auto ] || [ "$golden_level" = "$best" ] || fail "this machine has no $golden_level"
    golden_level=$best
    $command >"$work/results"
    golden_block "$file" "$best" >"$work/wanted"
    [ -s "$work/wanted" ] || {
        echo "$file has nothing for $best: compared with a second run"
        $command >"$work/wanted"
    }
    diff "$work/wanted" "$work/results" >"$work/diff.log" || fail "results differ from the stored ones ($best)"
}
