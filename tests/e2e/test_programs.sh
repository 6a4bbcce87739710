#!/bin/bash
# timeout: 120
# One program of every algorithm through the client library, on a random model with a random reward model:
# its tokens, answer and costs must be the stored ones of this machine's instruction set (tests/golden/e2e-programs.txt;
# lib_golden.sh). In between thresholds are changed with dynasorctl, and what is stored of the programs behind the change
# are the stops that it makes: the next program decides by it, and by the old one when it is set back.
#   test_programs.sh [--write | --level LEVEL]

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
. tests/e2e/lib_model.sh
. tests/e2e/lib_golden.sh

control() { "$build/bin/dynasorctl" --socket "$control" "$@"; }
reason() {
    timeout 60 "$build/examples/reason" --socket "$socket" --max-tokens 48 "$@" "Count the ways in which 3 + 4 = 7."
}
# Thresholds. With these seeds two of the first five answers agree, so that 0 stops SC there, and the first three
# iterations of the search get a reward between 0 and 0.99.
few() { reason --set cap=8 --answer number --max-tokens 12 --seed 4 "$@" sc; }
search() { reason --tokens --set cap=4 --set width=3 --set depth=4 --set step_tokens=12 "$@" mcts; }
start() { daemon_start --policy "$work/policy" --reward "$work/reward" --set engine.cpu_level="$golden_level" --set engine.chat=llama-3 "$@"; }
golden_arguments "$@"

demo_model "$work/policy" && demo_reward "$work/reward" || fail "no models"
mkdir "$work/profiles"
start || fail "the daemon does not start"

programs() {
    for words in 'single --answer math' 'sc --set cap=8' 'best_of_n --set cap=6' cot 'rebase --set cap=12' \
        'mcts --set cap=4 --set width=3' 'beam --set width=2' 'beam --set width=2 --set subtrees=2'; do
        # shellcheck disable=SC2086 # words
        set -- $words
        algorithm=$1
        shift
        echo "== $algorithm${2:+ $*}"
        case $algorithm in rebase | mcts | beam) set -- "$@" --set depth=4 --set step_tokens=12 ;; esac
        reason --tokens "$@" "$algorithm" || fail "$algorithm"
    done
    echo "== sc_cot"
    reason --tokens --set cap=4 --max-tokens 96 sc_cot || fail "sc_cot"
    echo "== guided"
    reason --tokens --set guided=2 --profile cot-crazy --max-tokens 160 cot || fail "cot, guided"
    echo "== custom"
    timeout 60 "$build/examples/my_sc" --socket "$socket" --count 6 --max-tokens 48 "What is 3 + 4?" || fail "custom"
    for rule in 1 2; do
        echo "== prior $rule"
        search --set prior=$rule || fail "mcts, prior $rule"
    done
    for thresholds in '0.7 0.99' '0 0' '0.7 0.99'; do
        control set sc-math.certainty.5 "${thresholds% *}" && control set mcts-asdiv.reward.3 "${thresholds#* }" ||
            fail "set $thresholds"
        echo "== thresholds $thresholds"
        few --tokens || fail "sc, thresholds $thresholds"
        search --seed 8 --profile mcts-asdiv || fail "mcts, thresholds $thresholds"
    done
}
golden_check tests/golden/e2e-programs.txt programs
for word in single sc best_of_n cot rebase mcts beam sc_cot guided custom; do
    grep -qE "^== $word( |\$)" "$work/results" || fail "no $word"
done
[ "$(grep -c '^verdict' "$work/results")" = 18 ] || fail "results are missing"
# What is stored stops by the change, and only by it.
verdicts() { sed -n "/^== thresholds/,\$ s/^$1 //p" "$work/results" | tr '\n' ' '; }
[ "$(verdicts verdict)" = "capped capped settled settled capped capped " ] || fail "verdicts: $(verdicts verdict)"
[ "$(verdicts knob)" = "8 4 5 3 8 4 " ] || fail "knobs: $(verdicts knob)"
echo "nine algorithms gave the stored tokens, answers and costs, with thresholds changed in between ($golden_level)"

knob() { few "$@" | sed -n 's/^knob //p'; }
[ "$(knob)" = 8 ] || fail "SC stops before its cap"
[ "$(control get sc-math.certainty.5)" = "sc-math.certainty.5 0.7" ] || fail "get"
control set sc-math.certainty.5 0 || fail "set"
[ "$(knob)" = 5 ] || fail "the new threshold does not hold"
[ "$(knob --profile sc-gsm8k)" = 8 ] || fail "another profile changed as well"
few | grep -qx 'verdict settled' || fail "the verdict is not settled"
control set sc-math.certainty.5 0.7 || fail "set back"
[ "$(knob)" = 8 ] || fail "the old threshold does not hold again"

# Wrong values change nothing, and are refused by key and range.
refused() { # words of the message, then -- and the command
    local words=()
    while [ "$1" != -- ]; do words+=("$1") && shift; done
    shift
    "$@" >"$work/refused.log" 2>&1 && fail "accepted: $*"
    for word in "${words[@]}"; do
        grep -qF -- "$word" "$work/refused.log" || fail "the message for $* does not say $word"
    done
}
control profile list >"$work/list"
control profile show sc-math >"$work/shown"
refused certainty '1.5' '0 to 1' -- control set sc-math.certainty.5 1.5
refused detect '1 to' -- control set policy.detect 0
refused nothing 'profile list' -- control set default.sc nothing
refused cot -- control set default.sc cot-mid
refused 'PROFILE.section.key' -- control get what
refused 'file only' -- control set sc-math.profile.name other
refused 'cap 0' '1 to 1024' -- reason --set cap=0 sc
refused 'width 3' -- reason --set width=3 sc
refused 'prior 3' '0 to 2' -- reason --set prior=3 mcts
refused 'prior 1' -- reason --set prior=1 rebase
refused 'spread' '1 to 100000' -- reason --set spread=1e6 rebase
refused 'profile' -- reason --profile cot-mid sc
control profile list | diff - "$work/list" >"$work/diff.log" || fail "a refused command changed the list"
control profile show sc-math | diff - "$work/shown" >"$work/diff.log" || fail "a refused command changed it"

# A profile from a file, now and at the start.
sed 's/^name = .*/name = mine/; s/^5 = .*/5 = 0/' "$work/shown" >"$work/profiles/a.profile"
control profile load "$work/profiles/a.profile" || fail "load"
[ "$(knob --profile mine)" = 5 ] || fail "the loaded profile does not hold"
refused 'sc-math' directory -- control profile save sc-math
sed 's/^5 = .*/5 = 7/' "$work/profiles/a.profile" >"$work/b.profile"
refused "$work/b.profile:" certainty '0 to 1' -- control profile load "$work/b.profile"
[ "$(knob --profile mine)" = 5 ] || fail "a refused file changed the profile"
control set default.sc mine || fail "default"
[ "$(knob)" = 5 ] || fail "the new default does not hold"
daemon_stop
start --set profiles.directory="$work/profiles" --set profiles.sc=mine || fail "the daemon does not start again"
[ "$(knob)" = 5 ] || fail "the profile of the configuration does not hold"
# What is saved holds after the next start, also where the file has another name, and nothing else does.
control set mine.certainty.5 0.7 && control set sc-gsm8k.certainty.5 0 && control set sc-math.certainty.5 0 || fail "set"
control profile save mine | grep -qx "saved to $work/profiles/a.profile" || fail "save to its own file"
control profile save sc-gsm8k >/dev/null || fail "save of one that is built in"
refused nothing 'profile list' -- control profile save nothing
printf 'half' >"$work/profiles/sc-math.profile.new"
control profile show sc-gsm8k >"$work/shown"
daemon_stop
start --set profiles.directory="$work/profiles" --set profiles.sc=mine || fail "the daemon does not start with what was saved"
[ "$(knob) $(knob --profile sc-gsm8k) $(knob --profile sc-math)" = "8 5 8" ] || fail "what was saved does not hold"
control profile show sc-gsm8k | diff - "$work/shown" >"$work/diff.log" || fail "it is not what was saved"
daemon_stop
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then # a member of the socket's group may look, not touch
    chmod 755 "$work"
    start --set daemon.control_group=nogroup || fail "the daemon does not start for a group"
    member() { setpriv --reuid 65534 --regid nogroup --clear-groups "$build/bin/dynasorctl" --socket "$control" "$@"; }
    member get policy.detect >"$work/refused.log" 2>&1 || fail "a member of the group may not look"
    refused 'uid 65534' root -- member set sc-math.certainty.5 0
    refused 'uid 65534' root -- member profile load /dev/null
    [ "$(control get sc-math.certainty.5)" = "sc-math.certainty.5 0.7" ] || fail "a member of the group changed it"
    daemon_stop
    echo "only root and the daemon's user may change profiles"
fi
cp "$work/b.profile" "$work/profiles/"
start --set profiles.directory="$work/profiles" && fail "starts with a wrong profile"
grep -q "b.profile:" "$work/daemon.log" || fail "the log does not name the wrong profile"
daemon_pid=
echo "thresholds and profiles changed at run time, all or nothing"
