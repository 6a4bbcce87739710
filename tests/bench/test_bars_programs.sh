#!/bin/bash
# The bars that `dynasor-bench programs` measures are those of tests/bench/bars-programs.txt, in its order:
# none can be dropped or renamed unnoticed. Without logs every bar is short, and says why; so are those of
# a value that is no number, and of a log that was made on other instructions: what was not run is not ok. Measures nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
bench=${DYN_BUILD:-$PWD/build}/bin/dynasor-bench
"$bench" programs --names | diff -u tests/bench/bars-programs.txt - || {
    echo "dynasor-bench programs --names differs from tests/bench/bars-programs.txt"
    exit 1
}
nothing=$(mktemp -d "${TMPDIR:-/tmp}/programs.XXXXXX")
trap 'rm -rf "$nothing"' EXIT
"$bench" programs --logs "$nothing" >"$nothing/out"
[ $? = 1 ] || { echo "without logs the status is not 1"; exit 1; }
told=$(grep -c '^bar [a-z0-9_]* - .* short: .' "$nothing/out")
[ "$told" = "$(wc -l <tests/bench/bars-programs.txt)" ] || {
    echo "without logs $told bars are short"
    cat "$nothing/out"
    exit 1
}
short() { grep -q "^bar $1 - .* short: $2" "$nothing/out" || { echo "$1: '$2' is not said"; cat "$nothing/out"; exit 1; }; }
"$bench" programs --logs "$nothing" --value program_step_us= --value chains_r1_loss_1=none >"$nothing/out"
short program_step_us 'it was not measured'
short chains_r1_loss_1 'it was not measured'

# Six policies of which four do the same are three; of which one was not run, they are not counted.
live() { # POLICY KNOB
    {
        echo "# task=words set=test algorithm=sc profile=even policy=even cap=3 max_tokens=320 temperature=0.9"
        printf 'problem\tseed\tlevel\tverdict\tknob\tright\tdecoded\tprobe\treward\tkilled\tsteps\tms\thash\tanswers\n'
        printf '0\t0\t2\t1\t%d\t1\t35\t0\t0\t0\t1\t1\t1\t0+10w0 0+10 0+10\n' "$2"
    } >"$nothing/live-sc-words-$1.tsv"
}
live even 3 && live static 2 && live curve_once 2 && live k_step5 2 && live k_step1 1
"$bench" programs --logs "$nothing" >"$nothing/out"
short sc_words_policies_distinct 'some of the six were not run'
live curve_each_step 2
"$bench" programs --logs "$nothing" >"$nothing/out"
grep -q '^bar sc_words_policies_distinct 3 >= 6 short$' "$nothing/out" || { echo "not three policies"; cat "$nothing/out"; exit 1; }
rm "$nothing"/live-*.tsv

models=tools/model/dynasor-5m
if [ -s $models/policy/model.safetensors ]; then
    {
        echo '# task=words set=test algorithm=sc profile=even policy=even cap=1 max_tokens=320 temperature=0.9 level=abacus'
        printf 'problem\tseed\tlevel\tverdict\tknob\tright\tdecoded\tprobe\treward\tkilled\tsteps\tms\thash\tanswers\n'
        printf '0\t0\t2\t1\t1\t1\t35\t0\t0\t0\t1\t1\t1\t0+35w0\n'
    } >"$nothing/made-elsewhere.tsv"
    "$bench" programs --logs "$nothing" --policy $models/policy --reward $models/reward --tasks tools/model/tasks \
        >"$nothing/out"
    grep -q '^  made-elsewhere  *skipped: made on abacus, this is ' "$nothing/out" || { echo "no log is skipped by name"; exit 1; }
    short replay_programs '1 logs skipped: made on abacus'
    short replay_differ '1 logs skipped: made on abacus'
fi
echo "$told bars"
