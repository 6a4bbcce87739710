#!/bin/bash
# `make check-gpu`: puts the tests that need a GPU with all that they open into one folder, $DYN_BUILD/gpu, which runs
# by itself where there is a driver: copy it there and start `./run [part of a name ...]`. Refused above 60 MB.
# Programs, what they load besides the C library, libdynasor-cuda.so, golden models, the shipped model.
set -eu
cd "$(dirname "$0")/../.."
build=${DYN_BUILD:-$PWD/build}
to=$build/gpu
rm -rf "$to"
mkdir -p "$to/lib" "$to/tests/gpu" "$to/tests/golden" "$to/tools/model/dynasor-5m"
for source in tests/gpu/test_*.c; do
    program=$build/tests/gpu/$(basename "$source" .c)
    cp "$program" "$to/tests/gpu/"
    ldd "$program" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libpthread|libdl)\.so' |
        while read -r library; do cp -n "$library" "$to/lib/" || true; done
done
cp -n "$(gcc -print-file-name=libstdc++.so.6)" "$(gcc -print-file-name=libgcc_s.so.1)" "$to/lib/"
[ ! -e "$build/lib/libdynasor-cuda.so" ] || cp "$build/lib/libdynasor-cuda.so" "$to/lib/"
cp -r tests/golden/models "$to/tests/golden/"
[ ! -d tools/model/dynasor-5m/policy ] || cp -r tools/model/dynasor-5m/policy "$to/tools/model/dynasor-5m/"
cat >"$to/run" <<'RUN'
#!/bin/bash
# Runs the tests beside it on this machine's GPU, or those with one of the arguments in their name: the device
# first, then operations, then models. Status 77 without a GPU, 1 if one fails.
cd "$(dirname "$0")" || exit 1
export DYN_BUILD=$PWD LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
passed=0 failed=0 skipped=0
for name in probe sample ops shapes wide graphs ahead golden; do
    wanted=$([ $# -gt 0 ] || echo yes)
    for part in "$@"; do case test_$name in *"$part"*) wanted=yes ;; esac; done
    [ -n "$wanted" ] || continue
    echo "== test_$name"
    timeout 900 "tests/gpu/test_$name" 2>&1 | tee "test_$name.log"
    status=${PIPESTATUS[0]}
    case $status in
    0) passed=$((passed + 1)) word=ok ;;
    77) skipped=$((skipped + 1)) word=skip ;;
    *) failed=$((failed + 1)) word=FAIL ;;
    esac
    echo "$word test_$name: $(tail -n 1 "test_$name.log")"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] || exit 1
[ $passed != 0 ] || exit 77
RUN
chmod +x "$to/run"
bytes=$(du -sb "$to" | cut -f1)
echo "$to: $((bytes / 1000000)) MB"
[ "$bytes" -le 60000000 ] || { echo "above 60 MB" && exit 1; }
