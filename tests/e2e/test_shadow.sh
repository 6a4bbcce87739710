#!/bin/bash
# timeout: 120
# A live daemon's log of programs, and what dynasor-calibrate --shadow says of it: nothing but what is known, by the
# profiles as they were in force, and changed at run time. A policy that stops no later than the live one did is judged by all programs, one that goes on by those that ran
# to their cap; trees by those who would have grown the same, chains at the probes that were made. Numbers are held to a direct count of the log. What programs came to stands there also after a
# restart, and without prompts.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
model=tools/model/dynasor-5m tasks=tools/model/tasks/words.test.tsv
log=$work/programs.tsv

control() { "$build/bin/dynasorctl" --socket "$control" "$@"; }
# reason LINE ARGUMENT...: the problem of a line
reason() {
    local line=$1
    shift
    timeout 60 "$build/examples/reason" --socket "$socket" --chat --max-tokens 200 "$@" \
        "$(sed -n "${line}p" $tasks | cut -f3)" >"$work/out" || fail "reason $*"
}
few() { reason "$1" --set cap=8 sc; }
# shadow PROFILE [ALGORITHM]
shadow() { timeout 20 "$build/bin/dynasor-calibrate" --algorithm "${2:-sc}" --shadow "$1" "$log" >"$work/shadow.log" 2>&1; }
says() { grep -qF -- "$1" "$work/shadow.log" || fail "'$1' is not said"; }
# logged COUNT: waits until so many are in the file
logged() {
    for _ in $(seq 500); do
        control status >"$work/status"
        grep -q "^programs_logged  *$1 " "$work/status" && return 0
        sleep 0.02
    done
    fail "programs_logged is not $1: $(grep logged "$work/status")"
}

start() { daemon_start --policy $model/policy --reward $model/reward --set log.programs="$log" "$@"; }
start || fail "the daemon does not start"

# The live profile stops a program when its first five answers agree.
for line in $(seq 12); do few "$line"; done
reason 4 cot
reason 1 --set cap=4 --set width=3 --set depth=4 mcts
reason 1 single
logged 14 # one answer alone is none to stop at
grep -q '^programs_unlogged  *0 ' "$work/status" || fail "programs are lost"
sed 1,2d "$tasks" | cut -f3 | head -12 | grep -o '[a-z]\{6,\}' | sort -u | grep -qwFf - <(sed 1d "$log") && fail "the log has prompts in it"
control profile show sc-math >"$work/live.profile"

# programs NAME: a line for each of sc: steps, whether it was stopped, its tokens, tokens at step 3 and whether
# its first three answers agree
programs() {
    awk -F'\t' '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["algorithm"] != "sc" { next }
        { p = $at["program"]; if (!(p in steps)) order[++count] = p
          n = ++steps[p]; tokens[p] = $at["tokens"]; ended[p] = $at["ended"]; answer = $at["answer"]
          if (n <= 3) { third[p] = tokens[p]; agree[p] += answer != "" && (n == 1 || answer == first[p]); first[p] = answer } }
        END { for (i = 1; i <= count; i++) { p = order[i]
                print steps[p], ended[p] == "settled", tokens[p], third[p], agree[p] == 3 } }' "$log"
}
programs >"$work/programs"
[ "$(wc -l <"$work/programs")" = 12 ] || fail "$(wc -l <"$work/programs") programs of sc are in the log"
stopped=$(awk '$2' "$work/programs" | wc -l)
spent=$(awk '{ s += $3 } END { print s }' "$work/programs")
{ [ "$stopped" -ge 2 ] && [ "$stopped" -le 10 ]; } || fail "$stopped of 12 were stopped: nothing to tell apart"
awk '{ if ($1 != ($2 ? 5 : 8)) exit 1 }' "$work/programs" || fail "steps are missing"

# By the live profile itself: all is known, nothing differs.
shadow "$work/live.profile" || fail "shadow of the live profile"
says "12 programs, $stopped stopped early"
says "tokens $spent instead of $spent, and 0 for probes: saved 0.00 %"
says "answers other than at the end: 0 "
says "judged by 12 of 12 programs: $((12 - stopped)) that did all they were allowed to, $stopped that had been stopped"
says "nothing is labelled"

# One that never stops: nothing is known of those that were stopped.
shadow even || fail "shadow of even"
says "judged by $((12 - stopped)) of 12 programs: $((12 - stopped)) that did all they were allowed to, 0 that"
says "not judged: $stopped that had been stopped"

# One that reads at 3: known where it stops, or where the program went to its cap.
sed 's/^name = .*/name = early/; s/^detect = .*/detect = 3/; s/^5 = 0.7/3 = 0.9/' "$work/live.profile" >"$work/early.profile"
shadow "$work/early.profile" || fail "shadow of early"
awk '$5 { judged++; early++; used += $4; spent += $3 } !$5 && !$2 { judged++; used += $3; spent += $3 }
    END { printf "%d programs, %d stopped early\ntokens %d instead of %d,\n", judged, early, used, spent }' \
    "$work/programs" >"$work/wanted"
while read -r line; do says "$line"; done <"$work/wanted"
grep -q '^tokens .* saved [1-9]' "$work/shadow.log" || fail "it saves nothing"

# Policies that end branches while they decode, a log of answers cannot judge; other algorithms have their own.
sed 's/^name = .*/name = first/; s/^kind = .*/kind = m_of_n/' "$work/live.profile" >"$work/first.profile"
shadow "$work/first.profile" && fail "m_of_n is judged"
says "m_of_n"

# Chains: by the probes that were made, every 64 tokens. A guided one takes them over, and its lines still are in order.
shadow cot-mid cot || fail "cot"
says "1 programs"
grep -q 'later probe' "$work/shadow.log" && fail "probes are missing where none is"
shadow cot-crazy cot && fail "probes are made up"
says "--shadow cot-crazy: accepted a profile that probes where the log has probes"
reason 7 --profile cot-crazy --set guided=2 cot
logged 15
shadow cot-crazy cot || fail "a guided chain"
grep -q '^[1-9][0-9]* of [0-9]* decisions were taken at a later probe than cot-crazy makes' "$work/shadow.log" ||
    fail "decisions that were moved are not counted"
# Its probe is a part of it: it costs what the program was charged, and that once.
spent=$(awk '$1 == "decoded" || $1 == "probe" { s += $2 } END { print s }' "$work/out")
grep -q '^probe  *[1-9]' "$work/out" || fail "no probe"
awk -F'\t' -v p="$(tail -1 "$log" | cut -f2)" 'NR == 1 || $2 == p' "$log" >"$work/guided.tsv"
timeout 20 "$build/bin/dynasor-calibrate" --shadow cot-crazy "$work/guided.tsv" >"$work/shadow.log" 2>&1 || fail "one guided chain"
says "tokens $spent instead of $spent, and 0 for probes: saved 0.00 %"

# Trees: a tree of 20 has no tree of 16 in it.
tree() { reason "$1" --set cap=20 --set depth=4 --set step_tokens=12 --profile "$2" rebase; }
tree 1 even
logged 16
shadow even rebase || fail "trees, by the profile that grew them"
says "policy even: 1 programs"
shadow rebase-math rebase && fail "a smaller tree is made up"
says "--shadow rebase-math: accepted a profile that grows the trees of the log, whose profile even went to 20 leaves where this one goes to 16"
tree 2 rebase-math
logged 17
shadow rebase-gsm8k rebase || fail "trees of two profiles"
says "not judged: 1 whose trees rebase-gsm8k would not have grown: those of profile even went to 20 leaves where it goes to 16"
sed 's/\teven\t[0-9a-f]*\t/\tyours\t\t/' "$log" >"$work/yours.tsv"
timeout 20 "$build/bin/dynasor-calibrate" --algorithm rebase --shadow even "$work/yours.tsv" >"$work/shadow.log" 2>&1 && fail "trees of an unknown profile"
says "profile = 'yours'"

# What was changed at run time is what was in force: the log has its text, and trees that it grew are no trees of the built-in one.
control set rebase-math.policy.detect 18 || fail "set"
tree 3 rebase-math
logged 18
shadow rebase-math rebase || fail "trees of a changed profile"
says "not judged: 2 whose trees rebase-math would not have grown: those of profile even went to 20 leaves where it goes to 16"
grep -q '^ran under rebase-math@[0-9a-f]*: 1 programs, as built in, the policy that is judged$' "$work/shadow.log" ||
    fail "the built-in version is not said"
changed=$(sed -n 's/^ran under \(rebase-math@[0-9a-f]*\): 1 programs, not as built in$/\1/p' "$work/shadow.log")
[ -n "$changed" ] || fail "the changed version is not said"
shadow "$changed" rebase || fail "by the changed version itself"
says "policy static: 1 programs"
says "ran under $changed: 1 programs, not as built in, the policy that is judged"
says "whose trees rebase-math would not have grown"
shadow rebase-math@0123456789abcdef rebase && fail "a version that is not there"
says "rebase-math@0123456789abcdef: No such file"

# While a program runs: it ran under neither.
flip() { while control set sc-math.certainty.5 0.9 && control set sc-math.certainty.5 0.7; do :; done; }
flip >"$work/flip" 2>&1 &
flips=$!
reason 13 --set cap=30 sc
kill $flips
wait $flips 2>/dev/null
control set sc-math.certainty.5 0.7 || fail "set"
logged 19
shadow sc-math || fail "shadow with a program under two"
says "ran under sc-math, which was changed before they ended: 1 programs"
grep -q '^ran under sc-math@[0-9a-f]*: 12 programs, as built in, the policy that is judged$' "$work/shadow.log" ||
    fail "the profile of the others is not said"

# Members of a batch end by what their common total leaves: they are counted, and by nothing judged.
shadow sc-math && grep -v '^ran' "$work/shadow.log" >"$work/before"
mapfile -t prompts < <(sed -n 14,17p $tasks | cut -f3)
timeout 60 "$build/examples/batch" --socket "$socket" --chat --max-tokens 200 --tokens 1500 --cap 4 --batch-cap 9 --step 2 "${prompts[@]}" \
    >"$work/out" || fail "batch"
logged 23
shadow sc-math || fail "shadow beside a batch"
says "not judged: 4 of batches"
grep -v '^ran\|of batches' "$work/shadow.log" | diff "$work/before" - >"$work/diff.log" || fail "members of a batch are judged"

# After a restart it goes on behind what is there; a daemon that dies leaves what it has written.
daemon_stop
start || fail "the daemon does not start again"
few 21
logged 1
kill -9 "$daemon_pid"
wait "$daemon_pid" 2>/dev/null
start || fail "the daemon does not start once more"
few 22
logged 1
daemon_stop
programs >"$work/programs"
[ "$(wc -l <"$work/programs")" = 19 ] || fail "$(wc -l <"$work/programs") programs after two restarts"
shadow sc-math || fail "shadow after restarts"

# What cannot be written is refused by name.
start --set log.programs=/nowhere/log.tsv && fail "starts with a log that cannot be written"
grep -qF '[log] programs = /nowhere/log.tsv' "$work/daemon.log" || fail "the refusal does not name the log"
daemon_pid=
start --set log.programs_bytes=1 && fail "starts with a log of one byte"
grep -qF '1048576 to' "$work/daemon.log" || fail "the refusal does not say the range"
daemon_pid=
echo "$stopped of 12 programs were stopped; profiles are judged by what is known of them"
