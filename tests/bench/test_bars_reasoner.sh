#!/bin/bash
# The bars that `dynasor-bench reasoner` measures are those of tests/bench/bars-reasoner.txt, in its order: none can be
# dropped or renamed unnoticed. The shipped pair is as small as it has to be, and writes the greedy texts of
# transformers: whole ones, through tokenizer, scheduler and engine.
# timeout: 300
set -u
cd "$(dirname "$0")/../.." || exit 1
bench=${DYN_BUILD:-$PWD/build}/bin/dynasor-bench
models=tools/model/dynasor-5m
"$bench" reasoner --names | diff -u tests/bench/bars-reasoner.txt - || {
    echo "dynasor-bench reasoner --names differs from tests/bench/bars-reasoner.txt"
    exit 1
}
bytes=$(cat $models/policy/* $models/reward/* | wc -c)
[ "$bytes" -le 20000000 ] || { echo "the pair has $bytes bytes"; exit 1; }
weights=$(($(wc -c <$models/policy/model.safetensors) / 2000000)) # bf16
case $weights in 3 | 4 | 5) ;; *) echo "the policy has $weights M parameters"; exit 1 ;; esac
for file in config.json tokenizer.json tokenizer_config.json generation_config.json; do
    [ -s $models/policy/$file ] || { echo "the policy has no $file"; exit 1; }
done
cmp $models/policy/tokenizer.json $models/reward/tokenizer.json || exit 1

# Status 1: the other bars are not measured.
out=$("$bench" reasoner --policy $models/policy --tasks tools/model/tasks --part greedy \
    --golden tests/golden/models/reasoner-policy/greedy.tsv)
status=$?
if [ $status != 1 ] || ! grep -q '^bar greedy_differ 0 <= 0 ok$' <<<"$out"; then
    echo "$out"
    exit 1
fi
grep '^Greedy' <<<"$out"
short=$(grep -c '^bar [a-z0-9_]* - .* short: not measured$' <<<"$out")
bars=$(wc -l <tests/bench/bars-reasoner.txt)
[ "$short" = $((bars - 1)) ] || { echo "$short of $bars bars are not measured"; exit 1; }
echo "$bars bars"
