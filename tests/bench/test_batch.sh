#!/bin/bash
# timeout: 240
# dynasor-bench batch: what it refuses it names, with what is accepted; and the diverse subtrees of beam are one
# of its parameters: they are in the log that it writes, and other subtrees decode something else. And what
# `dynasor-bench programs` says of m_of_n and of one total for several programs from a log is what they do.
set -u
cd "$(dirname "$0")/../.." || exit 1
bench=${DYN_BUILD:-$PWD/build}/bin/dynasor-bench
work=$(mktemp -d "${TMPDIR:-/tmp}/batch.XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() {
    echo "$*"
    exit 1
}

# refused WANTED ARGUMENT...: no model is opened
refused() {
    local wanted=$1 said
    shift
    said=$("$bench" batch --policy none --tasks none --task words "$@" 2>&1) && fail "$* is not refused"
    [ "$said" = "dynasor-bench: $wanted" ] || fail "$*: $said"
}
algorithms="accepted single, sc, rebase, mcts, cot, best_of_n, beam, sc_cot"
refused "--algorithm custom: $algorithms" --algorithm custom
refused "--algorithm magic: $algorithms" --algorithm magic
refused "subtrees=65: accepted 1 to 64, whole" --algorithm beam --set subtrees=65
refused "subtrees=1.5: accepted 1 to 64, whole" --algorithm beam --set subtrees=1.5
refused "batch_place: the programs of a seed are a batch where batch_tokens is set" --algorithm sc --set batch_place=1
refused "batch_tokens: beam has no such parameter" --algorithm beam --set batch_tokens=9
refused "there is no policy magic" --algorithm sc --policy-kind magic

models=tools/model/dynasor-5m
beam() {
    "$bench" batch --policy $models/policy --reward $models/reward --tasks tools/model/tasks --task game24 \
        --algorithm beam --count 2 --alone --rows "$work/$1.tsv" "${@:2}" >"$work/out" 2>&1 || fail "$(cat "$work/out")"
    grep -v '^#' "$work/$1.tsv" | cut -f 14 # hashes of what was decoded
}
one=$(beam one --set subtrees=1)
four=$(beam four --set subtrees=4)
[ "$(beam none)" = "$one" ] || fail "one subtree is not the default"
[ "$one" != "$four" ] || fail "four subtrees decode what one does"
head -1 "$work/four.tsv" | grep -q ' subtrees=4' || fail "the log does not say how many subtrees: $(head -1 "$work/four.tsv")"
mkdir "$work/logs"
mv "$work/four.tsv" "$work/logs/"
"$bench" programs --logs "$work/logs" --policy $models/policy --reward $models/reward --tasks tools/model/tasks \
    --percent 100 >"$work/out" # its other bars are short
for bar in 'replay_programs 2 >= 2' 'replay_differ 0 <= 0'; do
    grep -qx "bar $bar ok" "$work/out" || fail "the log does not run again: $(cat "$work/out")"
done
grep -qx 'bar lost_tokens_percent 0 <= 1 ok' "$work/out" || fail "a beam loses tokens: $(cat "$work/out")"
cp "$work/logs/four.tsv" "$work/four.tsv"
awk -F '\t' -v OFS='\t' 'NR > 2 { $11 = int(($7 + $8 + $9) / 50) } NR == 3 { $14 = ($14 ~ /^0/ ? "1" : "0") substr($14, 2) } { print }' "$work/four.tsv" \
    >"$work/logs/four.tsv"
"$bench" programs --logs "$work/logs" --policy $models/policy --reward $models/reward --tasks tools/model/tasks \
    --percent 100 >"$work/out"
grep -q '^bar lost_tokens_percent [12]' "$work/out" || fail "what a log lost is not said: $(cat "$work/out")"
grep -qx 'bar replay_differ 1 <= 0 short' "$work/out" || fail "another hash is not seen: $(cat "$work/out")"
mv "$work/four.tsv" "$work/logs/four.tsv"
echo "refusals name what is accepted; beams of four subtrees run, and run again from their log"

# What m_of_n would have done, from the log of samples that were all run to their end, is what it does.
words() {
    "$bench" batch --policy $models/policy --tasks tools/model/tasks --task words --algorithm sc --cap 12 --count 6 \
        --seeds 2 --alone "$@" 2>&1 || fail "sc"
}
words --rows "$work/logs/sc-words.tsv" >"$work/out"
"$bench" programs --logs "$work/logs" >"$work/said"
for m in 4 10; do
    said=$(awk -v m=$m '$1 == "m_of_n" && $2 == m { print $4, $6 }' "$work/said")
    is=$(words --profile m_of_n --policy-set policy.finished_count=$m | awk '$1 == "m_of_n" { print $4, $5 }')
    [ "${is:-nothing}" = "$said" ] || fail "m_of_n, $m of 12: right and tokens are \"$is\", by the log \"$said\""
done
[ "$said" != "$(awk '$1 == "even" { print $4, $5 }' "$work/out")" ] || fail "m_of_n does what even does"
echo "m_of_n: the log says what it does ($said)"

# One total for the programs of a seed, live: each of them ends where the replay of the rounds says, and a batch runs
# again, whole, from its log.
mkdir "$work/logs/profiles"
printf '[profile]\nname = sc-words-static\nalgorithm = sc\n[policy]\nkind = static\ndetect = 4\n[certainty]\n4 = 0.7\n' \
    >"$work/logs/profiles/sc-words-static.ini"
"$bench" batch --policy $models/policy --tasks tools/model/tasks --task words --algorithm sc --cap 4 --count 6 --seeds 2 \
    --alone --profile "$work/logs/profiles/sc-words-static.ini" --set batch_tokens=3000 --set batch_cap=12 \
    --set batch_step=3 --rows "$work/logs/live-sc-words-budget.tsv" >"$work/out" 2>&1 || fail "$(cat "$work/out")"
"$bench" programs --logs "$work/logs" >"$work/said"
said=$(sed -n 's/^  live: //p' "$work/said")
case $said in
"12 programs in 2 batches, 0 raised"*) fail "none got more than its cap: $said" ;;
"12 programs in 2 batches, "*"; 0 differ from the replay") ;;
*) fail "a batch is not what its replay is: $said" ;;
esac
mkdir "$work/whole"
cp -r "$work/logs/profiles" "$work/logs/live-sc-words-budget.tsv" "$work/whole"
"$bench" programs --logs "$work/whole" --policy $models/policy --tasks tools/model/tasks --percent 1 >"$work/out"
for bar in 'replay_programs 1 >= 1' 'replay_differ 0 <= 0'; do
    grep -qx "bar $bar ok" "$work/out" || fail "a batch does not run again: $(cat "$work/out")"
done
grep -q 'live-sc-words-budget  *6 of 12 programs again' "$work/out" || fail "not one whole batch: $(cat "$work/out")"
# What a batch has more than was wanted does not stand for a log that was skipped.
sed '1s/ level=[^ ]*/ level=other/' "$work/logs/four.tsv" >"$work/whole/four.tsv"
"$bench" programs --logs "$work/whole" --policy $models/policy --tasks tools/model/tasks --percent 1 >"$work/out"
for bar in 'replay_programs 1 >= 2 short' 'replay_differ .* 1 logs skipped'; do
    grep -q "^bar $bar" "$work/out" || fail "a batch hides a log: $(cat "$work/out")"
done
echo "one total: $said"
