#!/bin/bash
# timeout: 120
# serial
# Shows that the litmus programs see what they are there for: each is compiled again with one place of
# shm/ring.h or shm/bell.h weakened (-DLITMUS_BUG=n) and must then fail. What only ThreadSanitizer can
# see on x86 (a relaxed sequence or credit) is run under it; the rest shows on the plain processor,
# by chance, so it gets several tries.
set -u
cd "$(dirname "$0")/../.." || exit 1
CC=${CC:-gcc}
command -v "${CC%% *}" >/dev/null || { echo "$CC is not installed"; exit 77; }
if [ "$(nproc)" -lt 2 ]; then
    echo 'one core: nothing can be reordered between two'
    exit 77
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/mutants.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
alone=()
setarch -R true 2>/dev/null && alone=(setarch -R) # ThreadSanitizer needs a low address layout
flags='-I. -Iinclude -D_GNU_SOURCE -std=gnu17 -O2 -g'
failed=0

build() { # program bug flags...
    # shellcheck disable=SC2086
    $CC $flags -DLITMUS_BUG="$2" "${@:3}" "tests/litmus/$1.c" -o "$work/$1.$2" -lpthread
}

must_fail() { # program bug tries argument...
    local try
    for ((try = 1; try <= $3; try++)); do
        if ! timeout 40 "${alone[@]}" "$work/$1.$2" "${@:4}" >"$work/out" 2>&1; then
            echo "ok   $1 LITMUS_BUG=$2 is caught at try $try: $(grep -m 1 -oE \
                'data race|lost wake-up|record torn.*|[1-9][0-9]* lost wake-ups' "$work/out")"
            return
        fi
    done
    echo "FAIL $1 LITMUS_BUG=$2 is not caught"
    failed=1
}

for bug in 1 2 3 4; do
    build litmus_bell $bug || exit 1
    must_fail litmus_bell $bug 6 2000000
done
export TSAN_OPTIONS=halt_on_error=1
echo 'int main(void) { return 0; }' >"$work/probe.c"
if ! $CC -fsanitize=thread "$work/probe.c" -o "$work/probe" 2>/dev/null ||
    ! "${alone[@]}" "$work/probe" >"$work/out" 2>&1; then
    echo "[  SKIPPED ] $CC has no working ThreadSanitizer here: its part"
    exit $failed
fi
build litmus_ring 0 -fsanitize=thread || exit 1
"${alone[@]}" "$work/litmus_ring.0" 20000 || { echo 'FAIL the real code'; failed=1; }
for bug in 1 2 3 4 8; do
    build litmus_ring $bug -fsanitize=thread || exit 1
    must_fail litmus_ring $bug 3
done
exit $failed
