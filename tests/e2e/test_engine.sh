#!/bin/bash
# timeout: 120
# The real engine behind the daemon: a model's folder in, and through shared memory exactly the tokens that
# dynasor-generate writes from the same folder, alone and in a crowd, and after a restart. Folders with
# something wrong are refused by file and name before the daemon listens. A NaN among the weights ends the
# programs that meet it, and no other.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
. tests/e2e/lib_model.sh

# Its calls of malloc and the like are counted, but where a sanitizer has them for itself.
allocations=$work/allocations
head -c 8 /dev/zero >"$allocations"
case $build in
*/asan | */tsan | */fuzz) ;;
*) daemon_with=(env "LD_PRELOAD=$build/lib/count_malloc.so" "DYNASOR_BENCH_ALLOCATIONS=$allocations") ;;
esac
allocated() { od -An -tu8 "$allocations" | tr -d ' '; }

demo_model "$work/model" || fail "no model"
prompt="Count the ways in which 3 + 4 = 7."
programs=6
for n in $(seq $programs); do
    "$build/bin/dynasor-generate" "$work/model" --ids --seed $((41 + n)) --max-tokens 60 -p "$prompt" \
        2>"$work/generate.log" || fail "dynasor-generate"
done | sed 's/ *$//' >"$work/wanted"
[ "$(wc -l <"$work/wanted")" = $programs ] || fail "dynasor-generate wrote $(wc -l <"$work/wanted") lines"
[ "$(sort -u "$work/wanted" | wc -l)" = $programs ] || fail "seeds do not change the tokens"

# What ends a text, biases and signals, on the most probable tokens.
greedy() { # arguments
    "$build/bin/dynasor-generate" "$work/model" --temperature 0 --max-tokens 40 --ignore-eos -p "$prompt" "$@" \
        2>"$work/generate.log"
}
ids=$(greedy --ids) && text=$(greedy) || fail "dynasor-generate"
fifth=$(cut -d' ' -f5 <<<"$ids")
[ "$(greedy --ids --stop-token "$fifth")" = "$(sed "s/\\b$fifth\\b.*/$fifth/" <<<"$ids")" ] ||
    fail "--stop-token $fifth does not end $ids there"
begin=${text:0:12} stop=${text:12:7}
got=$(greedy --stop "no such text" --stop "$stop")
[ "$got" = "${text%%"$stop"*}" ] || fail "--stop '$stop' does not end '$begin$stop' there but at '$got'"
first=${ids%% *}
[ "$(greedy --ids --bias "$first:-1000" | cut -d' ' -f1)" != "$first" ] || fail "--bias does not forbid $first"
[ "$(greedy --ids --bias "$fifth:1000" | xargs -n1 | sort -u)" = "$fifth" ] || fail "--bias does not force $fifth"
awk -v id="$fifth" '$1 == "signal" { n++; if ($4 != id || $5 >= -0.01) exit 1 } END { exit n != 40 }' \
    <(greedy --signals --bias "$fifth:1000" >/dev/null; cat "$work/generate.log") ||
    fail "--signals are not of the model's own distribution: $(cat "$work/generate.log")"
greedy --signals -n 2 >/dev/null || fail "--signals with two branches"
for branch in 0 1; do
    [ "$(awk -v b=$branch '$1 == "signal" && $2 == b && $3 == n++ && $5 <= 0 && $6 >= 0 { print $4 }' \
        "$work/generate.log" | xargs)" = "$(xargs <<<"$ids")" ] || fail "--signals of branch $branch"
done
wrong() { # status, words in the message, arguments
    greedy "${@:3}" >/dev/null
    [ $? = "$1" ] || fail "${*:3} is not refused with $1"
    grep -qF -- "$2" "$work/generate.log" || fail "${*:3}: $(cat "$work/generate.log")"
}
wrong 2 'ID:VALUE' --bias 7
wrong 2 '-1000 to 1000' --bias 7:1001
wrong 2 '1 to 128 bytes' --stop ''
wrong 2 'at most 8' --stop a --stop b --stop c --stop d --stop e --stop f --stop g --stop h --stop i
wrong 1 'ids are below' --stop-token 4000000
wrong 1 'ids are below' --bias 4000000:1
wrong 1 '--chat=FAMILY takes llama-2, llama-3' --chat
echo "dynasor-generate stops, biases and says its signals"

stream() { # programs seed
    "$build/examples/stream" --socket "$socket" --seed "$2" --max-tokens 60 --programs "$1" "$prompt" \
        2>"$work/stream.log" |
        awk '/ position / { n = $2; sub(/^.*: */, ""); t[n] = t[n] (t[n] == "" ? "" : " ") $0 }
             END { for (n = 1; n in t; n++) print t[n] }'
}
for ranks in 1 2; do
    daemon_start --policy "$work/model" --set engine.ranks=$ranks --set engine.float32=$((ranks - 1)) ||
        fail "the daemon does not start with $ranks ranks"
    grep -q 'policy: LlamaForCausalLM' "$work/daemon.log" || fail "the log does not name the model"
    grep -q 'no template that we know; \[engine\] chat takes llama-2, llama-3' "$work/daemon.log" ||
        fail "the log does not name the chat templates"
    if [ $ranks = 1 ]; then
        before=$(allocated)
        [ ${#daemon_with[@]} = 0 ] || [ "$before" -gt 0 ] || fail "the daemon's allocations are not counted"
        for n in $(seq $programs); do stream 1 $((41 + n)); done >"$work/alone"
        stream $programs 42 >"$work/crowd"
        [ "$(allocated)" = "$before" ] || fail "$(($(allocated) - before)) allocations while serving"
        diff "$work/wanted" "$work/alone" >"$work/diff.log" || fail "tokens differ, alone"
        diff "$work/wanted" "$work/crowd" >"$work/diff.log" || fail "tokens differ, in a crowd"
        "$build/examples/hello" --socket "$socket" "$prompt" >"$work/hello" || fail "hello"
        "$build/bin/dynasor-generate" "$work/model" --seed 0 --max-tokens 64 -p "$prompt" \
            >"$work/text" 2>"$work/generate.log" || fail "dynasor-generate"
        [ "$(wc -c <"$work/text")" -gt 64 ] || fail "dynasor-generate writes next to nothing"
        sed '$d' "$work/hello" | cmp - "$work/text" >"$work/diff.log" 2>&1 || fail "hello's text: $(cat "$work/hello")"
        iconv -f UTF-8 -t UTF-8 "$work/hello" >/dev/null || fail "hello's text is not UTF-8"
    else
        [ "$(stream 2 42 | wc -w)" -gt 2 ] || fail "two ranks write nothing"
    fi
    daemon_stop
done
echo "the daemon's tokens are dynasor-generate's, alone and in a crowd"

# Two engines with the same model: which one a program is on does not show. A vote on each, and on one.
vote() {
    {
        for n in 1 2 3; do
            "$build/examples/reason" --socket "$socket" --seed $n --max-tokens 12 --set cap=3 sc "$prompt" &
        done
        wait
    } | sort
}
daemon_start --policy "$work/model" || fail "the daemon does not start"
vote >"$work/wanted.votes"
daemon_stop
grep -q . "$work/wanted.votes" || fail "nobody votes"
daemon_start --policy "$work/model" --set engine.replicas=2 --set engine.threads=2 ||
    fail "the daemon does not start with 2 replicas"
for engine in 0 1; do
    grep -q "engine $engine: policy: LlamaForCausalLM" "$work/daemon.log" || fail "the log does not name engine $engine"
done
before=$(allocated)
stream $programs 42 >"$work/crowd"
vote >"$work/votes"
[ "$(allocated)" = "$before" ] || fail "$(($(allocated) - before)) allocations while serving"
diff "$work/wanted" "$work/crowd" >"$work/diff.log" || fail "tokens differ on 2 replicas"
diff "$work/wanted.votes" "$work/votes" >"$work/diff.log" || fail "votes differ on 2 replicas"
daemon_stop
echo "two replicas write what one writes"

# One token's embedding is NaN: programs with it in their prompt end NUMERIC, the others write what they
# write without. The token is one that none of them writes. The folder is one of links, like a download cache.
spoil() { # file token
    local n begin
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    begin=$(head -c $((8 + n)) "$1" | tail -c +9 |
        sed 's/.*"model.embed_tokens.weight":{[^}]*"data_offsets":\[\([0-9]*\),.*/\1/')
    for _ in $(seq 128); do printf '\xc0\x7f'; done |
        dd of="$1" bs=1 seek=$((8 + n + begin + $2 * 256)) conv=notrunc status=none
}
bad=
for letter in '!' '#' '$' '%' '&' ';' '@'; do
    id=$(sed -n "s/.*\"[$letter]\":\([0-9]*\)[,}].*/\1/p" "$work/model/tokenizer.json")
    [ -n "$id" ] && ! grep -qw -- "$id" "$work/wanted" && bad=$letter && break
done
[ -n "$bad" ] || fail "every candidate for the bad token is written by a program"
blobs=$work/cache/blobs links=$work/cache/snapshots/0a1b2c
mkdir -p "$blobs" "$links"
for file in config.json tokenizer.json model.safetensors; do
    cp "$work/model/$file" "$blobs/${file%%.*}" && ln -s "../../blobs/${file%%.*}" "$links/$file"
done
spoil "$blobs/model" "$id" || fail "cannot edit the weights"
cmp -s "$blobs/model" "$work/model/model.safetensors" && fail "the weights are as they were"
daemon_start --policy "$links" || fail "the daemon does not start on links"
stream $programs 42 >"$work/beside" &
beside=$!
for n in 1 2 3; do
    "$build/examples/stream" --socket "$socket" --seed "$n" --max-tokens 60 "$bad" >"$work/numeric" 2>&1 &&
        fail "a program with $bad in its prompt is done"
    grep -q 'ended NUMERIC after 0 tokens' "$work/numeric" || fail "$(cat "$work/numeric")"
done
wait $beside
diff "$work/wanted" "$work/beside" >"$work/diff.log" || fail "tokens differ beside a program that met NaN"
stream $programs 42 >"$work/after"
diff "$work/wanted" "$work/after" >"$work/diff.log" || fail "tokens differ after a program that met NaN"
daemon_stop
echo "NaN ended its programs NUMERIC and changed no other"

# SIGTERM in the middle of a step: it is finished, nothing is left half done.
daemon_start --policy "$work/model" || fail "the daemon does not start again"
streams=()
for n in 1 2 3 4; do
    "$build/examples/stream" --socket "$socket" --seed "$n" --max-tokens 1900 --programs 8 "$prompt" \
        >/dev/null 2>&1 &
    streams+=($!)
done
sleep 0.5
daemon_stop
kill "${streams[@]}" 2>/dev/null # they wait for the next daemon
echo "SIGTERM under load ended it with status 0"

refused() { # words in the message, then the daemon's arguments after --
    local words=()
    while [ "$1" != -- ]; do words+=("$1") && shift; done
    shift
    timeout 20 "$build/bin/dynasord" --config /dev/null --set daemon.socket_path="$socket" \
        --set daemon.control_path="$control" --set engine.backend=cpu "$@" >"$work/refused.log" 2>&1 &&
        fail "accepted: $*"
    for word in "${words[@]}"; do
        grep -qF -- "$word" "$work/refused.log" || fail "the message for $* does not say $word"
    done
    [ ! -S "$socket" ] || fail "listens: $*"
}
refused 'no model' --policy --simulate --
refused "$work/none" --policy -- --policy "$work/none"
refused simulate policy -- --policy "$work/model" --simulate
broken() { # name: a fresh copy to break
    rm -rf "$work/$1" && cp -r "$work/model" "$work/$1"
}
broken no-config && rm "$work/no-config/config.json"
refused config.json -- --policy "$work/no-config"
broken no-tokens && rm "$work/no-tokens/tokenizer.json"
refused tokenizer.json -- --policy "$work/no-tokens"
broken cut && truncate -s -100 "$work/cut/model.safetensors"
refused model.safetensors -- --policy "$work/cut"
broken other && sed -i 's/"num_hidden_layers": 3/"num_hidden_layers": 4/' "$work/other/config.json"
refused 'model.layers.3' "$work/other: " -- --policy "$work/other"
broken strange && sed -i 's/"vocab_size"/"alibi": true, "vocab_size"/' "$work/strange/config.json"
refused alibi config.json -- --policy "$work/strange"
refused "context of 1000000" 2048 -- --policy "$work/model" --set engine.context_tokens=1000000
refused "$work/model: " 'cannot be split over 4 ranks' -- --policy "$work/model" --set engine.ranks=4 \
    --set engine.threads=4
refused '[engine] threads = 1: accepted 4 to 1024 with [engine] ranks = 4' -- --policy "$work/model" \
    --set engine.ranks=4 --set engine.threads=1
refused '[engine] threads = 1: accepted 2 to 1024 with [engine] ranks = 1 and replicas = 2' -- --policy "$work/model" \
    --set engine.replicas=2 --set engine.threads=1
refused '[engine] replicas = 9: accepted 1 to 8 replicas' -- --policy "$work/model" --set engine.replicas=9
refused '[engine] replicas = 8: accepted 1 to 4 with ranks = 2' -- --policy "$work/model" --set engine.replicas=8 \
    --set engine.ranks=2
# A reward model reads the policy's tokens: it must have them all, and mean the same by each.
demo_reward "$work/other-tokens" || fail "no reward model"
sed -i 's/"0":15,"1":16/"1":15,"0":16/' "$work/other-tokens/tokenizer.json"
cmp -s "$work/other-tokens/tokenizer.json" "$work/model/tokenizer.json" && fail "the tokenizers are the same"
refused "$work/other-tokens: its tokenizer differs from the policy's at token 15" -- \
    --policy "$work/model" --reward "$work/other-tokens"
refused 'reward-process: its vocabulary has 256 tokens, fewer' -- \
    --policy "$work/model" --reward tests/golden/models/reward-process
echo "folders with something wrong were refused by name"
