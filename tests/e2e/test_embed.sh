#!/bin/bash
# timeout: 120
# A sentence encoder behind the daemon: with --embed answers that say nearly the same count as one. A folder with
# something wrong is refused by file and name before the daemon listens.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
. tests/e2e/lib_model.sh

demo_model "$work/policy" || fail "no policy"
sed "s/\"vocab_size\": 256/\"vocab_size\": 1276/" tests/golden/models/bert/config.json >"$work/bert.json"
"$build/bin/random_model" "$work/bert.json" "$work/embed" --seed 3 || fail "no encoder"
cp tests/golden/tokenizers/wordpiece.json "$work/embed/tokenizer.json"


certainty() { # likeness, whose vectors: 0 the encoder's if there is one, 1 the policy model's
    timeout 60 "$build/examples/reason" --socket "$socket" --max-tokens 12 --answer number --seed 4 \
        --set cap=8 --set likeness="$1" --set likeness_by="$2" sc "Count the ways in which 3 + 4 = 7." |
        sed -n 's/^certainty //p'
}
all() { # whose: the certainty at each likeness
    for likeness in 0 0.3 0.7 0.8 0.9 0.95; do
        echo "$likeness $(certainty $likeness "$1")"
    done
}
differ() { ! cmp -s "$work/$1" "$work/$2"; }

daemon_start --policy "$work/policy" --embed "$work/embed" || fail "the daemon does not start"
grep -q 'embed: BertModel, 2 layers of 64' "$work/daemon.log" || fail "the log does not name the encoder"
all 0 >"$work/encoder"
all 1 >"$work/states"
[ "$(awk 'NF == 2' "$work/encoder" "$work/states" | wc -l)" = 12 ] || fail "results are missing"
[ "$(awk '{ print $2 }' "$work/encoder" | sort -u | wc -l)" -gt 1 ] || fail "no two answers are ever alike"
differ encoder states || fail "the encoder's vectors group as the policy's do"
daemon_stop
daemon_start --policy "$work/policy" || fail "the daemon does not start without"
all 0 >"$work/without"
differ without states && fail "without an encoder the policy's vectors are not taken"
daemon_stop
echo "answers are grouped by the encoder's vectors, and by the policy's where there is none"

refused() { # words of the message
    daemon_start --policy "$work/policy" --embed "$work/embed" && fail "starts with a wrong encoder"
    daemon_pid=
    for word in "$@"; do
        grep -qF -- "$word" "$work/daemon.log" || fail "the log does not say $word"
    done
}
mv "$work/embed/tokenizer.json" "$work/tokenizer"
refused "$work/embed/tokenizer.json"
cp tests/golden/tokenizers/llama3.json "$work/embed/tokenizer.json"
refused "$work/embed/tokenizer.json"
mv "$work/tokenizer" "$work/embed/tokenizer.json"
sed -i 's/"intermediate_size": 96/"intermediate_size": 97/' "$work/embed/config.json"
refused "$work/embed" intermediate
rm -r "$work/embed"
refused "$work/embed"
echo "wrong encoders are refused by name"
