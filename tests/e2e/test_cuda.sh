#!/bin/bash
# timeout: 420
# The daemon and GPUs. Without a driver: the CPU is taken and the log says why, or with [engine] backend = cuda the
# start is refused. Over the emulated device (tests/gpu/emulate): the same tokens as on the CPU, on one rank and on
# two; too little memory is refused before weights are read; a GPU that fails ends the daemon with 74 and words.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
. tests/e2e/lib_model.sh
emulated=$build/lib/emulated
[ -e "$emulated/libdynasor-cuda.so" ] || { echo "no emulated device in this build" && exit 77; }
mkdir "$work/none" "$work/locks"

daemon() { # folder of libraries, arguments
    daemon_with=(env LD_LIBRARY_PATH="$1")
    daemon_start --set engine.backend=auto --set engine.lock_directory="$work/locks" --set engine.batch_rows_max=16 \
        --set engine.batch_tokens_max=32 --set engine.kv_bytes=4194304 --set engine.float32=1 --policy "$work/model" "${@:2}"
}
says() { grep -qF -- "$1" "$work/daemon.log" || fail "the log does not say \"$1\""; }
ended() { # status, words
    wait $daemon_pid
    local status=$?
    daemon_pid=
    [ $status = "$1" ] || fail "the daemon ended with $status, not $1"
    says "$2"
}
tokens() { # of each of two programs
    "$build/examples/stream" --socket "$socket" --seed 42 --max-tokens "${1:-10}" --programs 2 "the heart of the" 2>&1 |
        awk '/ position / { n = $2; sub(/^.*: */, ""); t[n] = t[n] " " $0 } END { print t[1]; print t[2] }'
}

demo_model "$work/model" || fail "no model"

daemon "$work/none" --set engine.backend=cpu || fail "no start on the CPU"
tokens >"$work/wanted"
[ "$(wc -w <"$work/wanted")" -gt 10 ] || fail "the CPU writes nothing"
daemon_stop
grep -q GPU "$work/daemon.log" && fail "backend = cpu looks for GPUs"

ln -s /nowhere/libcuda.so.1 "$work/none/libcuda.so.1"
if ! ldconfig -p | grep -q 'libcuda\.so\.1'; then
    daemon "$work/none" || fail "auto does not fall back to the CPU"
    says 'no GPU is used: no NVIDIA driver: libcuda.so.1'
    daemon_stop
    daemon "$work/none" --set engine.backend=cuda && fail "backend = cuda starts without a driver"
    ended 71 '[engine] backend = cuda: no NVIDIA driver: libcuda.so.1'
    echo "without a driver: the CPU, or no start"
fi
daemon "$emulated" --set engine.backend=gpu && fail "backend = gpu is accepted"
ended 78 '[engine] backend = gpu: accepted auto, cpu or cuda'

for ranks in 1 2; do
    daemon "$emulated" --set engine.ranks=$ranks || fail "no start on $ranks emulated devices"
    says 'backend cuda sm_80'
    says 'GPU 0 (Fake 0, compute capability 8.0)'
    tokens >"$work/got"
    diff "$work/wanted" "$work/got" >"$work/diff.log" || fail "tokens differ from the CPU's, $ranks ranks"
    daemon_stop
done
echo "the emulated device writes the CPU's tokens, on one rank and on two"

demo_reward "$work/reward" || fail "no reward model"
daemon "$emulated" --reward "$work/reward" --set engine.reward_device=1 || fail "no start of two roles on two devices"
says 'GPU 0 (Fake 0, compute capability 8.0), GPU 1 (Fake 1, compute capability 8.0)'
grep -q 'memory of GPU 0: policy: weights [0-9]* MiB, caches [0-9]* MiB; a step' "$work/daemon.log" &&
    grep -q 'memory of GPU 1: reward: weights [0-9]* MiB, caches [0-9]* MiB; a step' "$work/daemon.log" ||
    fail "the log does not say how memory is divided"
[ "$(find "$work/locks" -type f | wc -l)" = 2 ] || fail "not a lock for each GPU"
"$build/examples/reason" --socket "$socket" --seed 1 --max-tokens 6 --set cap=2 best_of_n "the heart" >"$work/scored" ||
    fail "no best of two"
daemon_stop
daemon "$work/none" --set engine.backend=cpu --reward "$work/reward" || fail "no start on the CPU"
"$build/examples/reason" --socket "$socket" --seed 1 --max-tokens 6 --set cap=2 best_of_n "the heart" >"$work/wanted.scored"
daemon_stop
# A score's last digits are a backend's own.
for f in wanted.scored scored; do
    grep -q '^reward ' "$work/$f" || fail "nothing is scored"
    awk '$1 == "reward" { $2 = sprintf("%.3f", $2) } { print }' "$work/$f" >"$work/$f.rounded"
done
diff "$work/wanted.scored.rounded" "$work/scored.rounded" >"$work/diff.log" || fail "the best of two differs from the CPU's"
echo "a reward model on a device of its own"

daemon "$emulated" --set engine.replicas=2 || fail "no start of 2 replicas"
says 'engine 0: GPU 0 (Fake 0, compute capability 8.0), GPU 1 (Fake 1, compute capability 8.0)'
grep -q 'engine 0: memory of GPU 0: policy: ' "$work/daemon.log" &&
    grep -q 'engine 1: memory of GPU 1: policy: ' "$work/daemon.log" || fail "the log does not say which replica is where"
tokens 4 >"$work/got"
cut -d' ' -f1-5 "$work/wanted" | diff - "$work/got" >"$work/diff.log" || fail "tokens differ from the CPU's, 2 replicas"
daemon_stop
EMULATED_DEVICES=5 EMULATED_NCCL=1 daemon "$emulated" --set engine.device=1 --set engine.replicas=2 --set engine.ranks=2 ||
    fail "no start of 2 replicas of 2 ranks"
says 'engine 1: memory of each of GPUs 3 to 4: policy: '
tokens 2 >"$work/got"
cut -d' ' -f1-3 "$work/wanted" | diff - "$work/got" >"$work/diff.log" || fail "tokens differ from the CPU's, 2 replicas of 2 ranks"
daemon_stop
[ "$(find "$work/locks" -type f | wc -l)" = 5 ] || fail "not a lock for each GPU"
echo "replicas on devices of their own, with a group each"

daemon "$emulated" --set engine.backend=cuda --set engine.ranks=4 && fail "4 ranks on 2 devices"
ended 71 '[engine] ranks: GPU 2: there are GPUs 0 to 1'
daemon "$emulated" --set engine.backend=cuda --set engine.replicas=3 && fail "3 replicas on 2 devices"
ended 71 '[engine] replicas: GPU 2: there are GPUs 0 to 1'
daemon "$emulated" --reward "$work/reward" --set engine.reward_device=2 && fail "a reward model on GPU 2 of 2"
ended 71 '[engine] reward_device: GPU 2: there are GPUs 0 to 1'
daemon "$emulated" --set engine.device=7 && fail "GPU 7 of 2, though auto"
ended 71 '[engine] device: GPU 7: there are GPUs 0 to 1'
daemon "$emulated" --reward "$work/reward" --set engine.ranks=2 --set engine.reward_device=1 && fail "GPU 1 is given twice"
ended 78 '[engine] reward_device = 1: accepted 0, to share GPUs 0 to 1 with the policy, or another than these'
daemon "$emulated" --set engine.reward_device=1 && fail "a device for no reward model"
ended 78 '[engine] reward_device = 1: accepted only with reward, a model'
EMULATED_BYTES=4000000 daemon "$emulated" && fail "it starts with too little memory"
ended 71 'for each rank, the GPU has 3'

# In the third decode step: at the start no graph is launched.
EMULATED_FAIL_GRAPH=3 daemon "$emulated" --set engine.backend=cuda || fail "it fails too early"
"$build/examples/stream" --socket "$socket" --seed 1 --max-tokens 1000 "the" >"$work/stream.log" 2>&1 &
client=$!
ended 74 'CUDA device 0:'
kill $client 2>/dev/null # it waits for the next daemon
echo "a GPU that fails ends the daemon with 74"

# A step that the second replica serves, of one of two programs. served WORDS: what the daemon must say
served() {
    EMULATED_GRAPH_DEVICE=1 daemon "$emulated" --set engine.backend=cuda --set engine.replicas=2 || fail "it fails too early"
    "$build/examples/stream" --socket "$socket" --seed 1 --max-tokens 1000 --programs 2 "the" >"$work/stream.log" 2>&1 &
    client=$!
    ended 74 "$1"
    kill $client 2>/dev/null # it waits for the next daemon
}
# A fault of the emulation is the whole process's, and so is its clock that hastens: the first replica may notice first.
EMULATED_FAIL_GRAPH=3 served 'the device of rank '
says 'CUDA device 1:'
EMULATED_HANG_GRAPH=3 served "waiting for the device's work: Connection timed out"
echo "a GPU of the second replica that fails or hangs in a step ends the daemon with 74"

# At calls all over the start, for good or without an end; what hangs is not waited for when it is given up.
start() {
    daemon "$emulated" --set engine.backend=cuda --set engine.ranks=2 --set engine.replicas=2
}
export EMULATED_DEVICES=4 EMULATED_NCCL=1
call=1 starts=0
while [ $starts -lt 9 ]; do
    EMULATED_FAIL_CALL=$call start && fail "it starts, though call $call failed"
    ended 74 'CUDA device '
    call=$((call + 9 + call / 2)) starts=$((starts + 1))
done
for call in 40 300; do
    EMULATED_HANG_CALL=$call start && fail "it starts, though the devices hang from call $call on"
    ended 74 'CUDA device '
done
unset EMULATED_DEVICES EMULATED_NCCL
EMULATED_FAIL_CALL=350 daemon "$emulated" --set engine.backend=cuda --set engine.batch_rows_max=1 --set engine.replicas=2 &&
    fail "it starts, though the second replica failed"
ended 74 'error: replica 1: '
echo "a GPU that fails or hangs while the daemon starts ends it with 74"
