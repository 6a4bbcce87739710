#!/bin/bash
# timeout: 240
# dynasor-calibrate on real chains (tests/data/replay). First its accounting: constant windows must save
# and lose what a direct count of the same tables says. Then what it is for: profiles fitted on one
# half of the problems and judged on the other, at 1, 2 and 5 points, 20 different halves; never
# stopping counts as 0 %. Then the command line: what is refused, profiles that are written and read.
set -u
calibrate=$DYN_BUILD/bin/dynasor-calibrate
data=$(dirname "$0")/../data/replay
folder=$(mktemp -d "${TMPDIR:-/tmp}/calibrate.XXXXXX")
trap 'rm -rf "$folder"' EXIT
fail() {
    echo "FAIL: $*"
    cat "$folder/out" "$folder/err" 2>/dev/null
    exit 1
}
# run STATUS [argument ...]: the output stays in $folder/out and err.
run() {
    local want=$1 got
    shift
    timeout 100 "$calibrate" "$@" >"$folder/out" 2>"$folder/err"
    got=$?
    [ $got = "$want" ] || fail "dynasor-calibrate $*: status $got, expected $want"
}
says() { grep -qF -- "$1" "$folder/out" "$folder/err" || fail "'$1' is not said"; }
# holds A OP B: compares decimals.
holds() { awk -v a="$1" -v b="$3" "BEGIN { exit !(a $2 b) }" || fail "$1 $2 $3 does not hold"; }

r1=$folder/r1.tsv qwen=$folder/qwen.tsv rollouts=$folder/rollouts.tsv
awk -v model=DeepSeek-R1-Distill-Qwen-7B -v dataset=math500 -f "$data/runlog.awk" \
    "$data/runs.tsv" "$data/probes.tsv" >"$r1" || fail awk
awk -v model=Qwen3-8B -v dataset=math500 -f "$data/runlog.awk" \
    "$data/runs.tsv" "$data/probes.tsv" >"$qwen" || fail awk
awk -f "$data/runlog.awk" "$data/rollouts.tsv" "$data/rollout_probes.tsv" >"$rollouts" || fail awk

# ---- constant windows, against a count in awk -------------------------------------------------------
# Stops at the first w equal answers in a row; prints right answers lost and tokens with probes.
count_directly() { # log window
    awk -F'\t' -v w="$2" '
    NR == 1 { next }
    $2 != program { end(); program = $2; run = 0; last = ""; cost = 0; stopped = 0; right = "" }
    {
        # What came before was a probe; the last line of a program is its end.
        if (right != "" && !stopped && run >= w) { stopped = 1; kept += right; used += tokens + cost }
        run = $7 != "" && $7 "" == last "" ? run + 1 : $7 != "" # as text
        last = $7; right = $8; tokens = $6
        cost += $10
    }
    function end() {
        if (program == "") return
        full += right
        if (!stopped) { kept += right; used += tokens + cost }
    }
    END { end(); print full - kept, used }' "$1"
}
for log in "$r1" "$qwen"; do
    for window in 8 16 32 48; do
        {
            printf '[profile]\nname = w\nalgorithm = cot\n[policy]\nkind = probe\n'
            printf '[probe]\nfirst_tokens = 64\ninterval_tokens = 64\nwindow = %s\n' $window
        } >"$folder/w.ini"
        run 0 --shadow "$folder/w.ini" "$log"
        got=$(awk '/^tokens/ { used = $2 + $7 } /^right/ { lost = $5 - $2 } END { print lost, used }' \
            "$folder/out")
        expected=$(count_directly "$log" $window)
        [ "$got" = "$expected" ] || fail "window $window: lost and used $got, expected $expected"
        echo "$(basename "$log") window $window: $(sed -n 's/.*saved/saved/p; s/.*: lost/lost/p' "$folder/out" | tr '\n' ' ')"
    done
done

# ---- fitted on one half, judged on the other --------------------------------------------------------
# judged ALLOWED COLUMN of the table
judged() { awk -v a="$1" -v c="$2" '$1 == a && $2 == "judged" { print $c }' "$folder/out"; }
for log in "$r1" "$qwen"; do
    run 0 --test empirical --allowed 1,2,5 --judge 0.5 --splits 20 "$log"
    echo "$(basename "$log"): $(sed -n 1,2p "$folder/out" | tr '\n' ' ')"
    sed -n 3,9p "$folder/out"
    for allowed in 1 2 5; do
        lost=$(judged $allowed.00 3)
        holds "$lost" "<=" $allowed
    done
    holds "$(judged 5.00 6)" ">" 25 # percent of the tokens, probes charged
    holds "$(judged 2.00 6)" ">" 12
    holds "$(judged 1.00 6)" ">" 6
done
# With a promise: fewer problems are left to decide on, so less is saved, and less is lost.
run 0 --allowed 5 --judge 0.5 --splits 20 "$qwen"
holds "$(judged 5.00 3)" "<=" 5
echo "with a promise: $(grep judged "$folder/out")"

# The rollouts have the words after the answer: hesitation makes stopping rarer and safer.
for rule in ignored blocks left_out; do
    run 0 --test empirical --hesitation $rule --allowed 2 --judge 0.5 --splits 20 "$rollouts"
    echo "rollouts, hesitation $rule: $(grep judged "$folder/out")"
done

# ---- profiles, plots, refusals ----------------------------------------------------------------------
run 0 --allowed 5 --test empirical -o "$folder/five.ini" --name five --plot "$folder/five" "$r1"
grep -q 'never stops' "$folder/out" && fail 'five points allow nothing'
[ -s "$folder/five.dat" ] || fail 'no data to plot'
[ -s "$folder/five.gp" ] || fail 'no script to plot with'
if command -v gnuplot >/dev/null; then
    [ -s "$folder/five.png" ] || fail 'gnuplot drew nothing'
fi
saving=$(sed -n 's/^saving_percent = //p' "$folder/five.ini")
run 0 --shadow "$folder/five.ini" "$r1"
says "profile five, policy probe"
# The bound is above what was lost here, and not by much with 400 problems.
lost=$(sed -n 's/.*: lost \([-0-9.]*\) points/\1/p' "$folder/out")
bound=$(sed -n 's/.*at most \([0-9.]*\) points.*/\1/p' "$folder/out")
holds "$bound" ">" "$lost"
holds "$bound" "<" "$(awk "BEGIN { print $lost + 4 }")"
holds "$(sed -n 's/.*: saved \([0-9.]*\) %/\1/p' "$folder/out")" "<" "$(awk "BEGIN { print $saving + 0.01 }")"
holds "$(sed -n 's/.*: saved \([0-9.]*\) %/\1/p' "$folder/out")" ">" "$(awk "BEGIN { print $saving - 0.01 }")"

run 2
run 2 --allowed 101 "$r1"
run 2 --policy best "$r1"
run 1 "$folder/nothing.tsv"
says 'nothing.tsv: No such file'
run 1 --policy static "$r1"
says 'accepted probe alone'
printf 'problem\tprogram\talgorithm\tn\ttokens\n' >"$folder/bad.tsv"
run 1 "$folder/bad.tsv"
says 'bad.tsv:1: column answer is missing'
head -n 3 "$r1" | awk 'BEGIN { FS = OFS = "\t" } NR == 3 { $5 = 7 } { print }' >"$folder/bad.tsv"
run 1 "$folder/bad.tsv"
says 'bad.tsv:3: n = 7: accepted 2'
run 1 --shadow "$folder/nothing.ini" "$r1"
says 'nothing.ini: No such file'
echo 'dynasor-calibrate: ok'
